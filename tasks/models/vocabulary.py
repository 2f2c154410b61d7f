"""The number of tokens that a model has embeddings for: its files decide, whatever its config says.

Tools that add tokens, or pad the embedding to a multiple of 64, change the file but not always `vocab_size`.
"""

from pathlib import Path
from typing import Any

from tasks.models.block_names import NUMBERED
from tasks.models.tensor_files import INDEX_FILE, SINGLE_FILE, read_header, read_index

# Names of the token embedding in families, and of the head, which has as many rows.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
HEADS = ("lm_head", "embed_out", "output")


def stored_rows(folder: Path) -> int | None:
    """Return the rows of the embedding in the folder's files; None if there is none, or several that differ.

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
    """Return `vocab_size` of config.json; in a multimodal model, that of its language model."""
    inner = config.get("text_config")
    size = inner.get("vocab_size", config.get("vocab_size")) if isinstance(inner, dict) else config.get("vocab_size")
    return size if isinstance(size, int) else None


def _files(folder: Path) -> dict[str, set[str]]:
    """Map each file name to the relevant tensor names in it; an empty set means all of a single file."""
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
