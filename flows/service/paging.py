"""Lists that the Prefect server returns in pages."""

from collections.abc import Callable, Iterator
from typing import Any


def pages(read: Callable[..., list[Any]], size: int) -> Iterator[Any]:
    """Yield all items that `read`, called with `limit` and `offset`, returns, in pages of `size`."""
    offset = 0
    while page := read(limit=size, offset=offset):
        yield from page
        offset += len(page)
        if len(page) < size:
            return
