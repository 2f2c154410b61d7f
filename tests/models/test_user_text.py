"""Text files of a user: with or without a byte-order mark, other encodings named, wherever one is read."""

import codecs
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.settings.reading import read_settings, read_sweep
from flows.studies.cells import read_study
from tasks.core.errors import InputError
from tasks.data.lm_eval.definitions import merged
from tasks.data.lm_eval_rows import answers
from tasks.data.resolving import resolve_task
from tasks.data.rows.reading import read_rows
from tasks.models.folder_facts import read_json
from tasks.models.resolving import resolve_model
from tasks.models.user_text import open_user_text, read_user_text

TOML = '[model]\nname = "m"\n[task]\nname = "arc_easy"\n[plan]\nnum_kept = 3\nnum_tuned = 1\n'
DEFINITION = "task: mine\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"

# Every kind of text file that a user hands over: its content, and how it is read.
KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "settings.toml": (TOML, read_settings),
    "sweep.toml": (TOML.replace("3", "[2, 3]"), read_sweep),
    "study.toml": (TOML.replace('"arc_easy"', '["arc_easy", "piqa"]'), read_study),
    "task.yaml": (DEFINITION, merged),
    "rows.jsonl": ('{"text": "Grüße"}\n{"text": "b"}\n', read_rows),
    "list.json": ('[{"text": "Grüße"}]\n', read_rows),
    "rows.csv": ("text,other\nGrüße,1\n", read_rows),
    "rows.txt": ("Grüße\n", read_rows),
    "config.json": ('{"model_type": "opt"}\n', read_json),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_byte_order_mark_and_windows_lines_change_nothing(tmp_path: Path, name: str) -> None:
    content, read = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content.encode())
    plain = read(path)
    path.write_bytes(codecs.BOM_UTF8 + content.replace("\n", "\r\n").encode())
    assert read(path) == plain


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", KINDS)
def test_another_encoding_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    content, read = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content.encode(encoding))
    with pytest.raises(InputError, match=rf"{name} is {encoding[:6].upper()} text; save it as UTF-8"):
        read(path)


@pytest.mark.parametrize("name", KINDS)
def test_a_line_in_an_old_encoding_is_named(tmp_path: Path, name: str) -> None:
    content, read = KINDS[name]
    path = tmp_path / name
    path.write_bytes(content.encode() + b"\n" * 20_000 + "Grüße".encode("latin-1"))
    line = content.count("\n") + 20_001
    with pytest.raises(InputError, match=rf"{name}, line {line}: not UTF-8 text") as caught:
        read(path)
    assert "Gr" not in str(caught.value)


def test_both_readers_give_the_same_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for content in (b"", b"a", b"\xef\xbb\xbf", b"a\r\nb\rc\n", "\ufeffä\n".encode()):
        path.write_bytes(content)
        with open_user_text(path) as file:
            assert file.read() == read_user_text(path)


def test_a_definition_with_a_mark_is_found_by_its_name_with_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_bytes(codecs.BOM_UTF8 + DEFINITION.replace("task: mine\n", "").encode())
    (tmp_path / "mine.yaml").write_bytes(codecs.BOM_UTF8 + b"task: mine\r\ninclude: base.yaml\r\n")
    (tmp_path / "train.json").write_text('[{"q": "P", "a": "A"}]')
    (tmp_path / "test.json").write_text('[{"q": "Q", "a": "A"}, {"q": "R", "a": "B"}]')
    task = resolve_task({"name": "mine", "data": str(tmp_path)})
    assert [(pair.prompt, pair.answer) for pair in answers(task, "scored")] == [("Q", " A"), ("R", " B")]


def test_a_definition_in_another_encoding_is_named_where_its_task_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(DEFINITION.encode("utf-16"))
    with pytest.raises(InputError, match=r"mine\.yaml is UTF-16 text"):
        resolve_task({"name": "mine", "data": str(tmp_path)})


def test_a_mark_in_a_file_that_transformers_reads_is_named(real_data: Path, tmp_path: Path) -> None:
    folder = Path(
        shutil.copytree(real_data / "models" / "stories260K", tmp_path / "model", copy_function=shutil.copyfile)
    )
    for name in ("config.json", "tokenizer_config.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(codecs.BOM_UTF8 + content)
        with pytest.raises(InputError, match=rf"{name} begins with a byte-order mark, which transformers cannot read"):
            resolve_model(str(folder))
        (folder / name).write_bytes(content)
    assert resolve_model(str(folder)).family == "llama"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", r"not valid YAML \(line "),
        ("task: mine\nsince: 2020-13-45\n", "not valid YAML .ValueError"),
        ("task: mine\ninclude: 3\n", "`include` is neither"),
        ("task: mine\ninclude: [{a: b}]\n", "`include` is neither"),
        ("- a\n", "defines no task"),
    ],
)
def test_a_definition_that_is_not_one(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        merged(path)
