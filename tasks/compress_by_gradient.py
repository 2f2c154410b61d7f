"""Compress by gradient: shrink an emulator's frozen blocks so that the gradients of tuned blocks change little."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.artifacts.emulator import CompressedSummary
from tasks.artifacts.plan import read_plan
from tasks.core.compression.settings import Compression
from tasks.data.sources import Split, TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from tasks.core.batching import Example
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
    from tasks.data.tokenize import load_examples
    from tasks.models.emulators.compressed_emulator import summary, write_compressed
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.loading import load_tokenizer
    from tasks.models.tensor_files import weight_bytes

    folder, tokenizer = work.open(emulator), load_tokenizer(model)
    rows = load_examples(task, split, tokenizer, model.context, limit=num_rows).rows[:num_rows]
    max_tokens = work.pass_tokens(max_tokens, "support.max_tokens")
    seen = _sensitivities(folder, rows, precision, work.device, max_tokens, tokenizer.pad_token_id or 0)
    tally = write_compressed(folder, how, work.out, seen)
    num_bytes = weight_bytes(work.out)
    return {"num_bytes": num_bytes, "num_parameters": count_parameters(work.out), **summary(tally, how)}


def _sensitivities(
    folder: Path, rows: "Sequence[Example]", precision: str, device: str, max_tokens: int, pad_id: int
) -> "Sensitivities":
    """Find the channels of the emulator's frozen blocks, and observe their linear modules on the first rows."""
    from tasks.core.batching import collate, lengths_of, token_batches
    from tasks.core.blocks.devices import input_device, place
    from tasks.core.blocks.factored import linear_shapes
    from tasks.core.blocks.feed_forward import feed_forward_channels
    from tasks.core.blocks.length_limits import length_limits
    from tasks.core.blocks.surgery import get_blocks
    from tasks.core.gradot.observing import NUM_TOKENS, observe, observed_rows
    from tasks.models.emulators.emulator import load_emulator
    from tasks.models.emulators.gradient_preserving_weights import Sensitivities

    plan = read_plan(folder, "emulator")
    positions = {source: [at for at, (each, _) in enumerate(plan.layout) if each == source] for source in plan.frozen}
    network = place(load_emulator(folder, dtype=precision), device).requires_grad_(False)
    channels = feed_forward_channels(network, [first for first, *_ in positions.values()])
    blocks = get_blocks(network)
    # A weight that runs at several positions is one.
    places = {
        (source, path): [(position, path) for position in every]
        for source, every in positions.items()
        for path in linear_shapes(blocks[every[0]])
    }
    chosen = observed_rows(rows)
    batches = token_batches(lengths_of(chosen), min(max_tokens, NUM_TOKENS), length_limits(network.config))
    given = (collate([chosen[row] for row in batch], pad_id).to(input_device(network)) for batch in batches)
    seen = observe(network, places, given)
    return Sensitivities({source: channels[first] for source, (first, *_) in positions.items()}, seen)
