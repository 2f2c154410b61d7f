"""Train the small tokenizers on the tests' own rows: one in the form of OPT's files, one in the form of LLaMA's.

`python -m tests.make_data.tokenizers` writes them below tests/data/tokenizers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.make_data.folder import DATA

# OPT's: its special tokens come first, the begin token is the end token, and each text starts with it.
OPT_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
OPT = {
    "tokenizer_class": "GPT2Tokenizer",
    "model_max_length": 2048,
    "add_prefix_space": False,
    "add_bos_token": True,
    "bos_token": "</s>",
    "eos_token": "</s>",
    "unk_token": "</s>",
    "pad_token": "<pad>",
}
OPT_SIZE = 1500
LLAMA = {
    "tokenizer_class": "LlamaTokenizer",
    "model_max_length": 4096,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
}
# More than the tests' model has, so that it can be the tokenizer of another model.
LLAMA_SIZE = 700
# What LLaMA's file gives pieces of spaces only, wherever they are in the order of the ids: they are merged last.
LOWEST_SCORE = -1e9
INDENTED = "def f(x):\n    if x:\n        return x\n            # deeper\n    return -x"


def texts() -> Iterator[str]:
    """All strings in the rows of the tests."""
    for path in sorted((DATA / "tasks").rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield from _strings(json.loads(line))


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def write_opt(folder: Path) -> None:
    """Write vocab.json and merges.txt of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=OPT_SIZE, special_tokens=OPT_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    _write_settings(folder, OPT)


def write_llama(folder: Path) -> None:
    """Write a tokenizer.model with the settings of LLaMA's."""
    with TemporaryDirectory() as place:
        corpus = Path(place) / "corpus.txt"
        indented = [INDENTED] * 200
        corpus.write_text("\n".join([*texts(), *indented]), encoding="utf-8")
        SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=f"{place}/tokenizer",
            model_type="bpe",
            vocab_size=LLAMA_SIZE,
            character_coverage=0.9995,
            num_threads=1,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            minloglevel=2,
        )
        found = ModelProto.FromString((Path(place) / "tokenizer.model").read_bytes())
        # The trainer notes where it found its text; nothing reads that.
        found.trainer_spec.ClearField("input")
        found.trainer_spec.ClearField("model_prefix")
        for piece in found.pieces:
            if set(piece.piece) == {"▁"}:
                piece.score = LOWEST_SCORE
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.model").write_bytes(found.SerializeToString())
    _write_settings(folder, LLAMA)


def _write_settings(folder: Path, settings: dict) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    write_opt(DATA / "tokenizers" / "opt")
    write_llama(DATA / "tokenizers" / "llama")
