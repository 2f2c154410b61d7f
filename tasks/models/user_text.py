"""Read text files of the user: UTF-8, with or without a byte-order mark; errors name any other encoding."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tasks.core.errors import InputError

# The mark of UTF-32 in little-endian order begins with that of UTF-16, so it must come first.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Which of the first four bytes are zero, for text that begins with two ASCII characters and has no mark.
ZEROS: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32",
    (True, True, True, False): "UTF-32",
    (False, True, False, True): "UTF-16",
    (True, False, True, False): "UTF-16",
}


def read_user_text(path: Path) -> str:
    r"""Read a whole text file, without its byte-order mark; each line ends with "\n".

    Raises:
        InputError: when the content is not UTF-8 text; names the encoding or the line.
        OSError: when the file cannot be read.
    """
    content = path.read_bytes()
    _refuse_other(path, content[:4])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content[: error.start].count(b"\n") + 1) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_user_bytes(path: Path) -> bytes:
    """Read the bytes of a text file without the byte-order mark of UTF-8, for a search that needs no characters."""
    return path.read_bytes().removeprefix(codecs.BOM_UTF8)


def starts_with_mark(path: Path) -> bool:
    """Return whether a file begins with the byte-order mark of UTF-8, which other packages may not read."""
    with open(path, "rb") as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


@contextmanager
def open_user_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file that is too large to be read at once; newline: as for `open`.

    Raises:
        InputError: when the content is not UTF-8 text, also while it is read; names the encoding or the line.
        OSError: when the file cannot be read.
    """
    with open(path, "rb") as binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline) as text:
        _refuse_other(path, binary.peek(4)[:4])
        try:
            yield text
        except UnicodeDecodeError:
            raise _not_utf8(path, _first_other_line(path)) from None


def _refuse_other(path: Path, start: bytes) -> None:
    """Refuse a file whose first four bytes are those of another encoding.

    Raises:
        InputError: when they are.
    """
    marked = next((name for mark, name in MARKS if start.startswith(mark)), None)
    if found := marked or ZEROS.get(tuple(byte == 0 for byte in start)):
        raise InputError(f"{path} is {found} text; save it as UTF-8")


def _first_other_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _not_utf8(path: Path, line: int) -> InputError:
    return InputError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8")
