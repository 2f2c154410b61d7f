"""The files of an emulator's bundle, from an emulator's folder, and back.

The weights travel as they are stored, with `tokenizer.json`; the manifest says how to make a config. No tensor of a
removed block and nothing of a tuning is among them: only the emulator's own files are read.
"""

import json
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tasks.artifacts.emulator import COMPRESSION_FILE
from tasks.artifacts.plan import PLAN_FILE, read_plan
from tasks.core.errors import EnvironmentFault, InputError, RefusedError
from tasks.core.plan.layout import Plan, make_layout
from tasks.core.tuning.method import WHOLE_BLOCKS
from tasks.exchange.architecture import config_values, describe
from tasks.exchange.manifest import Architecture, EmulatorManifest, PlanFacts, TensorFacts, TokenizerFacts
from tasks.exchange.names import TOKENIZER_FILE, is_weights, shard_name
from tasks.exchange.tokenizer import (
    probe_tokenizer,
    require_ids,
    tokenizer_facts,
    write_tokenizer,
    write_tokenizer_config,
)
from tasks.exchange.weights import ITEM_BYTES
from tasks.models.block_names import BlockNames
from tasks.models.emulators.compressed_emulator import read_compression
from tasks.models.folder import load_config
from tasks.models.loading import load_tokenizer
from tasks.models.resolving import read_usable_config
from tasks.models.source import ModelSource
from tasks.models.tensor_files import INDEX_FILE, SINGLE_FILE, read_header, stored_tensors, weight_files
from tasks.store.files import link_or_copy, write_text

# Harmonizers and separate copies of tied tensors are beside the network's own parameters.
MOST_ADDED = 2


@dataclass(frozen=True)
class EmulatorParts:
    """Fields of the manifest that follow from the emulator's folder."""

    architecture: Architecture
    plan: PlanFacts
    compression: dict[str, bool | int | float | str | None] | None
    tokenizer: TokenizerFacts


def require_describable(model: ModelSource) -> None:
    """Check that config and tokenizer of a full model can be described to another party.

    Raises:
        InputError: when they cannot.
    """
    from tasks.core.blocks.locate_blocks import text_config

    config, tokenizer = load_config(Path(model.path)), load_tokenizer(model)
    describe(config)
    tokenizer_facts(tokenizer, model.context)
    require_ids(tokenizer, text_config(config).vocab_size)


def write_files(emulator: Path, model: ModelSource, out: Path) -> EmulatorParts:
    """Write the files of a bundle into the empty folder `out`. model: the full model, for its tokenizer.

    Raises:
        InputError: when a weight has a number format that a bundle cannot have, or config or tokenizer cannot be
            described.
    """
    plan = read_plan(emulator, "emulator")
    for name, tensor in stored_tensors(emulator).items():
        if tensor.dtype not in ITEM_BYTES:
            raise InputError(f"{emulator}: {name} is {tensor.dtype}; a bundle holds {', '.join(ITEM_BYTES)}")
    shards = [name for name in weight_files(emulator) if name != INDEX_FILE]
    for number, name in enumerate(shards, start=1):
        shutil.copyfile(emulator / name, out / shard_name(number, len(shards)))
    return EmulatorParts(
        architecture=describe(load_config(emulator)),
        plan=PlanFacts(kept=plan.kept, tuned=plan.tuned, share=plan.share),  # type: ignore[arg-type]
        compression=read_compression(emulator),
        tokenizer=write_tokenizer(load_tokenizer(model), model.context, out),
    )


def template_of(model: Path, plan: Plan) -> dict[str, TensorFacts]:
    """Return the tensors of the tuned blocks as they come back whole, from the full model's config.

    model: folder of the full model.
    """
    from tasks.core.blocks.locate_blocks import skeleton
    from tasks.core.tuning.parts import returned_shapes

    shapes = returned_shapes(skeleton(load_config(model)), plan, WHOLE_BLOCKS)
    return {name: TensorFacts(dtype="F32", shape=shape) for name, shape in shapes.items()}


def plan_of(manifest: EmulatorManifest) -> Plan:
    """Return the plan that a manifest describes.

    Raises:
        RefusedError: when its blocks are not those of one model.
    """
    facts, num_blocks = manifest.plan, manifest.base.num_blocks
    try:
        layout = make_layout(num_blocks, facts.kept, facts.tuned, facts.share)
        return Plan(num_blocks, facts.kept, facts.tuned, facts.share, layout)
    except InputError as error:
        raise RefusedError(f"manifest.json: {error}") from None


def restore_folder(copy: Path, manifest: EmulatorManifest, out: Path) -> None:
    """Make an emulator's folder in the empty folder `out` from the verified copy of a bundle.

    Every file but the weights and `tokenizer.json` is written here, from the manifest's checked fields. Weights share
    the copy's disk space where they can.

    Raises:
        RefusedError: when the manifest describes no network or plan that can be built here.
    """
    shards = sorted(name for name in manifest.files if is_weights(name))
    if shards != [shard_name(number, len(shards)) for number in range(1, len(shards) + 1)]:
        raise RefusedError("manifest.json: files: neither one file of weights nor all parts of it")
    names = [SINGLE_FILE] if len(shards) == 1 else sorted(shards)
    for name, source in zip(names, shards, strict=True):
        link_or_copy(copy / source, out / name)
    if len(shards) > 1:
        weight_map = {tensor: name for name in names for tensor in read_header(out / name)}
        write_text(out / INDEX_FILE, json.dumps({"metadata": {}, "weight_map": weight_map}))
    restore_description(copy, manifest, out)
    _require_usable(out, manifest)


def restore_description(copy: Path, manifest: EmulatorManifest, out: Path) -> None:
    """Write everything but weights of an emulator's folder from the verified copy of manifest and `tokenizer.json`.

    Raises:
        RefusedError: when the manifest describes no plan.
    """
    plan, config = plan_of(manifest), config_values(manifest.architecture)
    link_or_copy(copy / TOKENIZER_FILE, out / TOKENIZER_FILE)
    write_tokenizer_config(manifest.tokenizer, out)
    write_text(out / "config.json", json.dumps(config, indent=1, sort_keys=True))
    write_text(out / PLAN_FILE, plan.to_json())
    if manifest.compression is not None:
        write_text(out / COMPRESSION_FILE, json.dumps(manifest.compression, sort_keys=True))


def _require_usable(folder: Path, manifest: EmulatorManifest) -> None:
    """Check that config, weights and tokenizer of an emulator's folder belong together, before anything uses them.

    Raises:
        RefusedError: when the network cannot be built, the weights are not those of its blocks, or the tokenizer cannot
            be loaded within limits or has ids beyond the vocabulary.
    """
    from tasks.core.blocks.locate_blocks import get_blocks, skeleton

    num_kept = len(manifest.plan.kept)
    read_usable_config(folder)
    stored = stored_tensors(folder)
    BlockNames(stored, num_kept, folder)
    try:
        network = skeleton(load_config(folder))
    except EnvironmentFault:
        # A disk of this party that is full is not the fault of who sent the bundle.
        raise
    except Exception as error:
        raise RefusedError(f"architecture: no network can be built from it ({type(error).__name__})") from None
    if (found := len(get_blocks(network))) != num_kept:
        raise RefusedError(f"architecture: {found} blocks, but the plan keeps {num_kept}")
    expected = sum(parameter.numel() for parameter in network.parameters())
    if sum(prod(tensor.shape) for tensor in stored.values()) > MOST_ADDED * expected:
        raise RefusedError("the weights have more numbers than the network that the manifest describes")
    embeddings: Any = network.get_input_embeddings()
    largest = probe_tokenizer(folder / TOKENIZER_FILE, manifest.tokenizer.special_tokens.values())
    size = embeddings.num_embeddings
    if largest >= size:
        raise RefusedError(f"{TOKENIZER_FILE}: token id {largest}, but the model's vocabulary ends at {size - 1}")
