"""Convert models in GGUF files, the format of llama.cpp, to safetensors folders: once, and tensor by tensor.

transformers reads config, tokenizer and tensor names; the package gguf restores the numbers. They are written as
float32, which is exact for every type of tensor that the format has.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models.folder import quiet_transformers
from tasks.models.tensor_files import write_tensors
from tasks.models.tensor_sources import ComputedTensor
from tasks.store.boundary import translated
from tasks.store.files import write_text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

SUFFIX = ".gguf"
# In the config of a converted model: how many tensors of each type its files had.
GGUF_TYPES = "gguf"
PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Architectures by GGUF's names whose tensors are stored one to one, and were compared with their origin in a test.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2")
# How tokenizers of byte pairs split a text before they merge, by GGUF's names: at a digit, at up to three, or as GPT-2.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {"qwen2": rf"{_WORDS}\p{{N}}{_REST}", "llama-bpe": rf"{_WORDS}\p{{N}}{{1,3}}{_REST}"}
AS_GPT2 = ("default", "gpt-2")
AS_GPT2_WITH_SINGLE_DIGITS = ("smollm",)
# A text that these ways split differently.
PROBE = "Tokenizers don't agree on 12345,  two spaces\n\n\tand DON'T either."


def find_parts(place: Path) -> list[Path]:
    """Return the files of the GGUF model that a file or folder is, in order; none if it is another kind of model.

    Raises:
        InputError: when a folder holds several models, or a part of one is missing.
    """
    files = [place] if place.is_file() else sorted(place.glob("*.gguf"))
    if not files or files[0].suffix != SUFFIX:
        return []
    found = [PART.fullmatch(file.name) for file in files]
    if len(files) > 1 and not (all(found) and len({match["name"] for match in found if match}) == 1):
        names = ", ".join(file.name for file in files)
        raise InputError(f"{place} holds several GGUF files ({names}): give one of them as model.name")
    if found[0] is None:
        return files
    name, count = found[0]["name"], found[0]["count"]
    parts = [files[0].with_name(f"{name}-{number:05d}-of-{count}.gguf") for number in range(1, int(count) + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise InputError(f"{parts[0].parent}: of {count.lstrip('0')} parts of {name}, {', '.join(missing)} is missing")
    return parts


def to_safetensors(parts: list[Path], out: Path) -> None:
    """Write the model of these files as a safetensors folder `out`, with config and tokenizer.

    config.json keeps how many tensors of each type the files have (`GGUF_TYPES`): it names the quantisation.

    Raises:
        InputError: when a file is damaged, the architecture is not one of `ARCHITECTURES`, or a tensor of the model or
            of the files has no counterpart.
    """
    from transformers import AutoConfig, AutoTokenizer

    quiet_transformers()
    readers = [_reader(part) for part in parts]
    first = parts[0]
    architecture = _architecture(readers[0], first)
    _require_plain_positions(readers[0], first)
    with translated(f"{first}: transformers cannot read this GGUF file"):
        config = AutoConfig.from_pretrained(first.parent, gguf_file=first.name)
        tokenizer = AutoTokenizer.from_pretrained(first.parent, gguf_file=first.name)
    tokenizer = _as_in_its_file(tokenizer, readers[0], first)
    stored = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    # transformers looks for the head in the first part only.
    config.tie_word_embeddings = "output.weight" not in stored
    config.dtype = "float32"
    out.mkdir(parents=True, exist_ok=True)
    with translated(f"{first}: the tensors cannot be restored"):
        write_tensors(list(_tensors(stored, config, architecture, first)), out)
    types = Counter(tensor.tensor_type.name for tensor in stored.values())
    setattr(config, GGUF_TYPES, dict(types.most_common()))
    write_text(out / "config.json", config.to_json_string())
    _write_tokenizer(tokenizer, out, first)


def _reader(part: Path) -> Any:
    with translated(f"{part} cannot be read", "It is damaged or no GGUF file: fetch it again"):
        from gguf import GGUFReader

        return GGUFReader(part)


def _architecture(reader: Any, part: Path) -> str:
    field = reader.get_field("general.architecture")
    found = str(field.contents()) if field else "none"
    if found not in ARCHITECTURES:
        raise InputError(
            f"{part}: its architecture is {found}; of GGUF files, {', '.join(ARCHITECTURES)} can be read. Give the"
            " model's folder with safetensors weights"
        )
    return found


def _require_plain_positions(reader: Any, part: Path) -> None:
    """Refuse scaled rotary embeddings, of which transformers reads nothing.

    Raises:
        InputError: names the key.
    """
    for key, field in reader.fields.items():
        if key.endswith("rope.scaling.type") and field.contents() != "none":
            raise InputError(
                f"{part}: {key} is {field.contents()}, and transformers does not read scaled positions from GGUF files:"
                " give the model's folder with safetensors weights"
            )


def _as_in_its_file(tokenizer: Any, reader: Any, part: Path) -> Any:
    """Return a tokenizer that splits texts as its file says; transformers takes the way of its architecture.

    Raises:
        InputError: when the way is unknown.
    """
    from transformers import PreTrainedTokenizerFast

    model, way = (reader.get_field(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if model is not None and model.contents() == "gpt2":
        tokenizer.backend_tokenizer.pre_tokenizer = _pre_tokenizer(way.contents() if way else AS_GPT2[0], part)
    # Of any other class, transformers would set the splits of its architecture again when it is loaded.
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
    loaded = AutoTokenizer.from_pretrained(out)
    ours, theirs = (one.backend_tokenizer.pre_tokenizer for one in (tokenizer, loaded))
    if ours and (not theirs or ours.pre_tokenize_str(PROBE) != theirs.pre_tokenize_str(PROBE)):
        raise InputError(
            f"{part}: transformers would not split texts as this file's tokenizer does. Give the model's folder with"
            " safetensors weights"
        )


def _pre_tokenizer(way: str, part: Path) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if way in SPLITS:
        first = pre_tokenizers.Split(Regex(SPLITS[way]), "isolated")
        return pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    as_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if way in AS_GPT2_WITH_SINGLE_DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), as_gpt2])
    if way in AS_GPT2:
        return as_gpt2
    known = ", ".join((*AS_GPT2, *AS_GPT2_WITH_SINGLE_DIGITS, *SPLITS))
    raise InputError(
        f"{part}: its tokenizer splits texts as {way}; known are {known}. Give the model's folder with safetensors"
        " weights"
    )


def _tensors(
    stored: dict[str, Any], config: "PreTrainedConfig", architecture: str, part: Path
) -> Iterator[tuple[str, ComputedTensor]]:
    """Yield name and source of each tensor of the model."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    from tasks.core.blocks.locate_blocks import skeleton

    model = skeleton(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    names = {theirs: ours for theirs, ours in get_gguf_hf_weights_map(model, processor).items() if ours in shapes}
    _require_same(set(stored), names, part)
    for theirs, ours in names.items():

        def compute(tensor: Any = stored[theirs]) -> "Tensor":
            import numpy as np
            import torch
            from gguf import dequantize

            restored = dequantize(tensor.data, tensor.tensor_type)
            made = processor.process(restored, tensor.name, parsed_parameters={"tensors": {}}).weights
            return torch.from_numpy(np.array(made, dtype=np.float32))

        if sorted(stored[theirs].shape) != sorted(shapes[ours]):
            found = [int(size) for size in reversed(stored[theirs].shape)]
            raise InputError(f"{part}: {theirs} is {found}, but {list(shapes[ours])} by the file's own settings")
        yield ours, ComputedTensor("F32", shapes[ours], compute)


def _require_same(stored: set[str], names: dict[str, str], part: Path) -> None:
    """Refuse tensors without a place in the model, such as factors of rotary embeddings, and missing ones.

    Raises:
        InputError: names the first ones.
    """
    if unknown := sorted(stored - names.keys()):
        raise InputError(f"{part}: the model that transformers makes of its config has no place for {unknown[:3]}")
    if missing := sorted(names.keys() - stored):
        raise InputError(f"{part} lacks {missing[:3]}: is a part missing?")
