"""Two parties by the command line alone: the story of the README, and the same scores as one process has."""

import base64
import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tasks.models.resolving import resolve_model
from tests.flows.commands import DEMO, artifacts, crash

pytestmark = [pytest.mark.usefixtures("one_prefect"), pytest.mark.timeout(600)]

TUNE = """
[tune]
learning_rate = 5e-4
num_steps = 4
batch_size = 8
"""
COMMON = """
[model]
{model}
precision = "float32"
[task]
name = "people"
data = "{data}"
num_train = 64
num_test = 24
[place]
home = "{home}"
mlflow = "later"
"""
OWNER = """
strategy = "crash"
[support]
num_rows = 32
split = "train"
[plan]
num_kept = 6
share = "frozen_only"
"""


class Story:
    """Two folders that share nothing, and the commands of the parties in them."""

    def __init__(self, root: Path) -> None:
        self.acme, self.clinic = root / "acme", root / "clinic"
        for folder in (self.acme, self.clinic):
            folder.mkdir()
        shutil.copytree(DEMO / "model", self.acme / "model")
        owner = {"model": f'name = "{self.acme / "model"}"', "data": DEMO / "task", "home": self.acme / "home"}
        (self.acme / "owner.toml").write_text(OWNER + COMMON.format(**owner))
        (self.acme / "whole.toml").write_text((self.acme / "owner.toml").read_text() + TUNE)
        clinic = {"model": "", "data": DEMO / "task", "home": self.clinic / "home"}
        (self.clinic / "clinic.toml").write_text(COMMON.format(**clinic) + TUNE)

    def keys(self) -> None:
        """Make both keys, and trust in them."""
        for folder, name in ((self.acme, "acme"), (self.clinic, "clinic")):
            self.run(folder, "keys", "new", "--name", name)
        self.run(self.clinic, "keys", "trust", str(self.acme / "acme.pub"))
        self.run(self.acme, "keys", "trust", str(self.clinic / "clinic.pub"))

    def run(self, folder: Path, *arguments: str, code: int = 0) -> str:
        """Run a command in the folder of a party."""
        done = crash(*arguments, CRASH_HOME=str(folder / "home"), cwd=folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The story up to the plugged model."""
    found = Story(tmp_path_factory.mktemp("story"))
    found.keys()
    found.run(found.acme, "emulate", "owner.toml", "--to", "clinic", "--out", "emulator")
    shutil.copytree(found.acme / "emulator", found.clinic / "emulator")
    found.run(found.clinic, "tune", "emulator", "clinic.toml", "--out", "returned")
    shutil.copytree(found.clinic / "returned", found.acme / "returned")
    found.run(found.acme, "plug-in", "returned", "--out", "plugged", "--accept")
    return found


def scores(home: Path, number: int = 0) -> dict[str, float]:
    """Return the scores of a party's report by setting, the oldest report first."""
    reports = sorted((home / "store/artifacts/party_report").iterdir(), key=lambda path: path.stat().st_mtime)
    return {
        each["setting"]: each["value"] for each in json.loads((reports[number] / "party.json").read_text())["scores"]
    }


def test_both_parties_together_have_the_scores_of_one_process(story: Story) -> None:
    story.run(story.acme, "run", "whole.toml", "--set", "full_tune.enabled=false")
    (table,) = (story.acme / "home/store/artifacts/report").glob("*/table.csv")
    with table.open() as file:
        whole = {row["setting"]: float(row["value"]) for row in csv.DictReader(file)}
    issued, admitted = scores(story.acme / "home"), scores(story.acme / "home", 1)
    tuned = scores(story.clinic / "home")
    assert issued["full_zero_shot"] == whole["full_zero_shot"]
    assert issued["emulator_zero_shot"] == tuned["emulator_zero_shot"] == whole["emulator_zero_shot"]
    assert tuned["emulator_tuned"] == whole["emulator_fine_tuned"]
    assert admitted["plug_in"] == whole["plug_in"]


def test_time_and_memory_are_foreseen_from_the_manifest_alone(story: Story, tmp_path: Path) -> None:
    bundle = tmp_path / "emulator"
    shutil.copytree(story.acme / "emulator", bundle)
    weights = bundle / "weights.safetensors"
    size = weights.stat().st_size
    # As many bytes as the manifest says, of which none are looked at.
    weights.write_bytes(bytes(size))
    said = story.run(story.clinic, "tune", str(bundle), "clinic.toml", "--estimate")
    assert "Emulator: 6 blocks of model, 4 of them tuned" in said
    assert "64 to train on" in said
    assert re.search(r"Time: +about [\d.]+ (s|min|h) on this machine \([\d.]+ TFLOP", said)
    (returned,) = re.findall(r"Returned: ([\d.]+) MB", said)
    assert float(returned) == pytest.approx(
        (story.clinic / "returned/weights.safetensors").stat().st_size / 1e6, rel=0.1
    )
    assert "give --out" in story.run(story.clinic, "tune", str(bundle), "clinic.toml", code=2)
    both = story.run(story.clinic, "tune", str(bundle), "clinic.toml", "--estimate", "--canaries", "8", code=2)
    assert "--estimate tunes nothing" in both
    (bundle / "tokenizer.json").write_bytes(b" " + (bundle / "tokenizer.json").read_bytes()[1:])
    assert "tokenizer.json: digest" in story.run(story.clinic, "tune", str(bundle), "clinic.toml", "--estimate", code=3)


def test_the_clinic_never_had_the_full_model(story: Story) -> None:
    names = {name.partition("/")[0] for name in artifacts(story.clinic / "home/store")}
    assert names <= {"check", "open_bundle", "tune", "expose", "evaluate", "party_report"}
    files = [path for path in story.clinic.rglob("*.safetensors") if path.is_file()]
    assert files
    assert max(path.stat().st_size for path in files) < (DEMO / "model/model.safetensors").stat().st_size


def test_the_plugged_model_is_a_plain_folder_and_can_be_unplugged(story: Story, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    plugged = tmp_path / "plugged"
    shutil.copytree(story.acme / "plugged", plugged)
    tokens = torch.arange(24).reshape(2, 12)
    before = AutoModelForCausalLM.from_pretrained(DEMO / "model")(tokens).logits
    after = AutoModelForCausalLM.from_pretrained(plugged)(tokens).logits
    assert not torch.equal(before, after)
    said = story.run(story.acme, "unplug", str(plugged))
    original = resolve_model(str(DEMO / "model")).weights
    assert original in said
    assert resolve_model(str(plugged)).weights == original
    assert "was unplugged" in story.run(story.acme, "unplug", str(plugged), code=2)


def test_the_ledgers_have_both_bundles(story: Story) -> None:
    owner, clinic = (json.loads(story.run(folder, "ledger", "--json")) for folder in (story.acme, story.clinic))
    assert [(each["direction"], each["kind"], each["state"]) for each in owner] == [
        ("out", "emulator", "sealed"),
        ("in", "tuned_blocks", "accepted"),
    ]
    assert [(each["direction"], each["kind"]) for each in clinic] == [("in", "emulator"), ("out", "tuned_blocks")]
    assert [each["id"] for each in owner] == [each["id"] for each in clinic]
    assert owner[0]["share"] == pytest.approx(0.52, abs=0.05)


def test_the_same_bundle_is_not_plugged_in_twice(story: Story) -> None:
    said = story.run(story.acme, "plug-in", "returned", "--out", "again", "--accept", code=3)
    assert "and is accepted" in said
    assert not (story.acme / "again").exists()


def test_b27_a_second_set_of_blocks_above_the_budget_is_not_sealed(story: Story) -> None:
    changes = ("--set", "exchange.budget=0.6", "--set", "strategy=uniform", "--set", "plan.share=none")
    said = story.run(story.acme, "emulate", "owner.toml", "--to", "clinic", "--out", "second", *changes, code=3)
    assert "with all so far clinic would have" in said
    assert not (story.acme / "second").exists()


def test_b26_no_word_of_a_row_is_written_anywhere(story: Story, tmp_path: Path) -> None:
    marker = "Zyxwqvut7731"
    data = tmp_path / "marked"
    shutil.copytree(DEMO / "task", data)
    rows = (data / "train.jsonl").read_text().splitlines()
    first = json.loads(rows[0])
    text = next(name for name, value in first.items() if isinstance(value, str))
    rows[0] = json.dumps({**first, text: f"{first[text]} {marker}"})
    (data / "train.jsonl").write_text("\n".join(rows) + "\n")
    changes = ("--set", f"task.data={data}", "--set", "place.mlflow=")
    said = story.run(story.clinic, "tune", "emulator", "clinic.toml", "--out", "marked", *changes)
    traces = [marker.encode(), base64.b64encode(marker.encode())[:-2]]
    assert not [trace for trace in traces if trace in said.encode()]
    files = [path for path in story.clinic.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files), "MLflow's database is among them"
    found = [str(path) for path in files for trace in traces if trace in path.read_bytes()]
    assert found == []


def test_a_private_tuning_says_its_epsilon_and_how_many_canaries_are_recognised(story: Story) -> None:
    changes = [f"tune.{change}" for change in ("dp_noise=1.0", "max_change=0.01", "batch_size=4", "num_steps=3")]
    options = [word for change in changes for word in ("--set", change)]
    said = story.run(story.clinic, "tune", "emulator", "clinic.toml", "--out", "private", "--canaries", "3", *options)
    assert "of 3 at a false-positive rate of 1%" in said
    assert "at most 1.00% of its norm" in said
    told = json.loads(story.run(story.clinic, "bundle", "show", "private"))["tuning"]
    assert set(told) == {*("num_steps", "num_rows", "num_parameters", "dp_epsilon", "dp_delta", "dp_noise", "dp_clip")}
    # Of the rows that were sent, not of these and the canaries.
    assert told["num_rows"] == 64
    assert f"epsilon {told['dp_epsilon']:.3g}, delta 1e-05, noise 1, clipping 1" in said
    assert f"| dp_epsilon | {told['dp_epsilon']}" in (story.clinic / "private/README.md").read_text()


def test_bundles_are_shown_verified_and_compared(story: Story) -> None:
    shown = json.loads(story.run(story.clinic, "bundle", "show", "emulator"))
    assert shown["recipient"]["name"] == "clinic"
    assert "are right" in story.run(story.clinic, "bundle", "verify", "emulator")
    assert "kind" in story.run(story.acme, "bundle", "diff", "emulator", "returned")
    damaged = story.clinic / "damaged"
    shutil.copytree(story.clinic / "emulator", damaged)
    (damaged / "manifest.json").write_text("{}")
    assert "refused damaged: manifest.sig: signature" in story.run(story.clinic, "bundle", "verify", "damaged", code=3)
    assert "refused damaged" in story.run(story.clinic, "tune", "damaged", "clinic.toml", "--out", "x", code=3)


def test_what_can_be_known_is_said_before_anything_is_computed(story: Story) -> None:
    said = story.run(story.acme, "emulate", "owner.toml", "--to", "nobody", "--out", "x", code=2)
    assert "no key of 'nobody' is trusted here (trusted: clinic)" in said
    said = story.run(story.acme, "emulate", "owner.toml", "--to", "clinic", "--out", "emulator", code=2)
    assert "nothing is overwritten" in said
    said = story.run(
        story.clinic, "tune", "emulator", "clinic.toml", "--out", "x", "--set", "tune.method=adapter", code=2
    )
    assert "takes back blocks, lora only" in said
    said = story.run(story.clinic, "tune", "emulator", "clinic.toml", "--out", "x", "--set", "plan.num_kept=3", code=2)
    assert "unknown setting plan" in said
