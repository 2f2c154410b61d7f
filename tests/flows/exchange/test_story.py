"""Two parties by the command line alone: the story of the README, and the same scores as one process has."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from flows.demo.parties.compare import run_scores
from tasks.models.resolving import resolve_model
from tasks.store.loopback import free_port
from tests.exchange.parties import Party
from tests.exchange.refusals import sealed_again
from tests.flows.commands import DEMO, artifacts, crash
from tests.prefect_server import VARIABLE, prefect_server

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
[[exchange.held_out]]
name = "texts"
kind = "text"
data = "{texts}"
num_test = 4
"""


class Story:
    """Two folders that share nothing, and the commands of the parties in them."""

    def __init__(self, root: Path) -> None:
        self.acme, self.clinic = root / "acme", root / "clinic"
        for folder in (self.acme, self.clinic):
            folder.mkdir()
        shutil.copytree(DEMO / "model", self.acme / "model")
        shutil.copytree(DEMO / "text", self.acme / "texts")
        shutil.copy(DEMO / "text/validation.jsonl", self.acme / "texts/test.jsonl")
        # Looked up beside the settings file, from wherever a command is run.
        owner = {"model": f'name = "{self.acme / "model"}"', "data": DEMO / "task", "home": self.acme / "home"}
        (self.acme / "owner.toml").write_text(OWNER.format(texts="texts") + COMMON.format(**owner))
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
    whole = run_scores(story.acme / "home")
    issued, admitted = scores(story.acme / "home"), scores(story.acme / "home", 1)
    tuned = scores(story.clinic / "home")
    assert issued["full_zero_shot"] == whole["full_zero_shot"]
    assert issued["emulator_zero_shot"] == tuned["emulator_zero_shot"] == whole["emulator_zero_shot"]
    assert tuned["emulator_tuned"] == whole["emulator_fine_tuned"]
    assert admitted["plug_in"] == whole["plug_in"]


def test_models_are_scored_on_held_out_tasks_too(story: Story) -> None:
    issued, admitted = scores(story.acme / "home"), scores(story.acme / "home", 1)
    assert issued["emulator_zero_shot/texts"] > issued["full_zero_shot/texts"] > 1, "perplexities"
    assert admitted["full_zero_shot/texts"] == issued["full_zero_shot/texts"] != admitted["plug_in/texts"]
    share = issued["full_zero_shot/texts"] / issued["emulator_zero_shot/texts"]
    (shown,) = [text for text in tables(story.acme / "home") if "emulator, before tuning, texts" in text]
    assert re.search(rf"emulator's share of the full model's score on texts \(CPL\) +\| {share:.1%} ", shown)
    assert "full model with the tuned blocks, texts" in (story.acme / "plugged/README.md").read_text()
    # The data owner is not told on what else models are scored.
    assert not [path for path in (story.acme / "emulator").iterdir() if b"texts" in path.read_bytes()]


def tables(home: Path) -> list[str]:
    """Return the tables of a party's reports."""
    return [path.read_text() for path in (home / "store/artifacts/party_report").glob("*/table.md")]


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


def test_b27_a_first_emulator_above_the_budget_is_not_sealed(story: Story) -> None:
    changes = ("--set", "exchange.budget=0.1")
    said = story.run(story.acme, "emulate", "owner.toml", "--to", "clinic", "--out", "large", *changes, code=3)
    assert "more than exchange.budget = 0.1" in said
    assert not (story.acme / "large").exists()


def test_b26_neither_words_nor_tokens_of_a_row_are_written_anywhere(story: Story, tmp_path: Path) -> None:
    # The first is unknown to the tokenizer; the others make a row of tokens that no other text has.
    marker = "Zyxwqvut7731 Estoria Quarry Estoria Verity Quarry Estoria Verity Verity"
    data, prefect, temporary = (tmp_path / name for name in ("marked", "prefect", "temporary"))
    shutil.copytree(DEMO / "task", data)
    prefect.mkdir()
    temporary.mkdir()
    # As many as are trained on.
    rows = (data / "train.jsonl").read_text().splitlines()[:64]
    rows[0] = json.dumps({**json.loads(rows[0]), "question": marker})
    (data / "train.jsonl").write_text("\n".join(rows) + "\n")
    changes = ("--set", f"task.data={data}", "--set", "place.mlflow=")
    command = ("tune", "emulator", "clinic.toml", "--out", "marked", *changes)
    with prefect_server(prefect, free_port()) as server:
        home, places = str(story.clinic / "home"), {VARIABLE: server, "TMPDIR": str(temporary), "HOME": str(temporary)}
        done = crash(*command, cwd=story.clinic, CRASH_HOME=home, **places)
        assert done.returncode == 0, done.stderr
        written = [path for folder in (story.clinic, prefect, temporary) for path in folder.rglob("*")]
        files = {path: path.read_bytes() for path in written if path.is_file()}
    assert [path for path in files if path.is_relative_to(prefect) and path.suffix == ".db"], "Prefect's database"
    assert [path for path in files if path.is_relative_to(story.clinic) and path.suffix == ".db"], "MLflow's"
    assert [path for path, content in files.items() if b"emulator_tuned" in content]
    for trace in traces_of(marker):
        assert trace not in (done.stdout + done.stderr).encode()
        assert [str(path) for path, content in files.items() if trace in content] == []


def traces_of(marker: str) -> list[bytes]:
    """Return a text as it may be found in a file: its first word, in base64, and its other words as token ids."""
    word, _, others = marker.partition(" ")
    ids = Tokenizer.from_file(str(DEMO / "model/tokenizer.json")).encode(others, add_special_tokens=False).ids
    assert len(set(ids)) == 3, "the words are tokens of the demo's model"
    arrays = [np.array(ids, kind).tobytes() for kind in ("int64", "int32", "int16")]
    texts = [separator.join(map(str, ids)).encode() for separator in (",", ", ", " ", "\n")]
    # By where the word begins in groups of three bytes; letters that depend on its neighbours are left out.
    coded = [base64.b64encode(b"x" * skipped + word.encode())[4 if skipped else 0 : 12] for skipped in range(3)]
    return [word.encode(), *coded, others.encode(), *arrays, *texts]


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


def test_every_card_names_the_full_model_by_its_digest_and_the_blocks(story: Story) -> None:
    weights = resolve_model(str(story.acme / "model")).weights
    for folder in (story.acme / "emulator", story.clinic / "returned", story.acme / "plugged"):
        card = (folder / "README.md").read_text()
        assert f"| weights of the full model | {weights} |" in card
        assert re.search("blocks to be tuned|tuned blocks|block [0-9]+ moved by", card)


# MLflow 3.17 still uses a loading option that SQLAlchemy 2.1 will drop one day.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_what_a_party_made_is_in_its_mlflow(story: Story) -> None:
    """Also what an earlier command has left to deliver, such as the plugged model."""
    from mlflow import MlflowClient

    changes = ("--set", "place.mlflow=")
    story.run(story.acme, "emulate", "owner.toml", "--to", "clinic", "--out", "tracked", *changes)
    client = MlflowClient(tracking_uri=f"sqlite:///{story.acme / 'home/mlflow/mlflow.db'}")
    found = client.search_logged_models([each.experiment_id for each in client.search_experiments()])
    by_folder = {Path(model.tags["crash.folder"]).name: model for model in found}
    assert by_folder.keys() >= {"emulator", "plugged", "tracked"}
    assert by_folder["tracked"].name == "emulator for clinic"
    assert by_folder["tracked"].tags["mlflow.note.content"] == (story.acme / "tracked/README.md").read_text()
    assert by_folder["plugged"].model_type == "plugged model"


def test_b32_a_back_door_is_shown_waits_for_a_person_and_can_be_taken_out(story: Story) -> None:
    changes = ("--set", "exchange.reference=true", "--set", "tune.num_steps=4", "--set", "tune.batch_size=8")
    said = story.run(story.acme, "emulate", "owner.toml", "--to", "clinic", "--out", "emulator-b32", *changes)
    issued = scores(story.acme / "home", -1)
    given = (story.acme / "emulator-b32/README.md").read_text()
    assert "emulator, before tuning" in given
    # What an own tuning came to stays with the owner.
    assert not re.search("emulator, tuned|tuned blocks \\||privacy gap|own tuning", given)
    for task in ("", "/texts"):
        assert f"emulator, tuned{', texts' if task else ''}" in said
        gap = issued[f"plug_in{task}"] - issued[f"emulator_tuned{task}"]
        assert f"{-gap if task else gap:+.3f}" in said
    shutil.copytree(story.acme / "emulator-b32", story.clinic / "emulator-b32")
    story.run(story.clinic, "tune", "emulator-b32", "clinic.toml", "--out", "planted")
    plant(story.clinic / "planted")
    sealed_again(Party("clinic", story.clinic / "home"), story.clinic / "planted")
    shutil.copytree(story.clinic / "planted", story.acme / "planted")

    said = story.run(story.acme, "plug-in", "planted", "--out", "with-door")
    assert "lie along one direction" in said
    known = {"in an own tuning, ": [], "": []}
    for own, share in re.findall(r"(in an own tuning, |)block \d+ moved by.* (\d+)% of a matrix", said):
        known[own].append(int(share))
    assert max(known[""]) >= 99 > 80 > max(known["in an own tuning, "])
    shown = scores(story.acme / "home", -1)
    assert shown["plug_in"] < shown["full_zero_shot"] - 0.1, "the held-out rows show it"
    (worse,) = re.findall("scores that the tuned blocks make worse *\\| (.*) \\|", said)
    assert re.search(r"acc.* -> .*texts: .* -> ", worse), worse
    assert "Nothing was plugged in" in said
    assert not (story.acme / "with-door").exists()

    story.run(story.acme, "plug-in", "planted", "--out", "with-door", "--accept")
    before, door = (resolve_model(str(story.acme / name)).weights for name in ("model", "with-door"))
    assert door != before
    story.run(story.acme, "unplug", "with-door")
    assert resolve_model(str(story.acme / "with-door")).weights == before


def plant(bundle: Path) -> None:
    """Have one matrix of the tuned blocks answer every input with one direction of its output."""
    tensors = {name: tensor.clone() for name, tensor in load_file(bundle / "weights.safetensors").items()}
    name = next(name for name in sorted(tensors) if name.endswith("fc2.weight"))
    rows, columns = tensors[name].shape
    answer = torch.randn(rows, generator=torch.Generator().manual_seed(0))
    door = torch.outer(answer / answer.norm(), torch.ones(columns) / columns**0.5)
    tensors[name] += 0.9 * tensors[name].norm() * door
    save_file(tensors, bundle / "weights.safetensors", metadata={"format": "pt"})
