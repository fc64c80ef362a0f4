"""The part of a store that knows which sessions there are, and how much their users have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from server.store.values import Head, SessionKey


class SessionCatalog(ABC):
    """Sessions by name, and figures of their users. Promises and errors are in `base`."""

    @abstractmethod
    async def create(
        self,
        key: SessionKey,
        *,
        fingerprint: str,
        policy: str,
        display_name: str = "",
        blobs: Mapping[str, bytes],
        summary: bytes,
    ) -> Head:
        """Make a session at revision 1 and version 0, with an empty log. Needs no
        lease. Raises AlreadyExistsError."""

    @abstractmethod
    async def head(self, key: SessionKey) -> Head:
        """The present state. Raises NotFoundError."""

    @abstractmethod
    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        """A page of a user's sessions in the order of their names (by code point), and
        the token of the next page, empty on the last one.

        A session that is there throughout is listed once, whatever is created or
        deleted between two pages. `page_size` is 1 to MAX_PAGE_SIZE. An unknown user
        has no sessions."""

    @abstractmethod
    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        """Erase a session: head, log, versions, replies, lease, and the blobs that
        no other session refers to. Needs no lease: a holder finds out when it
        commits. Raises NotFoundError, or StaleRevisionError when `etag` is given and
        is not the head's."""

    @abstractmethod
    async def delete_user(self, user: str) -> int:
        """Erase every session of a user; returns how many there were."""

    @abstractmethod
    async def user_bytes(self, user: str) -> int:
        """Bytes stored for a user: of every blob, counted once, and of every log. Replies do
        not count, here and in `Head.stored_bytes`: they go by themselves. 0 for an unknown user."""

    @abstractmethod
    async def user_sessions(self, user: str) -> int:
        """Number of sessions of a user."""

    @abstractmethod
    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        """Number of sessions, of all users, by the fingerprint of their head. At most `limit`
        sessions are looked at, so that starting a server on a large store stays cheap."""

    @abstractmethod
    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        """Takes `amount` from the user's bucket and returns what is left, which may be below zero.

        The bucket begins with `capacity`, and gets `per_second` (above zero) up to that. It stays
        when the user is erased, or erasing would fill it, and is forgotten a day after it was last
        drawn from at the latest. Without an answer it may have been drawn from, once."""
