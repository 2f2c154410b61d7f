"""Upper bounds of the disk that a run takes, from its settings and the size of the model's files."""

from pathlib import Path
from typing import Any

from flows.running.arguments import grids
from flows.settings.run import Settings
from tasks.models.tensor_files import weight_bytes

# Room for the smallest useful run; what a run really needs is estimated from the model's size.
MIN_FREE_BYTES = 200 * 2**20
# Bytes for each trained parameter: a checkpoint holds the weight, two moments and the best state in float32; there is
# the finished checkpoint and the one being written, of two tunings at once.
CHECKPOINT_BYTES = 2 * 2 * 16


def needed_bytes(settings: Settings, model: Any) -> int:
    """Upper bound of the disk a run takes, in bytes: emulators, tuned blocks in float32, and concurrent checkpoints."""
    parameters = _num_parameters(model)
    plan, num_seeds = settings.plan, len(settings.tune.seeds)
    tuned = parameters * max(plan.num_tuned_blocks, len(plan.tuned)) / model.num_blocks
    # Whole blocks even where only small parts of them are returned, since plugging in merges these into whole blocks.
    num_rates, num_full_rates = (len(rates) + (len(rates) > 1) for rates in grids(settings))
    trained = tuned if settings.tune.trained == "tuned" else parameters * plan.num_kept / model.num_blocks
    of_strategy = num_rates * trained + tuned
    returned = (
        4
        * num_seeds
        * (len(settings.strategy) * of_strategy + settings.full_tune.enabled * num_full_rates * parameters)
    )
    largest = parameters if settings.full_tune.enabled else max(trained, _num_distilled(settings, model))
    # Of each strategy its own, and a checkpoint with two moments while another is written.
    harmonizers = (len(settings.strategy) + CHECKPOINT_BYTES / 4) * harmonizer_bytes(settings, model)
    used = emulator_bytes(settings, model) + returned + harmonizers
    return int(used + CHECKPOINT_BYTES * largest) + MIN_FREE_BYTES


def emulator_bytes(settings: Settings, model: Any) -> int:
    """Upper bound of the disk that the emulators of all strategies take, in bytes."""
    # Compressing and distilling each write another emulator, at most as large.
    steps = 1 + (settings.compress.method != "none") + settings.distill.enabled
    share = settings.plan.num_kept / model.num_blocks
    whole = int(steps * len(settings.strategy) * weight_bytes(Path(model.path)) * share)
    return whole + steps * len(settings.strategy) * harmonizer_bytes(settings, model)


def harmonizer_bytes(settings: Settings, model: Any) -> int:
    """Upper bound of the bytes of a harmonizer for every block in float32; 0 where none are trained."""
    if not settings.trains_harmonizers:
        return 0
    from tasks.models.folder import load_config

    width = load_config(Path(model.path)).get_text_config(decoder=True).hidden_size
    return 4 * model.num_blocks * 2 * settings.harmonizers.rank * width


def distilling_bytes(settings: Settings, model: Any) -> int:
    """Upper bound of the disk that checkpoints of distillation take, in bytes."""
    return int(CHECKPOINT_BYTES * _num_distilled(settings, model))


def _num_parameters(model: Any) -> float:
    """Estimate the number of parameters from weights in 16 bits, as in nearly all models; twice too high for 32."""
    return weight_bytes(Path(model.path)) / 2


def _num_distilled(settings: Settings, model: Any) -> float:
    """Number of parameters in the frozen blocks of an emulator, where these are distilled."""
    num_frozen = settings.plan.num_kept - settings.plan.num_tuned_blocks
    return settings.distill.enabled * _num_parameters(model) * num_frozen / model.num_blocks
