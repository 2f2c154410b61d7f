"""Lists that the Prefect server gives a page at a time."""

from collections.abc import Callable, Iterator
from typing import Any


def pages(read: Callable[..., list[Any]], size: int) -> Iterator[Any]:
    """Everything that `read`, called with `limit` and `offset`, has to give; `size` of it at a time."""
    offset = 0
    while page := read(limit=size, offset=offset):
        yield from page
        offset += len(page)
        if len(page) < size:
            return
