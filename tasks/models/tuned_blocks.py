"""The files of a tuning's folder: the tensors that go back to the model owner, and those that stay.

`tuned.safetensors` goes back: `"{original block index}.{name}"` and `"lm_head.{name}"` to tensor, where a name is that
of a parameter in the block, `{module}.lora_A` or `{module}.lora_B`, or `adapter.{down, up}.{weight, bias}`;
`"prompt.weight"` is a soft prompt.
`emulator.safetensors`, with the same names, holds frozen blocks that were trained: only the tuned emulator needs them.
`variant.json` says what was trained and how (without it: whole tuned blocks), `plan.json` in which model.
A tuning that diverged leaves `diverged.json` only.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.files import load_tensors, read_object, require_file
from tasks.artifacts.plan import read_plan, write_plan
from tasks.artifacts.tuning import DIVERGED_FILE, KEPT_FILE, TUNED_FILE, VARIANT_FILE
from tasks.core.errors import DivergedError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.method import TuningMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TunedBlocksFile:
    """The content of a tuning's folder. tuned: goes back to the model owner; kept: stays with the emulator."""

    plan: Plan
    variant: TuningMethod
    tuned: "dict[str, Tensor]"
    kept: "dict[str, Tensor]" = field(default_factory=dict)


def write_returned(folder: Path, plan: Plan, variant: TuningMethod, state: "dict[str, Tensor]") -> None:
    """Write a state, divided into the tensors that go back and those that stay."""
    from safetensors.torch import save_file

    from tasks.core.tuning.parts import is_returned

    tuned = {name: tensor.contiguous() for name, tensor in state.items() if is_returned(name, plan)}
    save_file(tuned, folder / TUNED_FILE)
    if kept := {name: tensor.contiguous() for name, tensor in state.items() if name not in tuned}:
        save_file(kept, folder / KEPT_FILE)
    (folder / VARIANT_FILE).write_text(variant.to_json())
    write_plan(folder, plan)


def write_diverged(folder: Path, reason: str) -> None:
    """Write the reason why there is nothing to return."""
    (folder / DIVERGED_FILE).write_text(json.dumps({"diverged": reason}))


def read_returned(folder: Path) -> TunedBlocksFile:
    """Read a tuning's folder.

    Names and shapes are checked against the model when the tensors are put into it.

    Raises:
        DivergedError: when the tuning diverged.
        InputError: when a file is missing or invalid.
    """
    if (folder / DIVERGED_FILE).exists():
        raise DivergedError(read_object(folder, DIVERGED_FILE, "reason", ["diverged"])["diverged"])
    tuned = require_file(folder, TUNED_FILE, "tuning")
    variant, kept = folder / VARIANT_FILE, folder / KEPT_FILE
    return TunedBlocksFile(
        read_plan(folder, "tuning"),
        TuningMethod.from_json(variant.read_text()) if variant.exists() else TuningMethod(),
        load_tensors(tuned, "torch"),
        load_tensors(kept, "torch") if kept.exists() else {},
    )
