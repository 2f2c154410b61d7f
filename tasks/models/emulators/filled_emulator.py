"""Write an emulator at full depth, with a copy of the nearest kept block in each place of a hidden one."""

from pathlib import Path

from tasks.artifacts.plan import PLAN_FILE, read_plan
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.models.emulators.emulator import save_expanded
from tasks.models.folder_view import only
from tasks.store.files import write_text


def save_filled(folder: Path, out: Path) -> None:
    """Write the emulator of `folder` as a plain model folder of full depth, with a plan beside it.

    The plan keeps every block, tunes those that the emulator has, and freezes the copies.

    Raises:
        InputError: when no block is hidden, or the emulator has harmonizers.
    """
    plan = read_plan(folder, "emulator")
    if not plan.removed_runs:
        raise InputError(f"{folder}: the emulator has all {plan.num_blocks} blocks, so that none is hidden")
    with only(folder, (file.name for file in folder.iterdir() if file.name != PLAN_FILE)) as view:
        shared = fixed_plan(plan.num_blocks, plan.kept, plan.tuned, "all")
        write_text(view / PLAN_FILE, shared.to_json())
        save_expanded(view, out)
    write_text(out / PLAN_FILE, fixed_plan(plan.num_blocks, range(plan.num_blocks), plan.kept).to_json())
