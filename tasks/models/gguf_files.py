"""Convert models in GGUF files, the format of llama.cpp, to safetensors folders: once, and tensor by tensor.

transformers reads config, tokenizer and tensor names; the package gguf restores the numbers. They are written as
float32, which holds every number of the types that it restores exactly.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models.folder import quiet_transformers
from tasks.models.folder_facts import GGUF_TYPES
from tasks.models.tensor_files import write_tensors
from tasks.models.tensor_sources import ComputedTensor
from tasks.store.boundary import translated
from tasks.store.files import write_text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

SUFFIX = ".gguf"
PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Architectures by GGUF's names whose tensors are stored one to one, and were compared with their origin in a test.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2")
# Of these, queries are scaled by a number that the file does not hold; transformers takes that of models with this
# width of a head.
UNSTATED_SCALE = {"gemma2": 256, "gemma3": 256}
# Byte-pair tokenizers that split a text as GPT-2's, and one that also splits numbers into digits.
AS_GPT2, SINGLE_DIGITS = ("default", "gpt-2"), "smollm"
PROBE = "Tokenizers don't agree on 12345,  two spaces\n\n\tand DON'T either."
INSTEAD = "Give the model's folder with safetensors weights"


def find_parts(place: Path) -> list[Path]:
    """Return the files of the GGUF model that a file or folder is, in order; none if it is another kind of model.

    Raises:
        InputError: when a folder holds several models, or a part of one is missing.
    """
    files = [place] if place.is_file() else sorted(place.glob("*.gguf"))
    if not files or files[0].suffix != SUFFIX:
        return []
    found = [PART.fullmatch(file.name) for file in files]
    if len(files) > 1 and not (all(found) and len({match.group("name", "count") for match in found if match}) == 1):
        names = ", ".join(file.name for file in files)
        raise InputError(f"{place} holds several GGUF files ({names}): give one of them as model.name")
    if found[0] is None:
        return files
    name, count = found[0].group("name", "count")
    parts = [files[0].with_name(f"{name}-{number:05d}-of-{count}.gguf") for number in range(1, int(count) + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        are = "is" if len(missing) == 1 else "are"
        raise InputError(f"{files[0].parent}: of {int(count)} parts of {name}, {', '.join(missing)} {are} missing")
    return parts


def to_safetensors(parts: list[Path], out: Path) -> None:
    """Write the model of these files as a safetensors folder `out`, with config and tokenizer.

    config.json keeps how many tensors of each type the files have (`GGUF_TYPES`): it names the quantisation.

    Raises:
        InputError: when a file is damaged, the architecture is not one of `ARCHITECTURES`, transformers does not read a
            part of its settings, or a tensor of the model or of the files has no counterpart.
    """
    config, stored = _describe(parts, out)
    with translated(f"{parts[0]}: the tensors cannot be restored"):
        write_tensors(list(_tensors(stored, config, parts[0])), out)


def write_config(parts: list[Path], out: Path) -> None:
    """Write config and tokenizer of the model alone, which takes seconds.

    Raises:
        InputError: as `to_safetensors`, as far as that can be said without the tensors.
    """
    _describe(parts, out)


def _describe(parts: list[Path], out: Path) -> tuple["PreTrainedConfig", dict[str, Any]]:
    """Write config and tokenizer; return the config, and what the files hold of each tensor, by their names."""
    from transformers import AutoConfig, AutoTokenizer

    quiet_transformers()
    readers = [_reader(part) for part in parts]
    first = parts[0]
    architecture = _architecture(readers[0], first)
    _require_plain_positions(readers[0], first)
    with translated(f"{first}: transformers cannot read this GGUF file"):
        config = AutoConfig.from_pretrained(first.parent, gguf_file=first.name)
        tokenizer = AutoTokenizer.from_pretrained(first.parent, gguf_file=first.name)
    _require_known_scale(config, architecture, first)
    if architecture == "gpt2":
        # transformers leaves it at the number of the published models.
        config.n_positions = int(_field(readers[0], "gpt2.context_length", config.n_positions))
    stored = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    # transformers looks for the head in the first part only.
    config.tie_word_embeddings = "output.weight" not in stored
    config.dtype = "float32"
    setattr(config, GGUF_TYPES, dict(Counter(tensor.tensor_type.name for tensor in stored.values()).most_common()))
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.json", config.to_json_string())
    _write_tokenizer(_with_own_splits(tokenizer, readers[0], first), out, first)
    return config, stored


def _reader(part: Path) -> Any:
    with translated(f"{part} is a GGUF file", "pip install 'crash-flow[gguf]'"):
        from gguf import GGUFReader
    with translated(f"{part} cannot be read", "It is damaged, or not a GGUF file: fetch it again"):
        return GGUFReader(part)


def _field(reader: Any, key: str, default: Any) -> Any:
    found = reader.get_field(key)
    return default if found is None else found.contents()


def _architecture(reader: Any, part: Path) -> str:
    found = str(_field(reader, "general.architecture", "none"))
    if found not in ARCHITECTURES:
        raise InputError(
            f"{part}: its architecture is {found}; of GGUF files, {', '.join(ARCHITECTURES)} can be read. {INSTEAD}"
        )
    return found


def _require_plain_positions(reader: Any, part: Path) -> None:
    """Refuse scaled rotary embeddings, which transformers does not read from GGUF files.

    Raises:
        InputError: names the setting or tensor that scales them.
    """
    scaled = [key for key in reader.fields if key.endswith("rope.scaling.type") and _field(reader, key, "") != "none"]
    scaled += [key for key in reader.fields if key.endswith("rope.scale_linear") and _field(reader, key, 1) != 1]
    scaled += [tensor.name for tensor in reader.tensors if tensor.name.startswith(("rope_freqs", "rope_factors"))]
    if scaled:
        raise InputError(
            f"{part}: {scaled[0]} scales the positions, and transformers does not read that from GGUF files. {INSTEAD}"
        )


def _require_known_scale(config: "PreTrainedConfig", architecture: str, part: Path) -> None:
    """Refuse Gemma models whose scale of queries is not that of their width of a head.

    Raises:
        InputError: names the width.
    """
    known = UNSTATED_SCALE.get(architecture)
    if known is not None and config.head_dim != known:
        raise InputError(
            f"{part}: a {architecture} with heads of {config.head_dim} numbers scales its queries by a number that the"
            f" file does not hold. {INSTEAD}"
        )


def _with_own_splits(tokenizer: Any, reader: Any, part: Path) -> Any:
    """Return a tokenizer that splits texts as its file says.

    Raises:
        InputError: when it is a kind of split that neither transformers nor this module knows.
    """
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    if _field(reader, "tokenizer.ggml.model", "") != "gpt2":
        return tokenizer
    name = _field(reader, "tokenizer.ggml.pre", AS_GPT2[0])
    if name not in (*AS_GPT2, SINGLE_DIGITS, *GGUF_PRE_TOKENIZER_SPLITS):
        raise InputError(f"{part}: its tokenizer splits texts as {name}, which transformers does not know. {INSTEAD}")
    if name in GGUF_PRE_TOKENIZER_SPLITS:
        return tokenizer
    split: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == SINGLE_DIGITS:
        split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split])
    tokenizer.backend_tokenizer.pre_tokenizer = split
    # Of any other class, transformers may set the splits of its family again when it is loaded.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        **{name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")},
    )


def _write_tokenizer(tokenizer: Any, out: Path, part: Path) -> None:
    """Write the tokenizer, and require that transformers loads it as it is: it replaces those of some families.

    Raises:
        InputError: when it does not.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(out)
    if AutoTokenizer.from_pretrained(out)(PROBE).input_ids != tokenizer(PROBE).input_ids:
        raise InputError(f"{part}: transformers would not encode texts as this file's tokenizer does. {INSTEAD}")


def _tensors(stored: dict[str, Any], config: "PreTrainedConfig", part: Path) -> Iterator[tuple[str, ComputedTensor]]:
    """Yield name and source of each tensor of the model.

    Raises:
        InputError: when the tensors of model and files are not the same, or differ in shape.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    from tasks.core.blocks.locate_blocks import skeleton

    model = skeleton(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    architecture = config.model_type.removesuffix("_text")
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    names = {theirs: ours for theirs, ours in get_gguf_hf_weights_map(model, processor).items() if ours in shapes}
    _require_same(set(stored), names, part)
    for theirs, ours in names.items():

        def compute(tensor: Any = stored[theirs], shape: tuple[int, ...] = shapes[ours]) -> "Tensor":
            import numpy as np
            import torch
            from gguf import dequantize

            restored = dequantize(tensor.data, tensor.tensor_type)
            made = processor.process(restored, tensor.name, parsed_parameters={"tensors": {}}).weights
            if made.shape != shape:
                raise InputError(
                    f"{part}: {tensor.name} is {list(made.shape)}, but {list(shape)} by the config that transformers"
                    f" makes of the file. {INSTEAD}"
                )
            return torch.from_numpy(np.array(made, dtype=np.float32))

        yield ours, ComputedTensor("F32", shapes[ours], compute)


def _require_same(stored: set[str], names: dict[str, str], part: Path) -> None:
    """Refuse tensors without a place in the model, and missing ones.

    Raises:
        InputError: names the first ones.
    """
    if unknown := sorted(stored - names.keys()):
        raise InputError(
            f"{part}: the model that transformers makes of its config has no place for {unknown[:3]}. {INSTEAD}"
        )
    if missing := sorted(names.keys() - stored):
        raise InputError(f"{part} lacks {missing[:3]}: it is not whole. Fetch it again")
