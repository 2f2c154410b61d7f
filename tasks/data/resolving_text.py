"""Find the generic text that emulators are distilled on, check it, and identify it by content."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.data.hub import text_files
from tasks.data.resolving import SUFFIXES, resolve_task
from tasks.data.sources import TaskSource
from tasks.models.resolving import HUB_ID
from tasks.store.home import copies_folder

if TYPE_CHECKING:
    from tasks.store.artifacts import Store


def resolve_text(data: str, store: "Store | None" = None) -> TaskSource:
    """Find the text of a folder with train and validation files (or of one file), or of a data set on the hub.

    Without a validation part, 5% of train is held out.

    Raises:
        InputError: when the text cannot be used.
        EnvironmentFault: when the hub cannot be reached.
    """
    path = Path(data).expanduser()
    if not path.exists():
        if not HUB_ID.fullmatch(data.partition(":")[0]):
            raise InputError(f"distill.data = {data!r}: there is no such folder, and it is not a hub id (owner/name)")
        path = text_files(data, copies_folder(store) / "data")
    try:
        found = resolve_task({"name": "text", "kind": "text", "data": str(_rows(path))}, store)
    except InputError as error:
        raise InputError(str(error).replace("task.data", "distill.data")) from None
    # Nothing is scored here: one file beside train is enough, and no row of train is held out for validation. Rows that
    # are in both files stay: lines such as headings recur everywhere, and no conclusion is drawn from the loss.
    files = found.files
    if not found.single_file:
        files = {"train": files["train"], "validation": files.get("validation") or files["test"]}
    return found.model_copy(update={"files": files, "is_scored": False})


def _rows(path: Path) -> Path:
    """Return the folder, or its only file where that file has to provide both parts."""
    if path.is_file():
        return path
    files = [file for suffix in SUFFIXES["text"] if (file := path / f"train{suffix}").is_file()]
    others = [file for name in ("validation", "valid", "val", "dev", "test") for file in path.glob(f"{name}.*")]
    return files[0] if len(files) == 1 and not others else path
