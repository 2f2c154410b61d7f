"""Two data owners and two rounds by the command line: bundles are merged, and the model is given out again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.models.resolving import resolve_model
from tests.flows.commands import DEMO
from tests.flows.exchange.test_story import COMMON, TUNE, Story

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.nightly, pytest.mark.timeout(1800)]


class Rounds(Story):
    """The story of one data owner, and a second one."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ward = root / "ward"
        self.ward.mkdir()
        (self.ward / "ward.toml").write_text(
            COMMON.format(model="", data=DEMO / "task", home=self.ward / "home").replace(
                "num_train = 64", "num_train = 48"
            )
            + TUNE
        )

    def meet(self) -> None:
        """Make the second owner's key, and trust in it."""
        self.keys()
        self.run(self.ward, "keys", "new", "--name", "ward")
        self.run(self.ward, "keys", "trust", str(self.acme / "acme.pub"))
        self.run(self.acme, "keys", "trust", str(self.ward / "ward.pub"))

    def exchange(self, settings: str, number: int) -> list[str]:
        """Give both an emulator, have it tuned, and return the folders that came back, in the owner's folder."""
        back = []
        for folder, name in ((self.clinic, "clinic"), (self.ward, "ward")):
            emulator = f"for-{name}-{number}"
            self.run(self.acme, "emulate", settings, "--to", name, "--out", emulator)
            shutil.copytree(self.acme / emulator, folder / emulator)
            returned = f"from-{name}-{number}"
            self.run(folder, "tune", emulator, f"{name}.toml", "--out", returned)
            shutil.copytree(folder / returned, self.acme / returned)
            back.append(returned)
        return back


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    """The story up to the merged model."""
    found = Rounds(tmp_path_factory.mktemp("rounds"))
    found.meet()
    back = found.exchange("owner.toml", 1)
    found.run(found.acme, "plug-in", *back, "--out", "merged", "--merge", "mean", "--weights", "64,48", "--accept")
    return found


def test_the_plugged_model_has_the_weighted_mean_of_the_tuned_blocks(rounds: Rounds) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (DEMO / "model", rounds.acme / "merged"))
    clinic, ward = (load_file(rounds.acme / f"from-{name}-1" / "weights.safetensors") for name in ("clinic", "ward"))
    replaced = {name for name in after if not torch.equal(after[name], before[name])}
    assert replaced
    prefix = next(iter(replaced)).partition("layers.")[0] + "layers."
    assert replaced <= {prefix + name for name in clinic}
    for name in clinic:
        expected = (64 * clinic[name].double() + 48 * ward[name].double()) / 112
        torch.testing.assert_close(after[prefix + name].double(), expected, rtol=1e-6, atol=1e-9)


def test_the_ledger_has_one_decision_for_both(rounds: Rounds) -> None:
    entries = json.loads(rounds.run(rounds.acme, "ledger", "--json"))
    states = [(each["party"], each["state"]) for each in entries if each["direction"] == "in"]
    assert states == [("clinic", "accepted"), ("ward", "accepted")]


def test_a_second_round_counts_with_the_first(rounds: Rounds) -> None:
    """The merged model has another digest; of its blocks, the recipients have those of the first round."""
    first = json.loads(rounds.run(rounds.acme, "ledger", "--json"))[0]
    text = (rounds.acme / "owner.toml").read_text().replace(str(rounds.acme / "model"), str(rounds.acme / "merged"))
    kept, tuned = (
        first["blocks"],
        json.loads((rounds.acme / "for-clinic-1" / "manifest.json").read_text())["plan"]["tuned"],
    )
    fixed = text.replace('"crash"', '"fixed"').replace("num_kept = 6", f"num_kept = 6\nkept = {kept}\ntuned = {tuned}")
    (rounds.acme / "second.toml").write_text(fixed)
    back = rounds.exchange("second.toml", 2)
    said = rounds.run(rounds.acme, "plug-in", *back, "--out", "merged-2", "--merge", "ties", "--accept")
    assert "ties of 2" in said
    entries = json.loads(rounds.run(rounds.acme, "ledger", "--json"))
    assert [each["state"] for each in entries if each["direction"] == "in"] == ["accepted"] * 4
    manifest = json.loads((rounds.acme / "for-clinic-2" / "manifest.json").read_text())
    assert manifest["base"]["weights"] == resolve_model(str(rounds.acme / "merged")).weights
    assert manifest["disclosure"]["blocks_so_far"] == kept
    # Other blocks of the model of the second round add to those of the first.
    other = sorted({*range(12)} - {*kept})
    (rounds.acme / "third.toml").write_text(
        text.replace('"crash"', '"fixed"').replace("num_kept = 6", f"num_kept = 6\nkept = {other}\ntuned = {other[:2]}")
    )
    budget = ("--set", "exchange.budget=0.7", "--set", "plan.share=none")
    said = rounds.run(rounds.acme, "emulate", "third.toml", "--to", "clinic", "--out", "third", *budget, code=3)
    assert "would have 100.0%" in said


def test_the_merged_model_can_be_unplugged(rounds: Rounds, tmp_path: Path) -> None:
    shutil.copytree(rounds.acme / "merged", tmp_path / "merged")
    rounds.run(rounds.acme, "unplug", str(tmp_path / "merged"))
    assert resolve_model(str(tmp_path / "merged")).weights == resolve_model(str(DEMO / "model")).weights
