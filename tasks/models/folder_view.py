"""A restricted view of a folder for transformers: links to the named files, and to nothing else.

transformers looks for more than weights in a model folder: an adapter, which it loads into the model; the parts of a
distributed checkpoint, which it prefers; a config or tokenizer of another name. Files that are not in a model's
identity must not be read, so the view does not contain them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def only(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Make a temporary folder with links to those of the named files of `folder` that exist."""
    with TemporaryDirectory(prefix="crash-model-") as place:
        for name in names:
            if (folder / name).is_file():
                (Path(place) / name).symlink_to((folder / name).resolve())
        yield Path(place)
