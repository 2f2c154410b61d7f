"""Read and write the files of an artifact, and check that they have what their kind of artifact promises.

The modules beside this one say which files a kind of artifact has, what is in them, and what its stage's summary says.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

from tasks.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Content = TypeVar("Content")
# A tensor's number format and sizes, such as "float32 [N+1, n, d]".
LAYOUT = re.compile(r"(\w+) \[([^]]*)\]")


class HasSummary(Protocol):
    """The result of a stage: a reference to its artifact, or an analysis of a study."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """The numbers that the stage returned."""


class TensorFile:
    """A safetensors file. name: of the file; what: what it holds, for messages.

    tensors: a TypedDict with a key for each tensor, annotated with its layout. Sizes with the same name are equal.
    """

    def __init__(self, name: str, what: str, tensors: type) -> None:
        self.name, self.what = name, what
        self.required: frozenset[str] = tensors.__required_keys__  # type: ignore[attr-defined]
        self.layouts = {key: _layout(annotation) for key, annotation in tensors.__annotations__.items()}

    def write(self, folder: Path, tensors: "Mapping[str, Tensor]") -> None:
        """Write the file into the folder of an artifact."""
        from safetensors.torch import save_file

        wrong = self._wrong(tensors, exact=True)
        assert wrong is None, f"{self.name}: {wrong}"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / self.name)

    def read(self, folder: Path, framework: Literal["numpy", "torch"] = "numpy") -> dict[str, Any]:
        """Read all tensors of the file, as arrays or as tensors on the CPU.

        Raises:
            InputError: when the file is missing, damaged, or lacks a tensor, or one has other sizes or another kind of
                number.
        """
        path = require_file(folder, self.name, self.what)
        tensors = load_tensors(path, framework)
        if wrong := self._wrong(tensors, exact=False):
            raise InputError(f"{path}: {wrong}; this file does not hold {self.what}")
        return tensors

    def _wrong(self, tensors: Mapping[str, Any], exact: bool) -> str | None:
        """Return the first difference to the layouts; None if there is none. exact: also compare number formats."""
        if missing := sorted(self.required - tensors.keys()):
            return f"the tensor {missing[0]!r} is missing"
        if unknown := sorted(tensors.keys() - self.layouts.keys()):
            return f"the tensor {unknown[0]!r} is unknown"
        known: dict[str, int] = {}
        for name, tensor in tensors.items():
            dtype, sizes = self.layouts[name]
            found = str(tensor.dtype).removeprefix("torch.")
            same = found == dtype if exact else found.rstrip("0123456789") == dtype.rstrip("0123456789")
            if not same or not _fits(tensor.shape, sizes, known):
                return f"the tensor {name!r} is {found} {list(tensor.shape)}, expected {dtype} [{', '.join(sizes)}]"
        return None


class JsonFile(Generic[Content]):
    """A file with one JSON object. name: of the file; what: what it holds, for messages; content: its TypedDict.

    indent, sort_keys, end: how its text is written.
    """

    def __init__(
        self,
        name: str,
        what: str,
        content: type[Content],
        indent: int | None = None,
        sort_keys: bool = False,
        end: str = "",
    ) -> None:
        self.name, self.what = name, what
        self._required: frozenset[str] = content.__required_keys__  # type: ignore[attr-defined]
        self._indent, self._sort_keys, self._end = indent, sort_keys, end

    def write(self, folder: Path, content: Content) -> None:
        """Write the file into the folder of an artifact."""
        text = json.dumps(content, indent=self._indent, sort_keys=self._sort_keys)
        (folder / self.name).write_text(text + self._end)

    def read(self, folder: Path) -> Content:
        """Read the object.

        Raises:
            InputError: when the file is missing, is not one JSON object, or lacks a field.
        """
        return cast(Content, read_object(folder, self.name, self.what, self._required))


def load_tensors(path: Path, framework: Literal["numpy", "torch"] = "numpy") -> dict[str, Any]:
    """Read all tensors of a safetensors file, as arrays or as tensors on the CPU.

    Raises:
        InputError: when the file is damaged.
    """
    from safetensors import SafetensorError

    try:
        if framework == "torch":
            from safetensors.torch import load_file as load_torch

            return load_torch(path)
        from safetensors.numpy import load_file

        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a valid safetensors file ({error})") from error


def as_lists(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors as nested lists of numbers."""
    return {name: values.tolist() for name, values in tensors.items()}


def read_object(folder: Path, name: str, what: str, fields: Collection[str] = ()) -> dict[str, Any]:
    """Read a file with one JSON object.

    what: what the file holds, for messages; fields: names that the object has at least.

    Raises:
        InputError: when the file is missing, is not one JSON object, or lacks a field.
    """
    path = require_file(folder, name, what)
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected one JSON object, found {type(found).__name__}")
    if missing := sorted(set(fields) - found.keys()):
        raise InputError(f"{path}: the field {missing[0]!r} is missing; this file does not hold {what}")
    return found


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: when it is not valid JSON.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error})") from error


def require_file(folder: Path, name: str, what: str) -> Path:
    """Return the path of a file of an artifact.

    Raises:
        InputError: when it is missing.
    """
    path = folder / name
    if not path.is_file():
        raise InputError(f"{folder} holds no {what}: it has no {name}")
    return path


def _layout(annotation: Any) -> tuple[str, tuple[str, ...]]:
    """Return number format and sizes from a TypedDict's annotation, `Annotated` and perhaps `NotRequired`."""
    annotated = annotation if hasattr(annotation, "__metadata__") else annotation.__args__[0]
    match = LAYOUT.fullmatch(annotated.__metadata__[0])
    assert match is not None, annotated
    return match[1], tuple(size.strip() for size in match[2].split(",") if size.strip())


def _fits(shape: Collection[int], sizes: tuple[str, ...], known: dict[str, int]) -> bool:
    """Return whether a shape has these sizes: numbers, or names with an offset. known: values of names so far."""
    if len(shape) != len(sizes):
        return False
    for found, size in zip(shape, sizes, strict=True):
        name, sign, offset = re.fullmatch(r"(\w+)(?:([+-])(\d+))?", size).groups()  # type: ignore[union-attr]
        value = found - int(f"{sign}{offset}" if sign else 0)
        if (int(name) if name.isdigit() else known.setdefault(name, value)) != value:
            return False
    return True
