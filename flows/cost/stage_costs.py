"""The cost of each stage of a run, from its settings, the model's shape and the lengths of the task's rows."""

from dataclasses import dataclass, replace

from flows.running.arguments import Arguments
from flows.settings.model import Settings
from tasks.core.costs import totals as costs
from tasks.core.costs import workloads
from tasks.core.costs.depths import Depth, Trained
from tasks.core.costs.shapes import Shape
from tasks.core.costs.totals import Passes
from tasks.core.costs.workloads import Workload

# Bytes of manifest, plan, scores and the like beside an artifact's tensors; of a report with its pictures; and of a
# check's limits and facts. All as in the demo.
SMALL_BYTES, OTHER_BYTES = 2000, {"report": 700_000, "check": 3500}


@dataclass(frozen=True)
class Cost:
    """The cost of one stage.

    flops: operations on the device; memory: peak of bytes on it; disk: bytes of the artifact; working_disk: bytes on
    disk only while the stage runs.
    """

    stage: str
    flops: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    working_disk: float = 0.0


class StageCosts:
    """The cost of each stage of one run, by the stage's name.

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

    def small(self, stage: str) -> Cost:
        """A stage that computes nearly nothing: its few bytes on disk."""
        return Cost(stage, disk=OTHER_BYTES.get(stage, SMALL_BYTES))

    def capture(self) -> Cost:
        """The support set through all blocks."""
        support = self.settings.support
        rows = self.workload.train if support.split == "train" else self.workload.validation
        rows = replace(rows, answers=0.0).limited(support.num_rows)
        passes = workloads.sorted_passes(rows, self.longest, support.max_tokens, self.shape.limits)
        return Cost(
            "capture",
            costs.forward_flops(self.shape, self.whole, passes),
            costs.forward_bytes(self.shape, self.shape.parameters, passes, self.precision),
            costs.states_bytes(self.shape, rows.num_rows) + SMALL_BYTES,
        )

    def single(self) -> Cost:
        """The support set through each block alone: as many blocks in all as capture runs."""
        return replace(self.capture(), stage="single")

    def iterative_drop(self, num_kept: int) -> Cost:
        """The support set through all blocks, through all but one, and so on, until `num_kept` blocks remain."""
        once, num_blocks = self.capture(), self.shape.num_blocks
        runs = sum(range(num_kept, num_blocks + 1)) / num_blocks
        return Cost("iterative_drop", once.flops * runs, once.memory, SMALL_BYTES)

    def similarity(self) -> Cost:
        """All measures between all states, computed on the CPU."""
        support, states = self.settings.support, self.shape.num_blocks + 1
        rows = self.workload.train if support.split == "train" else self.workload.validation
        count = min(support.num_rows, rows.num_rows)
        disk = costs.WIDE * ((costs.NUM_CKA + 1) * states**2 + self.shape.num_blocks)
        return Cost("similarity", costs.similarity_flops(self.shape, count), 0.0, disk + SMALL_BYTES)

    def emulate(self, depth: Depth) -> Cost:
        """A copy of the kept blocks and of all tensors outside the blocks."""
        disk = self.shape.stored_bytes * costs.emulator_parameters(self.shape, depth)
        return Cost("emulate", disk=disk + SMALL_BYTES)

    def compress(self, depth: Depth) -> Cost:
        """A second copy of the emulator with compressed frozen blocks, made on the CPU one weight at a time."""
        return replace(self.emulate(depth), stage="compress")

    def evaluate(self, depth: Depth | None) -> Cost:
        """The scored rows through the emulator, or through the full model where `depth` is None."""
        emulated = None if depth is None else costs.emulator_parameters(self.shape, depth)
        wanted = self.settings.evaluate.max_tokens
        passes = workloads.sorted_passes(self.workload.scored, self.longest, wanted, self.shape.limits)
        flops = costs.forward_flops(self.shape, depth or self.whole, passes)
        memory = costs.forward_bytes(self.shape, emulated or self.shape.parameters, passes, self.precision)
        return Cost("evaluate", flops, memory, SMALL_BYTES)

    def tune(self, stage: str, depth: Depth, trained: Trained) -> Cost:
        """All steps and validations of one tuning."""
        settings, context = Arguments(self.settings, self.precision).tune(seed=0)["settings"], self.longest
        epoch, per_epoch = workloads.training_passes(
            self.workload.train, context, settings.batch_size, settings.max_tokens, self.shape.limits
        )
        num_steps = settings.num_steps or settings.num_epochs * per_epoch
        passes = epoch.times(num_steps / per_epoch)
        flops = costs.forward_flops(self.shape, depth, passes, trained)
        flops += costs.backward_flops(self.shape, depth, passes, trained)
        if settings.eval_steps:
            checks = workloads.sorted_passes(self.workload.validation, context, settings.max_tokens, self.shape.limits)
            checks = checks.times(-(-num_steps // settings.eval_steps))
            flops += costs.forward_flops(self.shape, depth, checks, trained)
        count = costs.trained_parameters(self.shape, depth, trained)
        return Cost(
            stage,
            flops,
            costs.tune_bytes(self.shape, depth, passes, self.precision, trained),
            costs.WIDE * count + SMALL_BYTES,
            costs.checkpoint_bytes(count, trained.best),
        )

    def distill(self, depth: Depth) -> Cost:
        """Steps on windows of generic text: the teacher forward, the emulator forward, and backward for frozen blocks.

        Every `eval_steps`, and at the end, all windows that validate go forward through both.
        """
        how = self.settings.distill
        assert how.num_steps is not None
        block = min(how.block, self.shape.context)
        # Rows of one length: the largest pass is one batch, or as much of it as fits.
        largest = block * min(how.batch_size, max(1, how.max_tokens // block))
        tokens = float(how.batch_size * block * how.num_steps)
        passes = Passes(tokens, tokens * block, tokens, largest, largest)
        trained = Trained(tuned=False, frozen=True, best=how.eval_steps is not None)
        flops = self._taught_flops(depth, passes) + costs.backward_flops(self.shape, depth, passes, trained)
        if how.eval_steps:
            assert self.num_validating is not None
            # All tokens but the first are predicted, in windows that begin with the last one of the window before.
            windows = -(-(self.num_validating - 1) // (block - 1))
            validating = windows * block * float(-(-how.num_steps // how.eval_steps))
            flops += self._taught_flops(depth, Passes(validating, validating * block, validating, largest, largest))
        memory = costs.tune_bytes(self.shape, depth, passes, self.precision, trained)
        memory += costs.FORMATS[self.precision] * self.shape.parameters
        count = costs.trained_parameters(self.shape, depth, trained)
        disk = replace(self.emulate(depth), stage="distill", flops=flops, memory=memory)
        return replace(disk, working_disk=costs.checkpoint_bytes(count, trained.best))

    def plug_in(self, depth: Depth, trained: Trained) -> Cost:
        """The tuned blocks in the format in which the model is loaded; with export, also the full model."""
        exported = self.shape.parameters if self.settings.export.plugged_model else 0
        blocks = sum(self.shape.blocks[source].parameters for source in depth.tuned) * trained.tuned
        tuned = blocks + trained.head * self.shape.head
        return Cost("plug_in", disk=self.shape.loaded_bytes * (tuned + exported) + SMALL_BYTES)

    def select(self, depth: Depth, trained: Trained) -> Cost:
        """A second copy of the files of the best of several tunings."""
        return Cost("select", disk=costs.WIDE * costs.trained_parameters(self.shape, depth, trained) + SMALL_BYTES)

    def _taught_flops(self, depth: Depth, passes: Passes) -> float:
        """Operations of both forward passes: the teacher's, without head and up to the last needed block, and the
        emulator's.
        """
        teacher = Depth.whole(self.shape.num_blocks if depth.taught is None else depth.taught)
        flops = costs.forward_flops(self.shape, teacher, replace(passes, answers=0))
        return flops + costs.forward_flops(self.shape, depth, passes)
