"""Tunings with DP-SGD or a limited change, as a stage: their files, and what the summary says of them."""

import pytest
import torch

from tasks.artifacts.tuning import tuning_summary
from tasks.core.errors import SettingError
from tasks.core.privacy.accountant import epsilon_of
from tasks.plug_in import plug_in
from tests.tasks.chain import NUM_ROWS, Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("protected"))


def test_the_summary_of_a_private_tuning_has_its_epsilon(chain: Chain) -> None:
    made = chain.tune(dp_noise=1.5, dp_clip=0.1, dp_delta=1e-3)
    summary = tuning_summary(made)
    assert summary["dp_epsilon"] == epsilon_of(1.5, 4 / NUM_ROWS, 6, 1e-3)
    assert (summary["dp_noise"], summary["dp_clip"], summary["dp_delta"]) == (1.5, 0.1, 1e-3)
    assert made == chain.tune(dp_noise=1.5, dp_clip=0.1, dp_delta=1e-3), "asking again spends nothing"
    plain = chain.tensors(chain.tune(), "tuned")
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in chain.tensors(made, "tuned").items())
    assert "dp_epsilon" not in tuning_summary(chain.tune())


def test_a_limited_change_is_what_the_owner_of_the_model_measures(chain: Chain) -> None:
    def moved(tuning) -> float:
        plugged = plug_in.run(chain.runtime, model=chain.model, plan=tuning, tuned=tuning)
        return max(value for name, value in plugged.summary.items() if name.startswith("moved_block_"))

    free, limited = chain.tune(), chain.tune(max_change=1e-3)
    assert moved(free) > 2e-3
    assert moved(limited) == pytest.approx(1e-3, rel=1e-2)
    assert tuning_summary(limited)["change_before_limit"] == pytest.approx(moved(free), rel=1e-2)


def test_a_delta_of_one_row_is_refused(chain: Chain) -> None:
    with pytest.raises(SettingError, match=r"tune\.dp_delta = 0\.1 with 12 training rows protects nothing"):
        chain.tune(dp_noise=1.0, dp_delta=0.1)


def test_no_file_of_a_finished_tuning_has_the_key(chain: Chain) -> None:
    # Checkpoints are written after every second of six steps; the stage's process has made the key.
    chain.tune(dp_noise=1.0, seed=11)
    files = [path for path in chain.store.root.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in files)
    assert not [str(path) for path in files if b"secret_key" in path.read_bytes()]
