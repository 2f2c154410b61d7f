"""The files of a bundle of tuned blocks, from a tuning's folder, and back.

Only `tuned.safetensors` travels: what was trained of frozen blocks, losses of single rows, states of the optimizer and
checkpoints stay with the data owner.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts.files import require_file
from tasks.artifacts.plan import write_plan
from tasks.artifacts.tuning import TUNED_FILE, VARIANT_FILE
from tasks.core.errors import CrashError, InputError, RefusedError
from tasks.core.plan.layout import Plan
from tasks.core.tuning.method import TuningMethod
from tasks.exchange.manifest import EmulatorManifest, Returns, TensorFacts, TunedBlocksManifest
from tasks.exchange.names import WEIGHTS_FILE
from tasks.models.folder import load_config
from tasks.models.source import ModelSource
from tasks.models.tensor_sources import DTYPES
from tasks.store.files import link_or_copy, write_text

# Numbers of a tuning that its manifest reports: none of them is of a single row.
REPORTED = ("num_steps", "num_rows", "num_parameters", "num_tokens", "seconds", "learning_rate")
# With DP-SGD, tokens and time are left out: they are sums over rows, and no noise covers them.
REPORTED_WITH_DP = ("num_steps", "num_rows", "num_parameters", "dp_epsilon", "dp_delta", "dp_noise", "dp_clip")


def require_returnable(method: TuningMethod, returns: Returns) -> None:
    """Check that what a tuning method trains may come back.

    Raises:
        InputError: when the model owner does not take it.
    """
    if method.method not in returns.methods:
        raise InputError(
            f'tune.method = "{method.method}": the model owner takes back {", ".join(returns.methods)} only'
        )
    if method.method == "lora" and method.lora_rank > returns.max_rank:
        raise InputError(f"tune.lora_rank = {method.lora_rank}: the model owner takes at most {returns.max_rank}")
    if method.lm_head:
        raise InputError("tune.lm_head: the model owner takes back tuned blocks, and no head")


def write_files(tuning: Path, out: Path) -> None:
    """Copy what goes back into the empty folder `out`. tuning: folder of a tuning's artifact."""
    shutil.copyfile(require_file(tuning, TUNED_FILE, "tuning"), out / WEIGHTS_FILE)


def reported(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a tuning's summary that go into the manifest."""
    names = REPORTED_WITH_DP if "dp_noise" in summary else REPORTED
    return {name: float(summary[name]) for name in names if name in summary}


def method_of(manifest: TunedBlocksManifest, returns: Returns) -> TuningMethod:
    """Return the tuning method that a manifest names.

    Raises:
        RefusedError: when it is unknown, or not one that may come back.
    """
    try:
        method = TuningMethod.from_json(json.dumps(manifest.method))
        require_returnable(method, returns)
    except CrashError as error:
        raise RefusedError(f"manifest.json: method: {error}") from None
    return method


def expected_tensors(model: Path, plan: Plan, method: TuningMethod) -> dict[str, dict[str, TensorFacts]]:
    """Return the tensors that must come back, by file. model: folder of the full model.

    Raises:
        RefusedError: when blocks of this family have none that the method trains.
    """
    from tasks.core.blocks.locate_blocks import skeleton
    from tasks.core.tuning.parts import returned_shapes

    try:
        shapes = returned_shapes(skeleton(load_config(model)), plan, method)
    except InputError as error:
        raise RefusedError(f"manifest.json: method: {error}") from None
    return {WEIGHTS_FILE: {name: TensorFacts(dtype="F32", shape=shape) for name, shape in shapes.items()}}


def serving_format(model: Path) -> str | None:
    """Return the number format in which a model's blocks are computed with, as safetensors calls it."""
    dtype = str(load_config(model).dtype or "").removeprefix("torch.")
    return DTYPES.get(dtype)


def require_base(asked: EmulatorManifest, model: ModelSource) -> None:
    """Check that the full model is still the one from which the emulator was made.

    Raises:
        InputError: when its weights are other ones.
    """
    if model.weights != asked.base.weights:
        raise InputError(
            f"{model.name} is not the model from which the emulator was made (weights {model.weights[:12]}..., then"
            f" {asked.base.weights[:12]}...): the tuned blocks fit that one only"
        )


def restore_folder(copy: Path, plan: Plan, method: TuningMethod, out: Path) -> None:
    """Make a tuning's folder in the empty folder `out` from the verified copy of a bundle.

    The weights share the copy's disk space where they can.
    """
    link_or_copy(copy / WEIGHTS_FILE, out / TUNED_FILE)
    write_text(out / VARIANT_FILE, method.to_json())
    write_plan(out, plan)
