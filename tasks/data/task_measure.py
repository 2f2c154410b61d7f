"""Measure the loss and metric of a task for many models, preparing once all that does not depend on the model."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.data.lm_eval.seeding import seeded
from tasks.data.sources import LIMITS, Split, TaskSource

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tasks.core.study.landscape import Measured

Request = tuple[Sequence[int], Sequence[int]]
Likelihood = tuple[float, bool]
# exp of a larger value does not fit into a float64.
MAX_RATE = 700.0


class TaskMeasure:
    """Loss and metric of models of one tokenizer on a split's first rows, answers and all choices in the same passes.

    metric, higher_is_better: the task's main metric. It is lm-eval's own, with lm-eval's own requests and code, where
    it depends only on the likelihoods of given answers; else it is the perplexity of the answer tokens. The loss is the
    mean over answer tokens, as `validate` computes it.

    Raises:
        InputError: when there are fewer than two rows.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        task: TaskSource,
        split: Split,
        *,
        num_rows: int | None,
        max_length: int,
        max_tokens: int,
    ) -> None:
        from tasks.data.tokenize import load_examples

        task = limited(task, split, num_rows)
        examples = load_examples(task, split, tokenizer, max_length)
        require_several(examples.num_rows, task, split)
        self.num_rows = examples.num_rows
        self._answers: list[Request] = [(row.prompt_ids, row.answer_ids) for row in examples.rows]
        self._max_length, self._max_tokens = task.longest(max_length), max_tokens
        self._choices = _Choices.of(model, tokenizer, task, split, self._max_length, max_tokens)
        self.metric = self._choices.metric if self._choices else "perplexity"
        self.higher_is_better = self._choices.higher_is_better if self._choices else False

    @property
    def num_tokens(self) -> int:
        """Number of answer tokens of all rows."""
        return sum(len(answer) for _, answer in self._answers)

    def __call__(self, model: "nn.Module") -> "Measured":
        """Score one model."""
        import torch

        from tasks.core.evaluation.likelihoods import score_tokens
        from tasks.core.study.landscape import Measured

        every = [*self._answers, *(self._choices.requests if self._choices else [])]
        # A landscape keeps the states of lower blocks by the inputs of a whole pass.
        found = score_tokens(model, every, self._max_length, self._max_tokens, share_prompts=False)
        split = len(self._answers)
        losses = torch.tensor([-likelihood for likelihood, _ in found[:split]], dtype=torch.float64)
        counts = torch.tensor([len(answer) for _, answer in self._answers])
        loss = sum(losses.tolist()) / self.num_tokens
        value = self._choices.value(found[split:]) if self._choices else perplexity(loss)
        return Measured(loss, value, losses, counts)


def limited(task: TaskSource, split: Split, num_rows: int | None) -> TaskSource:
    """Return the task with at most this many rows in a split, in addition to its own limit."""
    if num_rows is None:
        return task
    own = task.limit(split)
    return task.model_copy(update={LIMITS[split]: num_rows if own is None else min(own, num_rows)})


def require_several(num_rows: int, task: TaskSource, split: Split) -> None:
    """Check that there are at least two rows; nothing can be concluded from one.

    Raises:
        InputError: when there are fewer.
    """
    if num_rows < 2:
        raise InputError(f"task {task.name!r}: the {split} split gives {num_rows} row; take at least 2")


def perplexity(loss: float) -> float:
    """Return exp(loss), saturated where it would overflow; NaN stays NaN."""
    return loss if math.isnan(loss) else math.exp(min(loss, MAX_RATE))


class _Choices:
    """lm-eval's requests for a split as token ids, and its metric of their likelihoods."""

    def __init__(self, definition: "ConfigurableTask", requests: list[Request], metric: str) -> None:
        self._definition, self.requests, self.metric = definition, requests, metric
        self.higher_is_better = bool(definition.higher_is_better().get(metric, not metric.endswith("perplexity")))

    @classmethod
    def of(
        cls,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        task: TaskSource,
        split: Split,
        max_length: int,
        max_tokens: int,
    ) -> "_Choices | None":
        """Build the requests of a split; None if the task's metric needs more than likelihoods of given answers."""
        from tasks.data.lm_eval.model import language_model
        from tasks.data.lm_eval_rows import harness_task, without_bars
        from tasks.data.scoring import MAIN_METRICS

        if task.kind != "lm_eval":
            return None
        with seeded(), without_bars():
            definition = harness_task(task, split)
            if definition.OUTPUT_TYPE not in ("multiple_choice", "loglikelihood"):
                return None
            definition.build_all_requests(rank=0, world_size=1)
        encoded: list[Request] = []

        def note(requests: list[tuple[Any, list[int], list[int]]]) -> list[Likelihood]:
            encoded.extend((before, scored) for _, before, scored in requests)
            return [(0.0, False)] * len(requests)

        scorer: Any = language_model(model, tokenizer, max_length, max_tokens, lambda items, **_: iter(items))
        scorer.score_tokens = note
        # Run lm-eval's own encoding for its ids; `note` computes no likelihood.
        scorer.loglikelihood(definition.instances)
        made = cls(definition, encoded, "")
        names = made._rows([(0.0, False)] * len(encoded))[0]
        return cls(definition, encoded, next((name for name in MAIN_METRICS if name in names), next(iter(names))))

    def value(self, found: list[Likelihood]) -> float:
        """Return the metric, aggregated as lm-eval does."""
        from lm_eval.api.metrics import mean

        items = [row[self.metric] for row in self._rows(found)]
        return float(self._definition.aggregation().get(self.metric, mean)(items))

    @seeded()
    def _rows(self, found: list[Likelihood]) -> list[dict[str, Any]]:
        """Return every metric of every row, of the first filter."""
        by_row = defaultdict(list)
        for instance, likelihood in zip(self._definition.instances, found, strict=True):
            instance.resps = [likelihood]
            instance.filtered_resps = {}
            by_row[instance.doc_id].append(instance)
        self._definition.apply_filters()
        result = []
        for number in sorted(by_row):
            instances = sorted(by_row[number], key=lambda instance: instance.idx)
            chosen = next(iter(instances[0].filtered_resps))
            responses = [instance.filtered_resps[chosen] for instance in instances]
            result.append(self._definition.process_results(instances[0].doc, responses))
        return result
