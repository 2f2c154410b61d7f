"""Tokenizers that have a SentencePiece file alone: the tokens are those of SentencePiece itself, or none.

transformers converts `tokenizer.model` when it loads it. For a class that is not LLaMA's own (Mistral, Phi-3, or no
class named) the conversion of release 5.23 forgets the space that the file puts before a text, and other tokens come
out, all of them valid. So the converted tokenizer is compared with SentencePiece, and told again how the file prepares
a text.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SENTENCEPIECE_FILE = "tokenizer.model"
SPACE = "\u2581"  # how SentencePiece writes a space
# What conversions get wrong: spaces at the start, in rows and at the end; lines; digits; letters that are composed or
# have compatible forms; scripts and signs that the vocabulary may lack.
PROBES = (
    "Which of these is the tallest? The answer is 1,234.56 (of 78).",
    " begins with a space",
    "two  and   three spaces, then an end ",
    "lines\n\nand\ttabs\r\n  indented",
    "na\u00efve \u00fcml\u00e4ut, cafe\u0301, \ufb01ne \u2460 \u212b",
    "\u6f22\u5b57 \u0440\u0443\u0441 \u0639\u0631\u0628 \U0001f642",
)


def follow_sentencepiece(tokenizer: Any, folder: Path) -> None:
    """Make a tokenizer that was converted from the folder's `tokenizer.model` give the ids that SentencePiece gives.

    Does nothing where the folder has a `tokenizer.json`, or where its file is not SentencePiece's (LLaMA 3 has a file
    of this name in another format).

    Raises:
        InputError: where the tokens differ all the same.
    """
    file = folder / SENTENCEPIECE_FILE
    if (folder / "tokenizer.json").is_file() or not file.is_file():
        return
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):
        return  # another format, which transformers has read
    if _agree(tokenizer, processor):
        return
    _prepare_as(tokenizer, file)
    if not _agree(tokenizer, processor):
        raise InputError(
            f"{folder}: transformers makes other tokens of {SENTENCEPIECE_FILE} than SentencePiece does. Save the"
            " tokenizer once as tokenizer.json, with the release of transformers that the model was made for, and put"
            " that file beside it"
        )


def _agree(tokenizer: Any, processor: "SentencePieceProcessor") -> bool:
    return all(tokenizer.encode(text, add_special_tokens=False) == processor.encode(text) for text in PROBES)


def _prepare_as(tokenizer: Any, file: Path) -> None:
    """Give the converted tokenizer the file's own rules for what is done to a text before it is cut into pieces."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, decoders, normalizers

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(file.read_bytes())
    rules = proto.normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    backend.pre_tokenizer = None
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*back, decoders.Strip(content=" ", left=1)] if rules.add_dummy_prefix else back
    )
