"""Compress by gradient: shrink an emulator's frozen blocks so that the gradients of tuned blocks change little."""

from typing import TYPE_CHECKING, Any

from tasks.artifacts.emulator import CompressedSummary
from tasks.artifacts.plan import read_plan
from tasks.core.compression.settings import Compression
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from tasks.core.gradot.observing import Place
    from tasks.core.plan.layout import Plan
    from tasks.models.emulators.gradient_preserving_weights import Sensitivities


@stage(packages=("torch", "transformers", "safetensors", "tokenizers", "lm_eval"), cores="all", gpu=True)
def compress_by_gradient(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    emulator: Ref,
    *,
    how: Compression,
    num_rows: int,
    split: Split,
    max_tokens: int,
    precision: str,
) -> CompressedSummary:
    """Write an emulator folder like the given one with frozen blocks that GradOT has made smaller (arXiv 2507.04455).

    The first rows of the support set run through the emulator forward and back (`observing.observed_rows`), always
    prompt and answer, because losses are of answers. Tuned blocks stay as they are.

    Raises:
        InputError: when the plan has no frozen block, the rank fits no weight, the family has no channels that can be
            removed, or a gradient is not finite.
    """
    from tasks.models.emulators.compressed_emulator import summary, write_compressed
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    chosen: dict[str, Any] = {"num_rows": num_rows, "split": split, "precision": precision}
    max_tokens = work.pass_tokens(max_tokens, "support.max_tokens")
    seen = _sensitivities(work, model, task, emulator, max_tokens=max_tokens, **chosen)
    tally = write_compressed(work.open(emulator), how, work.out, seen)
    num_bytes = weight_bytes(work.out)
    return {"num_bytes": num_bytes, "num_parameters": count_parameters(work.out), **summary(tally, how)}


def _sensitivities(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    emulator: Ref,
    *,
    num_rows: int,
    split: Split,
    max_tokens: int,
    precision: str,
) -> "Sensitivities":
    from tasks.core.batching import collate, lengths_of, token_batches
    from tasks.core.blocks.devices import input_device, place
    from tasks.core.blocks.feed_forward import feed_forward_channels
    from tasks.core.blocks.length_limits import length_limits
    from tasks.core.gradot.observing import NUM_TOKENS, observe, observed_rows
    from tasks.data.tokenize import load_examples
    from tasks.models.emulators.emulator import load_emulator
    from tasks.models.emulators.gradient_preserving_weights import Sensitivities
    from tasks.models.loading import load_tokenizer

    folder, tokenizer = work.open(emulator), load_tokenizer(model)
    plan = read_plan(folder, "emulator")
    rows = observed_rows(load_examples(task, split, tokenizer, model.context, limit=num_rows).rows[:num_rows])
    network = place(load_emulator(folder, dtype=precision), work.device).requires_grad_(False)
    first = {source: _positions(plan, source)[0] for source in plan.frozen}
    by_position = feed_forward_channels(network, first.values())
    channels = {source: by_position[position] for source, position in first.items()}
    batches = token_batches(lengths_of(rows), min(max_tokens, NUM_TOKENS), length_limits(network.config))
    device, pad_id = input_device(network), tokenizer.pad_token_id or 0
    given = (collate([rows[index] for index in indices], pad_id).to(device) for indices in batches)
    return Sensitivities(channels, observe(network, _places(network, plan), given))


def _positions(plan: "Plan", source: int) -> list[int]:
    """Return the positions at which a block runs."""
    return [position for position, (each, _) in enumerate(plan.layout) if each == source]


def _places(network: Any, plan: "Plan") -> "dict[Place, list[Place]]":
    """Return the linear modules of frozen blocks by block and path, with all positions at which they run."""
    from tasks.core.blocks.factored import linear_shapes
    from tasks.core.blocks.surgery import get_blocks

    blocks = get_blocks(network)
    return {
        (source, path): [(position, path) for position in _positions(plan, source)]
        for source in plan.frozen
        for path in linear_shapes(blocks[_positions(plan, source)[0]])
    }
