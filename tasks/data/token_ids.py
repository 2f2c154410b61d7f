"""Encode text as token ids by lm-eval's rule, the same for training, validation, scoring and generation.

Two things differ from lm-eval, both where its rule gives wrong numbers:
- Special tokens that a tokenizer appends to every text are left out: after a prompt they would separate it from its
  answer, and after an answer they would be trained and scored as a part of it.
- lm-eval encodes prompt and choice together and cuts after the length of the prompt alone. Where the tokenizer merges
  the end of the prompt with the beginning of a choice, that cut is wrong or leaves the choice without a token. All
  choices of such a row are encoded apart, so that all are compared under the same rule.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tasks.core.errors import InputError
from tasks.store.boundary import translated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# (prompt ids, answer ids)
Ids = tuple[list[int], list[int]]
# Texts that show the special tokens around them; the first one that the tokenizer gives a token for counts.
PROBES = ("a", "The end.", "1")

# The usual reason why a tokenizer fails on a text.
UNKNOWN = "If its vocabulary lacks a token for unknown words, add one and name it as unk_token in tokenizer.json"

_end_ids: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, ...]]" = WeakKeyDictionary()


def encode(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool = True) -> list[int]:
    """Encode a text with the special tokens that the tokenizer prepends, without those that it appends.

    Nothing is prepended to a text that already begins with the first of them. special: False for no special tokens.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if not special or (start is not None and text.startswith(str(tokenizer.decode(start)))):
        return _ids(tokenizer, text, special=False)
    ids, end = _ids(tokenizer, text), end_ids(tokenizer)
    kept = ids[: len(ids) - len(end)]
    if not end or tuple(ids[len(kept) :]) != end:
        return ids
    # A tokenizer may append nothing to a text that already ends with these tokens: then they belong to the text.
    own = _ids(tokenizer, text, special=False)
    return kept if kept[len(kept) - len(own) :] == own else ids


def end_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return the special tokens that the tokenizer appends to any text, found by encoding one with and without them."""
    if tokenizer not in _end_ids:
        _end_ids[tokenizer] = _found_end_ids(tokenizer)
    return _end_ids[tokenizer]


def end_tokens(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the appended special tokens as text; empty for a tokenizer that appends nothing."""
    return "".join(map(str, tokenizer.convert_ids_to_tokens(list(end_ids(tokenizer)))))


def encode_pair(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> Ids:
    """Return (prompt ids, answer ids) of a row with one answer, see `encode_choices`."""
    return encode_choices(tokenizer, [(prompt, answer)])[0][0]


def encode_choices(tokenizer: "PreTrainedTokenizerBase", requests: Sequence[tuple[str, str]]) -> tuple[list[Ids], bool]:
    """Return the ids of all requests (prompt, choice) of one row, and whether they were encoded apart.

    Spaces at a prompt's end go to the choice, because most tokenizers merge a space with the word after it. An empty
    prompt becomes the token that a text begins with. The ids of a prompt are always those of the prompt alone.
    Encoded together, a choice has the ids after those of the prompt. If, for any request of the row, the prompt's ids
    change or no id follows them, the ids of every choice are those of the choice alone, which may still be none.
    """
    prompts: dict[str, list[int]] = {}
    together: list[Ids | None] = []
    for prompt, choice in requests:
        stripped = prompt.rstrip()
        if not stripped:
            together.append(_without_prompt(tokenizer, prompt + choice))
            continue
        if stripped not in prompts:
            prompts[stripped] = encode(tokenizer, stripped)
        ids = prompts[stripped]
        whole = encode(tokenizer, prompt + choice)
        is_parted = len(whole) > len(ids) and whole[: len(ids)] == ids
        together.append((ids, whole[len(ids) :]) if is_parted else None)
    parted = [pair for pair in together if pair is not None]
    if len(parted) == len(together):
        return parted, False
    return [_apart(tokenizer, prompts, *request) for request in requests], True


def encode_apart(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> Ids:
    """Return (prompt ids, answer ids), each encoded separately, without special tokens between them.

    With no delimiter between the two, encoding them together could merge letters of both into one token.
    """
    if not prompt.strip():
        return encode_pair(tokenizer, prompt, answer)
    return encode(tokenizer, prompt), encode(tokenizer, answer, special=False)


def prefix_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that is put before a text without a prompt.

    Raises:
        InputError: when the tokenizer has neither a begin nor an end token.
    """
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise InputError(
            "the tokenizer has neither a begin nor an end token, and text without a prompt needs one:"
            " set bos_token in tokenizer_config.json"
        )
    return int(found)


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool = True) -> list[int]:
    # The message of the tokenizer may quote the text.
    with translated(f"{tokenizer.name_or_path}: the tokenizer cannot encode a text", UNKNOWN, quote=False):
        return tokenizer.encode(text, add_special_tokens=special)


def _without_prompt(tokenizer: "PreTrainedTokenizerBase", text: str) -> Ids:
    ids, start = encode(tokenizer, text, special=False), prefix_id(tokenizer)
    return (ids[:1], ids[1:]) if ids[:1] == [start] else ([start], ids)


def _apart(tokenizer: "PreTrainedTokenizerBase", prompts: dict[str, list[int]], prompt: str, choice: str) -> Ids:
    stripped = prompt.rstrip()
    if not stripped:
        return _without_prompt(tokenizer, prompt + choice)
    return prompts[stripped], encode(tokenizer, prompt[len(stripped) :] + choice, special=False)


def _found_end_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    for probe in PROBES:
        own, whole = _ids(tokenizer, probe, special=False), _ids(tokenizer, probe)
        for start in range(len(whole) - len(own) + 1) if own else ():
            if whole[start : start + len(own)] == own:
                return tuple(whole[start + len(own) :])
    return ()
