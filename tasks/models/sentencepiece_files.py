"""Make tokenizers that have only a SentencePiece file give the tokens of SentencePiece itself, or refuse them.

transformers converts `tokenizer.model` when it loads it. Release 5.23 omits the space that the file puts before a text
unless the class is LLaMA's own (Mistral, Phi-3, or no class named), and merges pieces in the order of their ids instead
of their scores, which splits consecutive spaces differently. The result is other tokens, all of them valid. So the
converted tokenizer is compared with SentencePiece and, where it differs, rebuilt from the file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SENTENCEPIECE_FILE = "tokenizer.model"
SPACE = "\u2581"  # how SentencePiece writes a space
# The format's codes of the byte-pair model, and of pieces that merges produce (normal, user defined).
BYTE_PAIR = 2
JOINED = (1, 4)
# Texts that conversions get wrong: spaces at the start, in sequence and at the end; lines; digits; composed letters
# and compatibility forms; scripts and symbols that the vocabulary may lack.
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

    Does nothing if the folder has a `tokenizer.json`, or if its file is not SentencePiece's (LLaMA 3 has a file of this
    name in another format).

    Raises:
        InputError: when the tokens still differ afterwards.
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
    _follow(tokenizer, file)
    if not _agree(tokenizer, processor):
        raise InputError(
            f"{folder}: transformers makes other tokens of {SENTENCEPIECE_FILE} than SentencePiece does. Save the"
            " tokenizer once as tokenizer.json, with the release of transformers that the model was made for, and put"
            " that file beside it"
        )


def _agree(tokenizer: Any, processor: "SentencePieceProcessor") -> bool:
    return all(tokenizer.encode(text, add_special_tokens=False) == processor.encode(text) for text in PROBES)


def _follow(tokenizer: Any, file: Path) -> None:
    """Give the converted tokenizer the file's own normalisation and order of merges."""
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
    back: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix:
        back.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(back)
    if proto.trainer_spec.model_type == BYTE_PAIR:
        backend.model = _byte_pair_model(proto)


def _byte_pair_model(proto: Any) -> Any:
    """Build the byte-pair model with merges ordered by the score of their result, best first, as SentencePiece does."""
    from tokenizers.models import BPE

    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    merges = [
        (-piece.score, ids[left], ids[right], left, right)
        for piece in proto.pieces
        if piece.type in JOINED
        for cut in range(1, len(piece.piece))
        if (left := piece.piece[:cut]) in ids and (right := piece.piece[cut:]) in ids
    ]
    return BPE(
        vocab=ids,
        merges=[(left, right) for *_, left, right in sorted(merges)],
        unk_token=proto.trainer_spec.unk_piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
