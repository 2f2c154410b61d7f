"""A model as lm-eval sees it: quiet, and computing only what is scored.

lm-eval's own class runs the head over every position and keeps a cache of keys and values that nothing reads. The
numbers here are the same: log-probabilities of the same tokens behind the same tokens.
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# (text or None, ids before, ids to score)
Request = tuple[Any, list[int], list[int]]


def language_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    max_tokens: int,
    progress: Callable[..., Iterator[Any]],
) -> "HFLM":
    """The model for `lm_eval.evaluate`, and with `score_tokens` for token ids."""
    from tasks.store.harness import quiet

    quiet()
    made = _quiet_class()(
        pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=max(1, max_tokens // max_length)
    )
    made.max_tokens = max_tokens
    made.progress = progress
    return made


@cache
def _quiet_class() -> type:
    """The subclass, made on first use because importing lm-eval's model class takes seconds."""
    from lm_eval.models.huggingface import HFLM

    from tasks.core.left_padding import shows_left_padding
    from tasks.core.length_limits import forget_lengths, length_limits
    from tasks.core.scoring import score_tokens

    class QuietModel(HFLM):
        """lm-eval's Hugging Face model without bars and without work whose result is thrown away."""

        max_tokens: int
        progress: Callable[..., Iterator[Any]]

        def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
            # All windows at once: score_tokens sorts them into batches by length.
            batch_size: int = self.batch_size
            self.batch_size_per_gpu = sys.maxsize
            try:
                return super().loglikelihood_rolling(requests, disable_tqdm=True)
            finally:
                self.batch_size_per_gpu = batch_size

        def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
            """Prompts in batches; each of one length, where the family's numbers depend on a batch's longest prompt."""
            if not (length_limits(self.model.config) or shows_left_padding(self.model)):
                return super().generate_until(requests, disable_tqdm=True)
            lengths = [len(self.tok_encode(request.args[0])) for request in requests]
            answers: dict[int, str] = {}
            for length in sorted(set(lengths), reverse=True):
                chosen = [number for number, other in enumerate(lengths) if other == length]
                found = super().generate_until([requests[number] for number in chosen], disable_tqdm=True)
                answers |= dict(zip(chosen, found, strict=True))
            return [answers[number] for number in range(len(requests))]

        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            forget_lengths(self.model)
            return super()._model_generate(*args, **kwargs)

        def _loglikelihood_tokens(
            self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            return self.score_tokens(requests)

        def score_tokens(self, requests: list[Request]) -> list[tuple[float, bool]]:
            """(log-likelihood, whether greedy decoding gives it) of each request's last ids, in order."""
            pairs = [(before, scored) for _, before, scored in requests]
            return score_tokens(self.model, pairs, self.max_length, self.max_tokens, self.progress)

    return QuietModel
