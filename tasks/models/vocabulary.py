"""How many tokens a model has embeddings for: what its files hold counts, whatever its config says.

Whoever adds tokens, or pads the embedding to a multiple of 64, changes the file and not always `vocab_size`.
"""

from pathlib import Path
from typing import Any

from tasks.models.block_names import NUMBERED
from tasks.models.tensor_files import INDEX_FILE, SINGLE_FILE, read_header, read_index

# How families call the embedding of tokens, and the head that gives as many logits.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
HEADS = ("lm_head", "embed_out", "output")


def stored_rows(folder: Path) -> int | None:
    """Rows of the embedding in the folder's files; None where there is none, or several that differ.

    Reads the headers of the files that hold it, no tensor.
    """
    rows = set()
    for file, names in _files(folder).items():
        header = read_header(folder / file)
        shapes = [
            tensor.shape for name, tensor in header.items() if _is_vocabulary(name) and (not names or name in names)
        ]
        rows |= {shape[0] for shape in shapes if len(shape) == 2}
    return rows.pop() if len(rows) == 1 else None


def declared_rows(config: dict[str, Any]) -> int | None:
    """`vocab_size` as config.json has it, of the language model where the model also sees or hears."""
    inner = config.get("text_config")
    size = inner.get("vocab_size", config.get("vocab_size")) if isinstance(inner, dict) else config.get("vocab_size")
    return size if isinstance(size, int) else None


def _files(folder: Path) -> dict[str, set[str]]:
    """File name to the names in it that matter; all of a single file."""
    if (folder / SINGLE_FILE).is_file():
        return {SINGLE_FILE: set()}
    if not (folder / INDEX_FILE).is_file():
        return {}
    found: dict[str, set[str]] = {}
    for name, file in read_index(folder / INDEX_FILE).items():
        if _is_vocabulary(name):
            found.setdefault(file, set()).add(name)
    return found


def _is_vocabulary(name: str) -> bool:
    path, _, last = name.rpartition(".")
    return last == "weight" and path.rpartition(".")[2] in (*EMBEDDINGS, *HEADS) and not NUMBERED.fullmatch(name)
