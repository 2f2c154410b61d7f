"""Windows of generic text: full, gapless, and of documents in their order."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.data.resolving_text import resolve_text
from tasks.data.token_ids import encode, prefix_id
from tasks.data.windows import Windows, load_windows
from tasks.models.loading import load_tokenizer
from tasks.models.resolving import resolve_model
from tests.tasks.chain import DEMO

LENGTH = 48


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return load_tokenizer(resolve_model(str(DEMO / "model")))


def write_text(folder: Path, documents: list[str]) -> Path:
    """Train and validation of these documents; a further one keeps validation from being a copy of train."""
    for name, further in (
        ("train", []),
        ("validation", ["It validates ."] if any(map(str.strip, documents)) else [" "]),
    ):
        lines = [json.dumps({"text": text}) + "\n" for text in [*documents, *further]]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_short_documents_fill_the_windows(tmp_path: Path, tokenizer: object) -> None:
    documents = ["The city of Ann Hall is Rome .", "", "Ann Hall works there ."] * 40
    text = resolve_text(str(write_text(tmp_path, documents)))
    windows = load_windows(text, "train", tokenizer, LENGTH)
    assert windows.num_rows == 80, "empty documents are none"
    assert {window.num_tokens for window in windows[:-1]} == {LENGTH}
    assert 1 < windows[-1].num_tokens <= LENGTH

    begin = prefix_id(tokenizer)
    stream = [token for text in documents if text for token in [begin, *encode(tokenizer, text, special=False)]]
    assert windows[0].prompt_ids == (begin,)
    assert [token for window in windows for token in window.answer_ids] == stream[1:], "every token once"
    for before, after in pairwise(windows):
        assert after.prompt_ids == before.answer_ids[-1:], "nothing is lost between two windows"


def test_a_window_knows_the_document_it_begins_in() -> None:
    windows = Windows(4)
    for number, size in ((3, 2), (5, 9), (6, 1)):
        windows.append(number, range(size))
    # Begin at the tokens 0, 3, 6 and 9 of twelve; document 5 begins at token 2, 6 at token 11.
    assert [window.row for window in windows] == [3, 5, 5, 5]
    with pytest.raises(IndexError):
        windows[4]


def test_text_without_words_is_refused(tmp_path: Path, tokenizer: object) -> None:
    text = resolve_text(str(write_text(tmp_path, [" ", ""])))
    with pytest.raises(InputError, match="validation split has no row with text"):
        load_windows(text, "validation", tokenizer, LENGTH)
