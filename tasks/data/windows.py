"""Generic text as windows of equal length, with documents one after another, however short they are."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from tasks.core.errors import InputError
from tasks.data.sources import Split, TaskSource
from tasks.data.token_ids import encode, prefix_id
from tasks.data.tokenize import text_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.core.batching import Example


class Windows(Sequence["Example"]):
    """Examples of `length` tokens, the last one shorter; every token of the text but the first is predicted once.

    A token takes four bytes, so that the hundreds of millions that a distillation reads fit into memory.
    """

    def __init__(self, length: int) -> None:
        self._size = length - 1
        self._tokens = array("i")
        self._starts: list[int] = []
        self._numbers: list[int] = []

    def append(self, number: int, tokens: Sequence[int]) -> None:
        """Add the document of this row number."""
        self._starts.append(len(self._tokens))
        self._numbers.append(number)
        self._tokens.extend(tokens)

    @property
    def num_rows(self) -> int:
        """Number of documents."""
        return len(self._starts)

    def __len__(self) -> int:
        return -(-max(len(self._tokens) - 1, 0) // self._size)

    @overload
    def __getitem__(self, index: int) -> "Example": ...

    @overload
    def __getitem__(self, index: slice) -> "list[Example]": ...

    def __getitem__(self, index: int | slice) -> "Example | list[Example]":
        from tasks.core.batching import Example

        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        start = places * self._size
        before, *answers = self._tokens[start : start + self._size + 1]
        return Example((before,), tuple(answers), self._numbers[bisect_right(self._starts, start) - 1])


def load_windows(text: TaskSource, split: Split, tokenizer: "PreTrainedTokenizerBase", length: int) -> Windows:
    """Load a split's documents, each after the token that a text begins with.

    Raises:
        InputError: when there is no text.
    """
    found, begin = Windows(length), prefix_id(tokenizer)
    for pair in text_pairs(text, split):
        found.append(pair.number, [begin, *encode(tokenizer, pair.answer, special=False)])
    if not len(found):
        raise InputError(f"distill.data: the {split} split has no row with text")
    return found
