"""Select: the tuning with the lowest validation loss is taken as it is, and no other."""

import json
from pathlib import Path

import pytest

from tasks.core.errors import DivergedError, InputError
from tasks.plug_in import plug_in
from tasks.select_rate import select
from tasks.store.artifacts import Ref
from tests.tasks.chain import Chain

RATES = [1e-60, 2e-2, 1e-3]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("select"))


def selected(chain: Chain, tunings: list[Ref], rates: list[float]) -> Ref:
    return select.run(chain.runtime, tunings=tunings, learning_rates=rates)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but what describes the artifact."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_the_lowest_validation_loss_is_taken_as_it_is(chain: Chain, order: list[int]) -> None:
    rates = [RATES[index] for index in order]
    tunings = [chain.tune(learning_rate=rate, num_steps=12, eval_steps=3) for rate in rates]
    losses = [min(validation_losses(chain, ref)) for ref in tunings]
    best = losses.index(min(losses))
    assert len(set(losses)) == 3
    assert rates[best] != 1e-60, "what learns nothing is not the best"
    ref = selected(chain, tunings, rates)
    assert contents(chain.open(ref)) == contents(chain.open(tunings[best]))
    assert ref.summary["learning_rate"] == rates[best]
    assert [ref.summary[f"validation_loss_at_{rate:g}"] for rate in rates] == losses
    peaks = {name: max(each.summary[name] for each in tunings) for name in own_peaks(tunings[best])}
    own = tunings[best].summary | peaks
    assert {name: ref.summary[name] for name in own} == own
    assert ref.summary["all_seconds"] == pytest.approx(sum(each.summary["seconds"] for each in tunings), abs=1e-3)


def own_peaks(ref: Ref) -> list[str]:
    """Names of its measures of memory."""
    found = [name for name in ref.summary if name.startswith("peak_")]
    assert found
    return found


def validation_losses(chain: Chain, ref: Ref) -> list[float]:
    lines = map(json.loads, (chain.open(ref) / "metrics.jsonl").read_text().splitlines())
    return [line["validation_loss"] for line in lines if "validation_loss" in line]


def test_of_equals_the_first(chain: Chain) -> None:
    tuning = chain.tune(eval_steps=3)
    assert selected(chain, [tuning, tuning], [3e-3, 1e-3]).summary["learning_rate"] == 3e-3


def test_a_tuning_without_validation_cannot_be_chosen(chain: Chain) -> None:
    count = chain.num_artifacts("select")
    with pytest.raises(InputError, match=r"learning rate 0\.001 was not validated.*give tune\.eval_steps"):
        selected(chain, [chain.tune(eval_steps=3), chain.tune()], [1e-2, 1e-3])
    assert chain.num_artifacts("select") == count


@pytest.fixture(scope="module")
def diverged(chain: Chain) -> Ref:
    return chain.tune(learning_rate=1e30, schedule="constant", eval_steps=3, may_diverge=True)


def test_a_rate_at_which_a_tuning_diverges_loses(chain: Chain, diverged: Ref) -> None:
    good = chain.tune(eval_steps=3)
    ref = selected(chain, [diverged, good], [1e30, 1e-3])
    assert (ref.summary["learning_rate"], ref.summary["num_diverged"]) == (1e-3, 1)
    assert contents(chain.open(ref)) == contents(chain.open(good))
    assert "validation_loss_at_1e+30" not in ref.summary
    assert ref.summary["all_seconds"] > good.summary["seconds"]
    assert contents(chain.open(diverged)).keys() <= {"diverged.json", "metrics.jsonl"}, "nothing to be plugged in"


def test_alone_it_is_found_and_ends_the_run_all_the_same(chain: Chain, diverged: Ref) -> None:
    alone = chain.tune(learning_rate=1e30, schedule="constant", eval_steps=3)
    assert alone == diverged, "whether it may diverge changes no number"
    with pytest.raises(DivergedError, match=r"not finite .* rate 1e\+30"):
        plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=alone)


def test_where_all_diverge_the_first_is_told(chain: Chain, diverged: Ref) -> None:
    count = chain.num_artifacts("select")
    with pytest.raises(DivergedError, match=r"at every learning rate .*not finite .* rate 1e\+30"):
        selected(chain, [diverged, diverged], [1e30, 1e29])
    assert chain.num_artifacts("select") == count
