"""What each stage of a run costs, from its settings, the model's shape and the task's lengths."""

from dataclasses import dataclass, replace
from typing import Any

from flows.settings import Settings
from tasks.core import costs, workloads
from tasks.core.costs import Depth, Passes, Trained
from tasks.core.shapes import Shape
from tasks.core.workloads import Workload

# As in flows/arguments.py, where neither steps nor epochs are given.
DEFAULT_EPOCHS = 5
# Manifest, plan, scores and the like beside an artifact's tensors, and a report with its pictures: as the demo's are.
SMALL_BYTES, REPORT_BYTES = 2000, 700_000


@dataclass(frozen=True)
class Cost:
    """One stage. flops: operations on the device; memory: bytes on it at the peak; disk: bytes of the artifact;
    working_disk: bytes that only lie there while it runs.
    """

    stage: str
    flops: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    working_disk: float = 0.0


class StageCosts:
    """The cost of each stage of one run, by the stage's name."""

    def __init__(self, settings: Settings, shape: Shape, workload: Workload, precision: str) -> None:
        self.settings, self.shape, self.precision = settings, shape, precision
        task = settings.task
        self.workload = workload.limited(task.num_train, task.num_validation, task.num_test)

    def small(self, stage: str) -> Cost:
        """A stage that computes and leaves next to nothing; a report with its pictures."""
        return Cost(stage, disk=REPORT_BYTES if stage == "report" else SMALL_BYTES)

    def capture(self) -> Cost:
        """The support set through all blocks."""
        support = self.settings.support
        rows = self.workload.train if support.split == "train" else self.workload.validation
        rows = replace(rows, answers=0.0).limited(support.num_rows)
        passes = workloads.sorted_passes(rows, self.shape.context, support.max_tokens)
        return Cost(
            "capture",
            costs.forward_flops(self.shape, self.shape.num_blocks, passes),
            costs.forward_bytes(self.shape, self.shape.parameters, passes, self.precision),
            costs.states_bytes(self.shape, rows.num_rows) + SMALL_BYTES,
        )

    def single(self) -> Cost:
        """The support set through each block alone: as many blocks in all as capture runs."""
        return replace(self.capture(), stage="single")

    def iterative_drop(self, num_kept: int) -> Cost:
        """The support set through all blocks, through all but one, and so on until as many as asked remain."""
        once, num_blocks = self.capture(), self.shape.num_blocks
        runs = sum(range(num_kept, num_blocks + 1)) / num_blocks
        return Cost("iterative_drop", once.flops * runs, once.memory, SMALL_BYTES)

    def similarity(self) -> Cost:
        """All measures between all states; on the CPU."""
        support, states = self.settings.support, self.shape.num_blocks + 1
        rows = self.workload.train if support.split == "train" else self.workload.validation
        count = min(support.num_rows, rows.num_rows)
        disk = costs.WIDE * ((costs.NUM_CKA + 1) * states**2 + self.shape.num_blocks)
        return Cost("similarity", costs.similarity_flops(self.shape, count), 0.0, disk + SMALL_BYTES)

    def emulate(self, depth: Depth) -> Cost:
        """Bytes of the kept blocks and of all outside the blocks, copied."""
        disk = self.shape.stored_bytes * costs.emulator_parameters(self.shape, depth)
        return Cost("emulate", disk=disk + SMALL_BYTES)

    def evaluate(self, positions: int, num_parameters: float) -> Cost:
        """The scored rows through so many blocks."""
        wanted = self.settings.evaluate.max_tokens
        passes = workloads.sorted_passes(self.workload.scored, self.shape.context, wanted)
        flops = costs.forward_flops(self.shape, positions, passes)
        memory = costs.forward_bytes(self.shape, num_parameters, passes, self.precision)
        return Cost("evaluate", flops, memory, SMALL_BYTES)

    def tune(self, stage: str, depth: Depth, trained: Trained) -> Cost:
        """All steps and validations of one tuning."""
        settings, context = self.settings.tune, self.shape.context
        epoch, per_epoch = workloads.training_passes(
            self.workload.train, context, settings.batch_size, settings.max_tokens
        )
        num_steps = settings.num_steps or (settings.num_epochs or DEFAULT_EPOCHS) * per_epoch
        passes = epoch.times(num_steps / per_epoch)
        flops = costs.forward_flops(self.shape, depth.positions, passes)
        flops += costs.backward_flops(self.shape, depth, passes, trained)
        if settings.eval_steps:
            checks = workloads.sorted_passes(self.workload.validation, context, settings.max_tokens)
            checks = checks.times(-(-num_steps // settings.eval_steps))
            flops += costs.forward_flops(self.shape, depth.positions, checks)
        count = costs.trained_parameters(self.shape, depth, trained)
        return Cost(
            stage,
            flops,
            costs.tune_bytes(self.shape, depth, passes, self.precision, trained),
            costs.WIDE * count + SMALL_BYTES,
            costs.checkpoint_bytes(count, trained.best),
        )

    def distill(self, depth: Depth, how: dict[str, Any]) -> Cost:
        """Steps on generic text: the teacher forward, the emulator forward and, for its frozen blocks, backward."""
        block, rows, num_steps = min(how["block"], self.shape.context), how["batch_size"], how["num_steps"]
        tokens = float(rows * block * num_steps)
        # Rows of one length: the largest pass is one batch, or what of it fits.
        largest = min(rows * block, max(block, how.get("max_tokens") or self.settings.tune.max_tokens))
        passes = Passes(tokens, tokens * block, tokens, largest, largest)
        trained = Trained(tuned=False, frozen=True)
        flops = costs.forward_flops(self.shape, self.shape.num_blocks, replace(passes, answers=0))
        flops += costs.forward_flops(self.shape, depth.positions, passes)
        flops += costs.backward_flops(self.shape, replace(depth, lowest=0), passes, trained)
        memory = costs.tune_bytes(self.shape, depth, passes, self.precision, trained)
        memory += costs.FORMATS[self.precision] * self.shape.parameters
        count = costs.trained_parameters(self.shape, depth, trained)
        disk = self.shape.stored_bytes * costs.emulator_parameters(self.shape, depth) + SMALL_BYTES
        return Cost("distill", flops, memory, disk, costs.checkpoint_bytes(count, best=False))

    def plug_in(self, depth: Depth) -> Cost:
        """The tuned blocks in the format in which the model is loaded; with export the full model beside them."""
        exported = self.shape.parameters if self.settings.export.plugged_model else 0
        return Cost("plug_in", disk=self.shape.loaded_bytes * (depth.tuned * self.shape.block + exported) + SMALL_BYTES)

    def select(self, depth: Depth, trained: Trained) -> Cost:
        """The files of the best of several tunings, once more."""
        return Cost("select", disk=costs.WIDE * costs.trained_parameters(self.shape, depth, trained) + SMALL_BYTES)
