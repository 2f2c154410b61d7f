"""A stage that is priced instead of submitted, and what its price depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flows.cost.plan_sizes import compressed, depth_of, trained_of
from flows.settings.run import Settings
from tasks.core.costs import workloads
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import Passes, Streamed
from tasks.core.costs.workloads import Lengths, Workload
from tasks.core.harmonizers.settings import num_harmonized

# Bytes of manifest, plan, scores and the like beside an artifact's tensors, as in the demo.
SMALL_BYTES = 2000


@dataclass(frozen=True)
class Cost:
    """The cost of one stage.

    stage: the row of the table in which it is counted; flops: operations; memory: peak of bytes on the device; disk:
    bytes of the artifact; working_disk: bytes on disk only while the stage runs; on_gpu: whether it computes on a GPU
    where there is one; streamed: memory where the stage can load a model's blocks one at a time; gaps: bytes that a
    backward pass takes in main memory beside `memory`, where it runs on a CPU.
    """

    stage: str
    flops: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    working_disk: float = 0.0
    on_gpu: bool = True
    streamed: Streamed | None = None
    gaps: float = 0.0


class Sizes:
    """The sizes on which the costs of one run's stages depend.

    num_validating: tokens of the text on which a distillation validates, where one does.
    """

    def __init__(
        self, settings: Settings, shape: Shape, workload: Workload, precision: str, num_validating: int | None = None
    ) -> None:
        self.settings, self.shape, self.precision = settings, shape, precision
        self.num_validating = num_validating
        self.whole = Depth.whole(shape.num_blocks)
        task = settings.task
        self.longest = min(shape.context, task.max_length or shape.context)
        self.workload = workload.limited(task.num_train, task.num_validation, task.num_test)

    @cached_property
    def trained(self) -> Trained:
        """Return the parts of an emulator that its tuning trains."""
        return trained_of(self.settings, self.shape)

    @property
    def all_trained(self) -> Trained:
        """Return the trained parts of the full model: every block."""
        tune = self.settings.tune
        return Trained(best=tune.eval_steps is not None, recompute=tune.gradient_checkpointing)

    def rows(self, split: str, num_rows: int | None) -> Lengths:
        """Lengths of the first rows of the training or the validation split."""
        rows = self.workload.train if split == "train" else self.workload.validation
        return rows.limited(num_rows)

    def passes(self, rows: Lengths, max_tokens: int, longest: int | None = None) -> Passes:
        """Return forward passes over these rows. longest: tokens to which a row is cut, by default the task's."""
        return workloads.sorted_passes(rows, longest or self.longest, max_tokens, self.shape.limits)

    def scoring_passes(self, rows: Lengths, max_tokens: int) -> Passes:
        """Return the forward passes of scoring, in which a prompt runs once for its choices where the family allows."""
        if not self.shape.shares_prompts:
            return self.passes(rows, max_tokens)
        shape = self.shape
        return workloads.scoring_passes(rows, self.longest, max_tokens, shape.limits, shape.longest_tree)

    def with_settings(self, settings: Settings) -> "Sizes":
        """Return the sizes of a run of the same model and task with other settings."""
        return Sizes(settings, self.shape, self.workload, self.precision, self.num_validating)


@dataclass(frozen=True)
class Priced:
    """The result that a stage would have: later stages take it as an argument, and costs follow from it.

    name: of the stage; arguments: as the flow gives them; key: identity, equal for equal arguments; sizes: of its run.
    """

    name: str
    arguments: Mapping[str, Any] = field(compare=False, repr=False)
    key: str
    sizes: Sizes = field(compare=False, repr=False)

    def cache_view(self) -> str:
        """The value that identifies the result among the arguments of another stage."""
        return self.key

    @cached_property
    def depth(self) -> Depth:
        """The blocks that run: of a plan or an emulator its own, of a tuning or a plug-in those of its emulator."""
        given, sizes = self.arguments, self.sizes
        if self.name == "cluster":
            return sizes.whole if given["strategy"] == "full" else depth_of(given, sizes.shape)
        if self.name in ("compress", "compress_by_gradient"):
            return compressed(given["emulator"].depth, sizes.settings)
        if self.name == "select":
            return given["tunings"][0].depth
        if self.name == "emulate":
            return _with_harmonizers(given)
        if self.name == "plug_in":
            return given["plan"].depth
        emulator = given.get("emulator")
        return emulator.depth if emulator else sizes.whole

    @property
    def is_full(self) -> bool:
        """Whether a tuning is one of the full model."""
        tuning = self.arguments["tunings"][0] if self.name == "select" else self
        return tuning.arguments["plan"].arguments["strategy"] == "full"

    @property
    def trained(self) -> Trained:
        """Return the parts that a tuning trains."""
        return self.sizes.all_trained if self.is_full else self.sizes.trained


def _with_harmonizers(given: Mapping[str, Any]) -> Depth:
    """Return the depth of an emulator from the arguments of the stage that writes it."""
    plan = given["plan"].depth
    if given.get("harmonizers") is None:
        return plan
    num_removed = given["harmonizers"].sizes.shape.num_blocks - len(plan.layout)
    count = num_harmonized(num_removed, given["harmonized"])
    return replace(plan, harmonizers=count, harmonizer_rank=given["harmonizers"].arguments["how"].rank)


def count_rows(states: Priced) -> int:
    """Return the number of rows whose states were captured."""
    return states.sizes.rows(states.arguments["split"], states.arguments["num_rows"]).num_rows


def ran(model: Any, sizes: Sizes) -> Depth:
    """Return the blocks of a model that a stage is given: an emulator or a plug-in of this study, or the full model."""
    return model.depth if isinstance(model, Priced) and model.name != "plug_in" else sizes.whole


def without_head(rows: Lengths) -> Lengths:
    """Return the rows for passes that need no logits."""
    return replace(rows, answers=0.0)
