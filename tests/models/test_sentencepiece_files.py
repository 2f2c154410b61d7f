"""Tokenizers that have a SentencePiece file alone give SentencePiece's own tokens, whatever their class."""

import json
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tasks.core.errors import InputError
from tasks.models.emulators.emulator import write_emulator
from tasks.models.loading import load_tokenizer, tokenizer_of
from tasks.models.resolving import resolve_model
from tasks.models.tensor_files import stored_tensors
from tests.core.tiny_models import tiny_model
from tests.models.test_model_folders import PLAN

TEXTS = (
    "The box number 7 is red.",
    " a space first, two  spaces inside, one at the end ",
    "line\nbreak and\ttab",
    "na\u00efve \u00fcml\u00e4ut \u6f22\u5b57 \U0001f642 \ufb01ne",
    "",
    "Question: which?\nAnswer: the old cat",
)
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture(scope="module", params=[("bpe", True), ("unigram", False)], ids=["bpe", "unigram"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SentencePiece file: as LLaMA's, or with letters made alike and without extra spaces."""
    folder, (kind, is_plain) = tmp_path_factory.mktemp("sentencepiece"), request.param
    things = [(n, colour, age) for n in range(40) for colour in ("red", "blue") for age in ("old", "young")]
    lines = [f"The box number {n} is {colour}, and the {age} cat sat on it." for n, colour, age in things]
    (folder / "corpus.txt").write_text("\n".join(lines))
    SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type=kind,
        vocab_size=350,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity" if is_plain else "nmt_nfkc",
        remove_extra_whitespaces=not is_plain,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


def folder_with(trained: Path, folder: Path, family: str, settings: dict | None) -> Path:
    folder.mkdir(exist_ok=True)
    shutil.copy(trained, folder / "tokenizer.model")
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", LLAMA), ("llama", None), ("mistral", LLAMA), ("phi3", LLAMA), ("gemma", None)]
)
def test_the_same_ids_as_sentencepiece(trained: Path, tmp_path: Path, family: str, settings: dict | None) -> None:
    processor = SentencePieceProcessor(model_file=str(trained))
    tokenizer = tokenizer_of(folder_with(trained, tmp_path / "model", family, settings))
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == processor.encode(text)
        assert tokenizer.decode(ids) == processor.decode(ids)


def test_a_file_whose_scores_are_not_in_the_order_of_its_ids(real_data: Path, tmp_path: Path) -> None:
    """As LLaMA's: its pieces of several spaces have low numbers and low scores."""
    file = real_data / "tokenizers" / "llama" / "tokenizer.model"
    processor = SentencePieceProcessor(model_file=str(file))
    tokenizer = tokenizer_of(folder_with(file, tmp_path / "model", "llama", LLAMA))
    for text in (*TEXTS, "def f(x):\n    if x:\n        return  x", "   three   spaces   "):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == processor.encode(text)
        assert tokenizer.decode(ids) == processor.decode(ids)


def test_other_tokens_are_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.models.sentencepiece_files._follow", lambda tokenizer, file: None)
    folder = folder_with(trained, tmp_path / "model", "mistral", LLAMA)
    with pytest.raises(InputError, match=r"other tokens of tokenizer.model than SentencePiece.*tokenizer.json"):
        tokenizer_of(folder)


def test_a_damaged_file_is_one_line(trained: Path, tmp_path: Path) -> None:
    folder = folder_with(trained, tmp_path / "model", "llama", LLAMA)
    (folder / "tokenizer.model").write_bytes(trained.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot load the tokenizer") as caught:
        tokenizer_of(folder)
    assert "\n" not in str(caught.value)


def test_an_emulator_carries_the_tokenizer(trained: Path, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    folder = folder_with(trained, tmp_path / "model", "llama", LLAMA)
    source = resolve_model(str(folder))
    write_emulator(folder, PLAN, tmp_path / "emulator")
    assert stored_tensors(tmp_path / "emulator")
    carried = resolve_model(str(tmp_path / "emulator"))
    assert carried.tokenizer == source.tokenizer
    text = TEXTS[1]
    assert load_tokenizer(carried).encode(text) == load_tokenizer(source).encode(text)
