"""The nouns of a store: plain values without behaviour.

Bytes in them are opaque: what a blob, a record, a summary or a reply means is
known to callers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class SessionKey(NamedTuple):
    """Name of a session. The parts are opaque here; who may use which characters
    is checked where names enter the server."""

    user: str
    session: str

    def __str__(self) -> str:
        return f"users/{self.user}/sessions/{self.session}"


class BlobRef(NamedTuple):
    """Content address of a blob."""

    digest: str
    """SHA-256 of the bytes, in hex."""
    size_bytes: int


class Record(NamedTuple):
    """A log record that has no place in the log yet."""

    kind: str
    payload: bytes


class LogRecord(NamedTuple):
    """A record in the log of one session."""

    seq: int
    """1, 2, 3, ... without a gap."""
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Long work on a session that outlives the process which does it. What it has made so far are
    blobs of its own, beside the head's."""

    request: bytes
    """The request; the same for as long as the job lasts."""
    progress: bytes
    """Progress; small, for listings."""
    create_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Present state of a session, without the bytes of its blobs."""

    key: SessionKey
    incarnation: int
    """Never the same for two sessions, not even of the same name one after the other."""
    revision: int
    """1 at creation, +1 with every commit."""
    version: int
    """Version of the memory, 0 at creation; always the highest so far."""
    parent_version: int | None
    """Version the present one came from; it may have been collected since."""
    log_seq: int
    """Number of records in the log."""
    fingerprint: str
    """Base model that the memory belongs to."""
    policy: str
    """Name of the learning policy."""
    display_name: str
    blobs: Mapping[str, BlobRef]
    summary: bytes
    """Small, for listings, so that no blob need be read."""
    create_time: float
    update_time: float
    stored_bytes: int
    """Bytes of the blobs that the head, a kept version or the job refers to, each counted once,
    and of the log's payloads, when the head was read: `collect` lowers it. What sessions share
    counts in each of them."""
    job: Job | None = None
    """The job that is under way on the session; it changes neither revision nor version."""

    @property
    def etag(self) -> str:
        """Changes with every commit and never comes back, also when the session is
        deleted and made anew."""
        return f"{self.incarnation}-{self.revision}"

    @property
    def state_bytes(self) -> int:
        """Bytes of the present blobs; a blob under two names counts twice."""
        return sum(ref.size_bytes for ref in self.blobs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """A state that the session can go back to: how it was when `version` was made,
    without the commits that came after under the same number."""

    version: int
    parent_version: int | None
    log_seq: int
    fingerprint: str
    policy: str
    blobs: Mapping[str, BlobRef]
    summary: bytes
    create_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A name for a version, which is kept as long as it has one."""

    name: str
    version: int
    create_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Right of one owner to commit to one session."""

    key: SessionKey
    owner: str
    """One process: a restarted server is another owner. What follows a `|` in it is for
    programs."""
    fence: int
    """Higher than in any lease granted before, on whichever session."""
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReply:
    """The answer to a request, for when it is repeated."""

    request_id: str
    body_digest: bytes
    """Tells a repeated request from another one with the same id."""
    payload: bytes
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One change of a session. Whatever is left out stays as it is."""

    expected_revision: int
    """Revision the change was computed from."""
    nonce: str
    """Names this change; the same when it is tried again, never used for another."""
    version: int
    """The head's version, or that plus one when the memory changed."""
    summary: bytes
    parent_version: int | None = None
    """Parent of a new version. None: the head's version."""
    put_blobs: Mapping[str, bytes] = field(default_factory=dict)
    drop_blobs: frozenset[str] = frozenset()
    """Names to remove; one that is not there is no error."""
    records: Sequence[Record] = ()
    """Appended to the log, in this order."""
    reply: StoredReply | None = None
    fingerprint: str | None = None
    policy: str | None = None
    display_name: str | None = None
    ends_job: bool = False
    """The session's job, if it has one, ends with this change."""

    def __post_init__(self) -> None:
        if not self.nonce:
            raise ValueError("a commit requires a nonce")
        if both := self.drop_blobs & self.put_blobs.keys():
            raise ValueError(f"a blob cannot be both put and dropped: {sorted(both)}")
