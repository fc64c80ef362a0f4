"""Checks of arguments that every store makes in the same words. Each raises ValueError."""

from __future__ import annotations

from collections.abc import Mapping

from server.store.values import SessionKey

MAX_PAGE_SIZE = 1000


def check_page_size(page_size: int) -> None:
    """Refuses a page that is empty or too large."""
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"page_size is {page_size}; allowed values: 1 to {MAX_PAGE_SIZE}")


def check_limit(limit: int) -> None:
    """Refuses a limit that lets nothing through."""
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")


def check_rollback(nonce: str) -> None:
    """Refuses a rollback that could be applied twice."""
    if not nonce:
        raise ValueError("a rollback requires a nonce")


def check_fork(source: SessionKey, target: SessionKey) -> None:
    """Refuses a fork to another user."""
    if source.user != target.user:
        raise ValueError("a fork must belong to the same user as its source")


def check_keep_recent(keep_recent: int) -> None:
    """Refuses to collect every version."""
    if keep_recent < 1:
        raise ValueError("the current version cannot be collected")


def check_snapshot(name: str) -> None:
    """Refuses a snapshot without a name."""
    if not name:
        raise ValueError("a snapshot requires a name")


def check_put_and_drop(put_blobs: Mapping[str, bytes], drop_blobs: frozenset[str]) -> None:
    """Refuses to put and drop the same blob."""
    if both := drop_blobs & put_blobs.keys():
        raise ValueError(f"a blob cannot be both put and dropped: {sorted(both)}")
