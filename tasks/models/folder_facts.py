"""Check and summarise the content of a model folder without loading torch."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.core.errors import InputError
from tasks.models.folder_rules import require_computable, require_no_adapter
from tasks.models.tensor_files import INDEX_FILE, SINGLE_FILE, stored_tensors, weight_files
from tasks.models.user_text import read_user_text, starts_with_mark
from tasks.store.boundary import first_words
from tasks.store.keys import canonical_json

FileDigest = Callable[[Path], str]

# Rewritten by every save or download; they have no effect on what the model computes.
# In the config of a model that was converted from GGUF files.
GGUF_TYPES = "crash_gguf_types"
VOLATILE = {"_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "_from_model_config"}

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
# Any one of these sets is a whole tokenizer.
VOCABULARIES = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
)

# Settings of the number of blocks and the longest input; a composite config holds them in `text_config`.
NUM_BLOCKS_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
# lm-eval's order of look-up, so that prompts are truncated where it truncates them.
MAX_LENGTH_KEYS = ("n_positions", "max_position_embeddings", "n_ctx")
# lm-eval's own value for models that name no limit (such as those with ALiBi positions).
DEFAULT_MAX_LENGTH = 2048

DECODER_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# Families with bidirectional attention unless their config says `is_decoder`.
ENCODER_FAMILIES = {
    "albert",
    "bert",
    "big_bird",
    "camembert",
    "convbert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "esm",
    "eurobert",
    "longformer",
    "megatron-bert",
    "mobilebert",
    "modernbert",
    "mpnet",
    "nomic_bert",
    "roberta",
    "roformer",
    "squeezebert",
    "xlm-roberta",
    "xlm-roberta-xl",
}


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Read the folder's config.json.

    Raises:
        InputError: when there is none, it cannot be read, or the folder holds an adapter alone.
    """
    path = folder / "config.json"
    if not path.is_file():
        require_no_adapter(folder)
        found = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) or "nothing"
        raise InputError(f"{folder} is not a model folder: it has no config.json (found: {found})")
    for file in sorted(folder.glob("*.json")):
        if starts_with_mark(file):
            raise InputError(
                f"{file} begins with a byte-order mark, which transformers cannot read; save it without one"
            )
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """Read the settings in a JSON file.

    Raises:
        InputError: when it holds anything but an object.
    """
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds a {type(settings).__name__}, expected an object with the model's settings")
    return settings


def read_json(path: Path) -> Any:
    """Read the content of a JSON file.

    Raises:
        InputError: when it is not valid JSON; names the place of the mistake.
    """
    text = read_user_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else first_words(error)
        raise InputError(f"{path} is not valid JSON ({place})") from None


def require_decoder(config: dict[str, Any], folder: Path) -> None:
    """Check that the config is that of a decoder-only language model.

    Raises:
        InputError: when it is not.
    """
    family, names = _family_and_architectures(config, folder)
    described = f"{folder} is {names[0] if names else 'a model'} of family {family or 'unknown'}"
    advice = "give a decoder-only model (GPT-2, OPT, LLaMA, Mistral, Qwen, Gemma, ...)"
    if config.get("is_encoder_decoder"):
        raise InputError(f"{described}: an encoder-decoder; {advice}")
    if family in ENCODER_FAMILIES and not config.get("is_decoder"):
        raise InputError(f"{described}: an encoder, it does not predict the next token; {advice}")
    if names and not any(name.endswith(DECODER_ENDINGS) for name in names):
        raise InputError(f"{described}: it has no causal language-model head; {advice}")
    if not family:
        raise InputError(f"{folder / 'config.json'} names no model_type; {advice}")


def _family_and_architectures(config: dict[str, Any], folder: Path) -> tuple[str, list[str]]:
    family, names = config.get("model_type") or "", config.get("architectures") or []
    if not isinstance(family, str):
        raise InputError(f"{folder / 'config.json'}: model_type = {family!r}, expected the name of a family")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{folder / 'config.json'}: architectures = {names!r}, expected a list of names of classes")
    return family, names


def count_blocks(config: dict[str, Any], folder: Path) -> int:
    """Return the number of blocks that the config names.

    Raises:
        InputError: when it names none.
    """
    count = first_number(config, NUM_BLOCKS_KEYS)
    if count is None or count < 1:
        wrong = next((f" ({key} = {value!r})" for key, value in _of(config, NUM_BLOCKS_KEYS) if value is not None), "")
        raise InputError(
            f"{folder / 'config.json'} does not say how many blocks the model has{wrong}:"
            f" expected a whole number above 0 under one of {', '.join(NUM_BLOCKS_KEYS)}"
        )
    return count


def longest_input(config: dict[str, Any], tokenizer_config: dict[str, Any]) -> int:
    """Return the most tokens that the model takes, by lm-eval's rule: the config, then the tokenizer, then 2048."""
    found = first_number(config, MAX_LENGTH_KEYS)
    if found is None:
        limit = tokenizer_config.get("model_max_length")
        # Tokenizers without a limit write 1e30.
        found = int(limit) if isinstance(limit, int | float) and 0 < limit < 1e9 else DEFAULT_MAX_LENGTH
    return found


def weights_digest(folder: Path, config: dict[str, Any], file_digest: FileDigest) -> str:
    """Digest of all that decides what the model computes: its settings and the content of its weight files.

    Raises:
        InputError: when weights are missing, cut short, quantised or not safetensors.
    """
    require_computable(stored_tensors(folder), folder)
    names = {name for name in weight_files(folder) if name != INDEX_FILE}
    generation = folder / "generation_config.json"
    return json_digest(
        {
            "config": _settled(config),
            "generation": _settled(read_object(generation)) if generation.is_file() else None,
            "files": {name: file_digest(folder / name) for name in sorted(names)},
        }
    )


def tokenizer_files(folder: Path) -> list[str]:
    """List the files of the folder's tokenizer, including those for other releases of transformers."""
    versions = sorted(path.name for path in folder.glob("tokenizer.*.json"))
    return [name for name in TOKENIZER_FILES if (folder / name).is_file()] + versions


def tokenizer_digest(folder: Path, file_digest: FileDigest) -> str:
    """Digest of the tokenizer's files.

    Raises:
        InputError: when they are not a complete tokenizer.
    """
    present = tokenizer_files(folder)
    if not any(set(vocabulary) <= set(present) for vocabulary in VOCABULARIES):
        choices = ", or ".join(" and ".join(vocabulary) for vocabulary in VOCABULARIES[:4])
        raise InputError(f"{folder} has no tokenizer: expected {choices} beside config.json")
    parts = {
        name: _settled(read_object(folder / name)) if name.endswith("_config.json") else file_digest(folder / name)
        for name in present
    }
    return json_digest(parts)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Read the tokenizer's settings; empty if it has none."""
    path = folder / "tokenizer_config.json"
    return read_object(path) if path.is_file() else {}


def gguf_types(config: dict[str, Any]) -> dict[str, int]:
    """Return how many tensors of each type the GGUF files of a converted model had; of another model, none."""
    found = config.get(GGUF_TYPES)
    return found if isinstance(found, dict) else {}


def has_safetensors(folder: Path) -> bool:
    """Return whether the folder's weights are safetensors."""
    return (folder / SINGLE_FILE).is_file() or (folder / INDEX_FILE).is_file()


def has_pickled(folder: Path) -> bool:
    """Return whether the folder has weights in pickled files."""
    return any(folder.glob("pytorch_model*.bin"))


def _settled(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in VOLATILE}


def first_number(config: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    """Return the first of these settings that is a whole number, in the config of the language model or around it."""
    return next(
        (value for _, value in _of(config, keys) if isinstance(value, int) and not isinstance(value, bool)), None
    )


def _of(config: dict[str, Any], keys: tuple[str, ...]) -> list[tuple[str, Any]]:
    inner = config.get("text_config")
    parts = [inner, config] if isinstance(inner, dict) else [config]
    return [(key, part[key]) for part in parts for key in keys if key in part]
