"""Pages of lists: their sizes, and tokens of those that only grow."""

from __future__ import annotations

import re

from hope_runtime.errors import InvalidRequestError
from server.store.base import MAX_PAGE_SIZE

DEFAULT_PAGE_SIZE = 50


def page_size(asked: int) -> int:
    """Size of a page. Raises InvalidRequestError when more is asked for than a page may hold."""
    size = asked or DEFAULT_PAGE_SIZE
    if size > MAX_PAGE_SIZE:
        raise InvalidRequestError(
            f"page_size is {size}; allowed values: 1 to {MAX_PAGE_SIZE}", field="page_size"
        )
    return size


def page_offset(page_token: str) -> int:
    """Start of a page in a list that only grows: its token is an offset."""
    if not page_token:
        return 0
    if not re.fullmatch("[0-9]{1,9}", page_token):
        raise InvalidRequestError(
            "page_token is invalid or belongs to another list method", field="page_token"
        )
    return int(page_token)
