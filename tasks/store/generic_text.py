"""Generic text as an input: documents that emulators are distilled on, found, checked and identified by content."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.store.models import HUB_ID, ModelSource, load_tokenizer
from tasks.store.task_sources import SUFFIXES, TaskSource, home, resolve_task

if TYPE_CHECKING:
    from tasks.store.artifacts import Store

# No token is longer than this on average, in any language; text is encoded only as far as it must be.
CHARACTERS_PER_TOKEN = 32


def resolve_text(data: str, store: "Store | None" = None) -> TaskSource:
    """The text of a folder with train and validation files (or of one file), or of a data set on the hub.

    Without a validation part, 5% of train are held out. InputError for what cannot be used, EnvironmentFault where the
    hub cannot be reached.
    """
    path = Path(data).expanduser()
    if not path.exists():
        if not HUB_ID.fullmatch(data.partition(":")[0]):
            raise InputError(f"distill.data = {data!r}: there is no such folder, and it is no hub id (owner/name)")
        from tasks.store.hub_data import text_files

        path = text_files(data, home(store) / "data")
    try:
        found = resolve_task({"name": "text", "kind": "text", "data": str(_rows(path))}, store)
    except InputError as error:
        raise InputError(str(error).replace("task.data", "distill.data")) from None
    # Nothing is scored here: one file beside train is enough, and no row of train is held out for validation. Nor are
    # rows that are in both left out: lines such as headings recur everywhere, and nothing is concluded from the loss.
    files = found.files
    if not found.single_file:
        files = {"train": files["train"], "validation": files.get("validation") or files["test"]}
    return found.model_copy(update={"files": files, "is_scored": False})


def require_long_enough(text: TaskSource, model: ModelSource, block: int) -> None:
    """InputError if all training documents together have fewer tokens than one block, or the model's context."""
    from tasks.store.examples import text_pairs
    from tasks.store.token_ids import encode

    tokenizer, length = load_tokenizer(model), min(block, model.context)
    found = 0
    for pair in text_pairs(text, "train"):
        found += len(encode(tokenizer, pair.answer[: CHARACTERS_PER_TOKEN * length], special=False))
        if found >= length:
            return
    raise InputError(f"distill.data has {found} tokens to train on, fewer than one block of {length}: give more text")


def _rows(path: Path) -> Path:
    """The folder, or its only file where that has to give both parts."""
    if path.is_file():
        return path
    files = [file for suffix in SUFFIXES["text"] if (file := path / f"train{suffix}").is_file()]
    others = [file for name in ("validation", "valid", "val", "dev", "test") for file in path.glob(f"{name}.*")]
    return files[0] if len(files) == 1 and not others else path
