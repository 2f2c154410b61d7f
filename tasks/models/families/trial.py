"""Try which operations are exact in a model's family, on a small random model of its config, on disk too."""

import copy
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.models.families.known import OPERATIONS, failed_operations, require_exact
from tasks.models.folder import load_config, quiet_transformers
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def operations_not_exact(model: ModelSource) -> dict[str, str]:
    """Return the operations that are not exact for a model, and why: from the table of families, or else from a trial.

    Raises:
        InputError: when the family is unknown and cannot be tried, or not even capture and scoring are exact in it.
    """
    folder, known = Path(model.path), failed_operations(model.family)
    if known is None:
        failed = try_family(folder)
        require_exact(model.name, model.family, failed, {"capture": "", "scoring": ""})
        return failed
    if "surgery" in known or not (reason := check_rebuildable(folder)):
        return dict(known)
    return {**known, "surgery": reason}


def try_family(folder: Path) -> dict[str, str]:
    """Try the family of a model folder, in about a second, and return the operations that are not exact, and why.

    Raises:
        InputError: when no small model of this config can be built, so that nothing is known about its family.
    """
    from tasks.core.families.shrinking import shrunk

    config = load_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return try_config(shrunk(config))
    except Exception as error:
        raise InputError(
            f"{folder} is of family {config.model_type}, which this version was not tested with, and a small model of"
            f" it to test on cannot be built ({type(error).__name__}: {' '.join(str(error).split())[:200]}). Take a"
            " model of a family listed in docs/reference/families.md"
        ) from error


def try_config(config: "PreTrainedConfig") -> dict[str, str]:
    """Return the operations that are not exact in a small model of this config, and why.

    Errors of building the model, or of running it once, are passed on.
    """
    import torch

    from tasks.core.families.trial import random_model, try_model

    quiet_transformers()
    model = random_model(config)
    with torch.no_grad():
        copy.deepcopy(model)(torch.tensor([[5, 6, 7]]), use_cache=False)
    failed = try_model(model).failed
    for operation, check in (("surgery", _check_on_disk), ("stand_ins", _check_stand_ins_on_disk)):
        if "surgery" not in failed and operation not in failed:
            try:
                check(model)
            except Exception as error:
                failed[operation] = f"on disk: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return {operation: failed[operation] for operation in OPERATIONS if operation in failed}


def check_rebuildable(folder: Path) -> str | None:
    """Return why blocks of this model cannot be removed on disk although its family allows it; None if they can.

    Some settings make a block depend on its depth (GPT-2's scale_attn_by_inverse_layer_idx).
    """
    from tasks.core.blocks.locate_blocks import require_rebuildable
    from tasks.core.families.shrinking import shrunk

    small = shrunk(load_config(folder))
    num_blocks = small.get_text_config(decoder=True).num_hidden_layers
    try:
        for sources in (range(0, num_blocks, 2), range(1, num_blocks, 2)):
            require_rebuildable(small, list(sources))
    except InputError as error:
        return str(error)
    return None


def _check_on_disk(model: "PreTrainedModel") -> None:
    """Check that an emulator written to files gives the logits of the one made in memory.

    Raises:
        ValueError: when they differ.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.core.blocks.surgery import get_blocks, with_layout
    from tasks.core.plan.layout import fixed_plan
    from tasks.models.emulators.emulator import load_emulator, write_emulator

    num_blocks = len(get_blocks(model))
    kept = [index for index in range(num_blocks) if index % 3 != 2]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with TemporaryDirectory() as scratch, torch.no_grad():
        whole = Path(scratch) / "whole"
        model.save_pretrained(whole)
        for share in (None, "all"):
            plan = fixed_plan(num_blocks, kept, kept[:1], share)
            expected = with_layout(model, plan)(ids, use_cache=False).logits
            folder = Path(scratch) / f"emulator {share}"
            write_emulator(whole, plan, folder)
            found = load_emulator(folder)(ids, use_cache=False).logits
            if not torch.allclose(found, expected, atol=1e-4, rtol=1e-3):
                raise ValueError(f"the emulator in files is another one than in memory (plan.share = {share})")
            if share is None:
                plain = AutoModelForCausalLM.from_pretrained(folder).eval()
                if not torch.allclose(plain(ids, use_cache=False).logits, expected, atol=1e-4, rtol=1e-3):
                    raise ValueError("the emulator in files, loaded by from_pretrained, is another one than in memory")


def _check_stand_ins_on_disk(model: "PreTrainedModel") -> None:
    """Check that linear stand-ins folded in on disk give the logits of those folded in in memory.

    Raises:
        ValueError: when they differ.
    """
    import torch

    from tasks.artifacts.stand_ins import Folding
    from tasks.core.blocks.locate_blocks import text_config
    from tasks.core.blocks.surgery import get_blocks, with_layout
    from tasks.core.plan.layout import LINEAR, fixed_plan
    from tasks.core.stand_ins.residual_outputs import fold, residual_outputs
    from tasks.models.emulators.emulator import load_emulator, write_emulator

    num_blocks, width = len(get_blocks(model)), text_config(model.config).hidden_size
    plan = fixed_plan(num_blocks, [index for index in range(num_blocks) if index != 1], [0], LINEAR)
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    ids, matrix = torch.tensor([[5, 6, 7, 8, 9]]), torch.eye(width) + 0.1 * noise
    with TemporaryDirectory() as scratch, torch.no_grad():
        whole, folder = Path(scratch) / "whole", Path(scratch) / "emulator"
        model.save_pretrained(whole)
        paths = residual_outputs(model)
        places = {block: Folding(paths[block], matrix) for block in plan.frozen}
        write_emulator(whole, plan, folder, places)
        emulator = with_layout(copy.deepcopy(model), plan)
        for block, (path, _) in places.items():
            fold(get_blocks(emulator)[plan.kept.index(block)], path, matrix)
        if not torch.allclose(load_emulator(folder)(ids).logits, emulator(ids).logits, atol=1e-4, rtol=1e-3):
            raise ValueError("linear stand-ins folded in on disk are others than in memory")
