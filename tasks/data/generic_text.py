"""Check that generic text is long enough to distill emulators on."""

from tasks.core.errors import InputError
from tasks.data.sources import TaskSource
from tasks.data.token_ids import encode
from tasks.data.tokenize import text_pairs
from tasks.models.loading import load_tokenizer
from tasks.models.source import ModelSource

# No token is longer than this on average, in any language; text is encoded only as far as it must be.
CHARACTERS_PER_TOKEN = 32


def require_long_enough(text: TaskSource, model: ModelSource, block: int) -> None:
    """Check that the training documents together fill one block, or the model's context if that is shorter.

    Raises:
        InputError: when they have fewer tokens.
    """
    tokenizer, length = load_tokenizer(model), min(block, model.context)
    found = 0
    for pair in text_pairs(text, "train"):
        found += len(encode(tokenizer, pair.answer[: CHARACTERS_PER_TOKEN * length], special=False))
        if found >= length:
            return
    raise InputError(f"distill.data has {found} tokens to train on, fewer than one block of {length}: give more text")
