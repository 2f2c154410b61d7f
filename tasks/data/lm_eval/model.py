"""A model for lm-eval without progress bars and without computation whose result is discarded.

lm-eval's own class runs the head over every position and keeps a cache of keys and values that nothing reads. The
numbers here are the same: log-probabilities of the same tokens after the same tokens, except where lm-eval's rule for
these tokens gives wrong ones (see `tasks.data.token_ids`).
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.lm_eval.definitions import most_written
from tasks.data.token_ids import encode, encode_choices, encode_pair, end_ids, prefix_id

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.core.blocks.streaming import StoredTensors

# (text or None, ids before, ids to score)
Request = tuple[Any, list[int], list[int]]


def language_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    max_tokens: int,
    progress: Callable[..., Iterator[Any]],
    window: int | None = None,
    tensors: "StoredTensors | None" = None,
) -> "HFLM":
    """Return the model for `lm_eval.evaluate`; its method `score_tokens` takes token ids.

    max_length: most tokens of a prompt and its answer; max_tokens: padded tokens of a pass; window: tokens of a
    window of a document, by default max_length. tensors: of the model's blocks, where these are on disk; then it
    generates no text. A soft prompt of the model stands in front of everything, and is part of max_length.
    """
    from tasks.core.blocks.soft_prompt import prompt_ids
    from tasks.data.lm_eval.task import quiet

    quiet()
    made = _quiet_class()(
        pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=max(1, max_tokens // max_length)
    )
    made.max_tokens = max_tokens
    made.progress = progress
    made.prompt = list(prompt_ids(model))
    made.window = window or max_length - len(made.prompt)
    made.tensors = tensors
    made.num_truncated = 0
    return made


@cache
def _quiet_class() -> type:
    """Define the subclass on first use, because importing lm-eval's model class takes seconds."""
    from lm_eval.models.huggingface import HFLM

    from tasks.core.evaluation.likelihoods import score_tokens

    class QuietModel(HFLM):
        """lm-eval's Hugging Face model without progress bars and without computation whose result is discarded."""

        max_tokens: int
        num_truncated: int
        prompt: list[int]
        window: int
        tensors: "StoredTensors | None"
        progress: Callable[..., Iterator[Any]]

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            left_truncate_len: int | None = None,
            **_: Any,
        ) -> list[int]:
            ids = encode(self.tokenizer, string, special=add_special_tokens is not False)
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def tok_batch_encode(
            self,
            strings: list[str],
            padding_side: str = "left",
            left_truncate_len: int | None = None,
            truncation: bool = False,
        ) -> tuple[Any, Any]:
            if all(strings) and not end_ids(self.tokenizer) and not self.prompt:
                return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
            most = left_truncate_len and left_truncate_len - len(self.prompt)
            ids = [self.tok_encode(text, None, most) or [prefix_id(self.tokenizer)] for text in strings]
            rows = [[*self.prompt, *each] for each in ids]
            padded = self.tokenizer.pad({"input_ids": rows}, padding_side=padding_side, return_tensors="pt")
            return padded["input_ids"], padded["attention_mask"]

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            return encode_pair(self.tokenizer, context, continuation)

        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return self._loglikelihood_tokens(_encoded(self.tokenizer, requests))

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            _require_tokens(self.tokenizer, requests)
            # All windows at once: score_tokens sorts them into batches by length.
            batch_size, max_length = self.batch_size, self.max_length
            self.batch_size_per_gpu, self._max_length = sys.maxsize, self.window
            try:
                return super().loglikelihood_rolling(requests, disable_tqdm=True)
            finally:
                self.batch_size_per_gpu, self._max_length = batch_size, max_length

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            return _generated(self, requests, partial(super().generate_until, disable_tqdm=True))

        def _loglikelihood_tokens(
            self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            return self.score_tokens(requests)

        def score_tokens(self, requests: list[Request]) -> list[tuple[float, bool]]:
            """Return (log-likelihood, whether greedy decoding gives them) of each request's ids to score, in order."""
            pairs = [(before, scored) for _, before, scored in requests]
            most = self.max_length - len(self.prompt)
            self.num_truncated += sum(len(before) + len(scored) > most + 1 for before, scored in pairs)
            given = self.max_length, self.max_tokens, self.progress
            return score_tokens(self.model, pairs, *given, tensors=self.tensors)

    return QuietModel


def _generated(scorer: Any, requests: list[Any], generate: Callable[[list[Any]], list[str]]) -> list[str]:
    """Generate text after each prompt, as if the prompt were alone in its batch.

    For a model whose rotary embeddings depend on the length of a batch, the prompts of a batch have one length, so that
    generated tokens lengthen them together. For other models lm-eval makes the batches.

    Raises:
        InputError: when the model's blocks are on disk, or a soft prompt leaves no room for a row.
    """
    if scorer.tensors is not None:
        raise InputError(
            "generated text needs the whole model in memory, but its blocks are on disk (place.stream_blocks); take a"
            " larger machine, or a task of choices or of given text"
        )
    from tasks.core.blocks.length_limits import forget_lengths, length_limits

    for prompt, how in (request.args for request in requests):
        most = scorer.max_length - len(scorer.prompt) - most_written(how)
        if scorer.prompt and most < 1:
            raise InputError(
                f"the soft prompt's {len(scorer.prompt)} tokens and the {most_written(how)} that the model may write"
                f" leave none of {scorer.max_length} for a row: take fewer tune.prompt_tokens, or lower max_gen_toks"
            )
        scorer.num_truncated += len(scorer.tok_encode(prompt)) > most
    if not length_limits(scorer.model.config):
        return generate(requests)
    by_length: dict[int, list[int]] = {}
    for number, request in enumerate(requests):
        by_length.setdefault(len(scorer.tok_encode(request.args[0])), []).append(number)
    answers: dict[int, str] = {}
    for _, numbers in sorted(by_length.items(), reverse=True):
        for start in range(0, len(numbers), scorer.batch_size):
            batch = numbers[start : start + scorer.batch_size]
            forget_lengths(scorer.model)
            answers |= dict(zip(batch, generate([requests[number] for number in batch]), strict=True))
    return [answers[number] for number in range(len(requests))]


def _encoded(tokenizer: "PreTrainedTokenizerBase", requests: list[Any]) -> list[Request]:
    """Return the token ids of lm-eval's requests, in order; all requests of one row are encoded by the same rule.

    Raises:
        InputError: when a choice has no token, and so no likelihood.
    """
    rows: dict[Any, list[int]] = {}
    for place, request in enumerate(requests):
        rows.setdefault((request.task_name, request.doc_id), []).append(place)
    found: list[Request] = [("", [], [])] * len(requests)
    for (name, row), places in rows.items():
        pairs, _ = encode_choices(tokenizer, [requests[place].args for place in places])
        for number, (place, (before, scored)) in enumerate(zip(places, pairs, strict=True), start=1):
            if not scored:
                raise InputError(
                    f"task {name!r}, row {row + 1} of those that are scored: choice {number} of {len(places)} has no"
                    " token: it is empty, or the tokenizer drops all of its characters; leave this row out"
                )
            found[place] = (requests[place].args, before, scored)
    return found


def _require_tokens(tokenizer: "PreTrainedTokenizerBase", requests: list[Any]) -> None:
    """Check that each document has a token.

    Raises:
        InputError: when one has none.
    """
    for request in requests:
        (text,) = request.args
        # The first letters of a long document suffice, unless the tokenizer drops all of them.
        if not encode(tokenizer, text[:100]) and not encode(tokenizer, text):
            raise InputError(
                f"task {request.task_name!r}, row {request.doc_id + 1} of those that are scored: the document has no"
                " token; leave this row out"
            )
