"""Expose: canaries of a tuning that memorises are recognised, those of a private one are not, and nothing is kept."""

import pytest

from tasks.artifacts.exposure import EXPOSURE_FILE, ExposureSummary, exposure_summary
from tasks.core.tuning.method import TuningMethod
from tasks.parties.expose import expose
from tests.tasks.chain import Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("expose"))


def exposed(chain: Chain, num_canaries: int = 8, variant: TuningMethod | None = None, **changes) -> ExposureSummary:
    given = chain.tuning(**changes)
    del given["plan"]
    chosen = {"variant": variant} if variant else {}
    found = expose.run(chain.runtime, **given, **chosen, num_canaries=num_canaries)
    folder = chain.open(found)
    assert EXPOSURE_FILE.read(folder) == exposure_summary(found)
    assert sorted(path.name for path in folder.iterdir()) == ["exposure.json", "manifest.json"]
    return exposure_summary(found)


def test_a_tuning_that_memorises_gives_canaries_away_and_a_private_one_does_not(chain: Chain) -> None:
    long = {"num_canaries": 16, "num_steps": 40, "batch_size": 28, "learning_rate": 2e-2}
    plain, private = exposed(chain, **long), exposed(chain, **long, dp_noise=10.0, dp_clip=0.5)
    assert plain["true_positives"] > 0.7
    assert plain["bits"] > 6
    assert "dp_epsilon" not in plain
    # The noise is another one each time. By guessing, the area of 16 canaries is 0.5 with a standard error of 0.07.
    assert private["true_positives"] < 0.5
    assert private["area"] < 0.85
    assert private["dp_epsilon"] > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["blocks", "lora"])
def test_a_limit_of_the_change_holds_for_the_blocks_that_are_scored(chain: Chain, method: str, precision: str) -> None:
    how = {"variant": TuningMethod(method), "precision": precision, "num_steps": 40, "learning_rate": 1e-2}
    free, limited = exposed(chain, **how), exposed(chain, **how, max_change=1e-6)
    # Blocks that hardly changed say hardly anything; at equal losses, canaries count as those that were not there.
    assert limited["area"] < free["area"]


def test_the_summary_has_numbers_of_all_canaries_together_only(chain: Chain) -> None:
    assert set(exposed(chain)) == {
        *("true_positives", "area", "bits", "num_inside", "num_outside", "num_rows", "seconds")
    }
