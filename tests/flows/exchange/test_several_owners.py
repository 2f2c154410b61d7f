"""Bundles of several data owners by the command line: options, merge, one decision, unplugging, and lineage."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.core.errors import EnvironmentFault
from tasks.exchange.ledger import opened
from tasks.exchange.lineage import relatives
from tasks.models.resolving import resolve_model
from tests.exchange.parties import DEMO
from tests.exchange.several import Several, make_several
from tests.flows.commands import crash

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.timeout(600)]
NAMES = ("clinic", "surgery", "ward")


def plug_in(several: Several, *options: str, code: int = 0) -> str:
    """Run the command with all bundles in the owner's folder."""
    bundles = [str(each) for each in several.bundles]
    done = crash("plug-in", *bundles, *options, "--home", str(several.acme.home), cwd=several.root)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Several:
    return make_several(tmp_path_factory.mktemp("several"), *NAMES)


@pytest.fixture(scope="module")
def said(several: Several) -> str:
    """The output of the command that merges the bundles."""
    return plug_in(several, "--out", "merged", "--merge", "median", "--accept")


def test_options_that_do_not_fit_are_named_and_nothing_is_opened(several: Several) -> None:
    said = plug_in(several, "--out", "x", code=2)
    assert "3 bundles: give --merge and one of mean, trimmed-mean, median, ties" in said
    said = plug_in(several, "--out", "x", "--merge", "mean", "--weights", "1,2", code=2)
    assert "--weights has 2 numbers, and there are 3" in said
    with opened(several.acme.place.ledger) as ledger:
        assert all(each.direction == "out" for each in ledger.entries())


def test_everything_is_said_of_each_owner_and_of_the_merge(said: str) -> None:
    assert "median of 3; 1 at each end of every parameter do not count" in said
    for name in NAMES:
        assert f"Verified: tuned blocks from {name}, sequence 1" in said
        assert f"{name} moved" in said
        assert f"{name} alarms" in said


def test_the_model_has_the_median_of_the_tuned_blocks(several: Several, said: str) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (DEMO, several.root / "merged"))
    replaced = {name for name in after if not torch.equal(after[name], before[name])}
    returned = [load_file(bundle / "weights.safetensors") for bundle in several.bundles]
    prefix = next(iter(replaced)).partition("layers.")[0] + "layers."
    assert {name.removeprefix(prefix) for name in replaced} <= returned[0].keys()
    for name in returned[0]:
        expected = torch.stack([each[name] for each in returned]).median(0).values
        torch.testing.assert_close(after[prefix + name].float(), expected.to(after[prefix + name].dtype).float())


def test_all_are_accepted_once(several: Several, said: str) -> None:
    with opened(several.acme.place.ledger) as ledger:
        assert [each.state for each in ledger.entries()] == ["sealed"] * 3 + ["accepted"] * 3
    assert "is accepted" in plug_in(several, "--out", "x", "--merge", "mean", "--accept", code=3)
    assert not (several.root / "x").exists()


def test_blocks_of_the_merged_model_count_as_those_of_the_original(several: Several, said: str) -> None:
    place = several.acme.place
    before, after = (resolve_model(str(folder)).weights for folder in (DEMO, several.root / "merged"))
    assert before != after
    assert relatives(place.plugged, before) == relatives(place.plugged, after) == {before, after}
    assert relatives(place.plugged, "0" * 64) == {"0" * 64}
    with opened(place.ledger) as ledger:
        party = {several.clinics[0].public.fingerprint: "clinic"}
        assert ledger.disclosed([after], party) == set()
        assert ledger.disclosed(relatives(place.plugged, after), party) == {0, 3, 6, 11}


def test_the_merged_model_is_unplugged_as_any(several: Several, said: str) -> None:
    done = crash("unplug", "merged", "--home", str(several.acme.home), cwd=several.root)
    assert done.returncode == 0, done.stderr
    assert resolve_model(str(several.root / "merged")).weights == resolve_model(str(DEMO)).weights


def test_descent_is_followed_over_rounds_and_never_guessed(tmp_path: Path) -> None:
    for number, (before, after) in enumerate([("a", "b"), ("b", "c"), ("a", "d"), ("x", "y")]):
        folder = tmp_path / f"{number:032x}"
        folder.mkdir()
        described = {"weights_before": before, "weights_after": after}
        (folder / "crash_plug.json").write_text(json.dumps(described))
    assert relatives(tmp_path, "c") == {"a", "b", "c", "d"}
    assert relatives(tmp_path, "y") == {"x", "y"}
    (tmp_path / "partial-z").mkdir()
    assert relatives(tmp_path, "q") == {"q"}
    (tmp_path / f"{1:032x}" / "crash_plug.json").write_text("{")
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        relatives(tmp_path, "c")
