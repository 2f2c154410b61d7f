"""Text to distill on: from folders, from one file, from a data set's loader; refused where it is none."""

import json
from pathlib import Path

import pytest

from tasks.core.errors import EnvironmentFault, InputError
from tasks.data.generic_text import require_long_enough
from tasks.data.hub import text_files
from tasks.data.resolving_text import resolve_text
from tasks.data.tokenize import load_examples
from tasks.models.loading import load_tokenizer
from tests.tasks.chain import write_model

SENTENCE = "Ivan Ingram was born in Solace . "


def write_rows(path: Path, count: int, **more: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": SENTENCE * (n + 1), **more}) + "\n" for n in range(count)))


def test_a_folder_of_two_files_and_a_lone_one(tmp_path: Path) -> None:
    _, model = write_model(tmp_path / "model")
    for suffix in (".jsonl", ".txt"):
        folder = tmp_path / suffix
        for split in ("train", "validation"):
            write_rows(folder / f"{split}{suffix}", 2, part=split)
        text = resolve_text(str(folder))
        rows = load_examples(text, "train", load_tokenizer(model), 16).rows
        assert max(row.num_tokens for row in rows) <= 16
        assert all(len(row.prompt_ids) == 1 for row in rows)
        assert {row.row for row in rows} == ({1, 2} if suffix == ".jsonl" else {1}), "nothing is held out"
        assert text.file("validation") == str(folder / f"validation{suffix}")
    write_rows(tmp_path / "alone" / "train.jsonl", 40)
    alone = resolve_text(str(tmp_path / "alone"))
    numbers = [
        {row.row for row in load_examples(alone, split, load_tokenizer(model), 64).rows}
        for split in ("train", "validation")
    ]
    assert numbers[1] == {1, 2, 3, 4}, "four of 40 are held out"
    assert not numbers[0] & numbers[1]
    assert resolve_text(str(tmp_path / "alone" / "train.jsonl")).digest == alone.digest


def test_the_same_text_elsewhere_is_the_same_input(tmp_path: Path) -> None:
    for place in ("one", "two", "other"):
        for split in ("train", "validation"):
            write_rows(tmp_path / place / f"{split}.jsonl", 3 if place == "other" else 2)
    one, two, other = (resolve_text(str(tmp_path / place)).cache_view() for place in ("one", "two", "other"))
    assert one == two != other


def test_what_cannot_be_used_is_named_as_the_setting(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"distill\.data = '/nowhere': there is no such folder, and it is not a hub id"
    ):
        resolve_text("/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no data files: expected train\.jsonl"):
        resolve_text(str(tmp_path / "empty"))
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "train.txt").write_text(SENTENCE)
    with pytest.raises(InputError, match=r"distill\.data = .*is one file: give a folder with train\.txt, test\.txt"):
        resolve_text(str(tmp_path / "lone"))


def test_too_little_text_is_refused_with_both_numbers(tmp_path: Path) -> None:
    _, model = write_model(tmp_path / "model")
    for split in ("train", "validation"):
        write_rows(tmp_path / "text" / f"{split}.jsonl", 2, part=split)
    text = resolve_text(str(tmp_path / "text"))
    require_long_enough(text, model, 21)
    with pytest.raises(InputError, match="21 tokens to train on, fewer than one block of 22: give more text"):
        require_long_enough(text, model, 22)
    with pytest.raises(InputError, match="fewer than one block of 64"):
        require_long_enough(text, model, 512)


def test_a_data_set_is_copied_once(tmp_path: Path) -> None:
    """The hub's loader on a folder: the same code as for a name on the hub."""
    source = tmp_path / "set"
    for split in ("train", "validation", "test"):
        write_rows(source / f"{split}.jsonl", 3, note="not needed")
    folder = text_files(str(source), tmp_path / "copies")
    assert {path.name for path in folder.iterdir()} == {"train.jsonl", "validation.jsonl"}
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert rows == [{"text": SENTENCE * count} for count in (1, 2, 3)]
    (source / "train.jsonl").unlink()
    assert text_files(str(source), tmp_path / "copies") == folder
    assert resolve_text(str(folder)).file("train") == str(folder / "train.jsonl")


def test_a_data_set_without_text_or_train(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"words": "a"}\n')
    with pytest.raises(InputError, match="has no split train with a field text; it has train with words"):
        text_files(str(tmp_path / "set"), tmp_path / "copies")
    assert not list((tmp_path / "copies").glob("text-*"))


def test_the_hub_out_of_reach_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFault, match=r"distill\.data: the data hub cannot be reached for owner/name"):
        text_files("owner/name:part", tmp_path)
