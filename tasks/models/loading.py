"""Load a model and its tokenizer from a folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.models import folder_facts
from tasks.models.folder import quiet_transformers, read_model
from tasks.models.folder_view import only
from tasks.models.sentencepiece_files import follow_sentencepiece
from tasks.models.source import ModelSource
from tasks.store.boundary import translated

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    source: ModelSource,
    precision: "torch.dtype | str" = "float32",
    device: str = "cpu",
    attn: str | None = None,
) -> "PreTrainedModel":
    """Load the model in evaluation mode, from safetensors only, running no code from its folder.

    precision: number format, or "stored" for that of the files.
    device: as torch names it, or "auto" to spread the model over all visible GPUs.
    attn: attention implementation as transformers names it; transformers chooses by default.

    Raises:
        InputError: when weights are missing or the family is unknown.
    """
    from tasks.core.blocks.devices import place

    options: dict[str, Any] = {"attn_implementation": attn} if attn else {}
    dtype = "auto" if precision == "stored" else precision
    model, report = read_model(Path(source.path), source.name, dtype=dtype, **options)
    require_weights(source, report)
    return place(model, device).eval()


def require_weights(source: ModelSource, report: dict[str, Any]) -> None:
    """Check that all weights were in the model's files. report: transformers' of loading them.

    Raises:
        InputError: when some were not.
    """
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{source.name}: {len(missing)} weights of the model are not in its files, first {missing[0]}")


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """Load the model's tokenizer, with a padding token."""
    return tokenizer_of(Path(source.path))


def tokenizer_of(folder: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer in a folder. If it has no padding token, another token serves: padding is masked."""
    from transformers import AutoTokenizer

    quiet_transformers()
    files = ("config.json", *folder_facts.tokenizer_files(folder))
    with translated(f"{folder}: transformers cannot load the tokenizer"), only(folder, files) as place:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
        follow_sentencepiece(tokenizer, folder)
    tokenizer.name_or_path = str(folder)
    if tokenizer.pad_token_id is None:
        # lm-eval's order of preference; the rest is for tokenizers without any special token.
        names = (tokenizer.unk_token, tokenizer.eos_token, tokenizer.bos_token, tokenizer.convert_ids_to_tokens(0))
        tokenizer.pad_token = next(name for name in names if name is not None)
    return tokenizer
