"""What a session store is, in plain dictionaries.

Each method says which error the call raises, None when it succeeds, and then has
changed the model as the call changes a store.
"""

from dataclasses import dataclass, field
from typing import Any

from server.store.base import (
    AlreadyExistsError,
    Commit,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    Record,
    SessionKey,
    SnapshotExistsError,
    SnapshotNotFoundError,
    StaleRevisionError,
    StoredReply,
    VersionNotFoundError,
)

Refusal = type[Exception] | None


@dataclass
class State:
    """What both a head and a version hold."""

    version: int
    parent_version: int | None
    log_seq: int
    fingerprint: str
    summary: bytes
    blobs: dict[str, bytes]

    def copy(self, **fields: Any) -> "State":
        return State(**({**vars(self), "blobs": dict(self.blobs)} | fields))


@dataclass
class Session:
    state: State
    log: list[Record]
    revision: int = 1
    nonce: str = ""
    versions: dict[int, State] = field(default_factory=dict)
    snapshots: dict[str, int] = field(default_factory=dict)
    replies: dict[str, StoredReply] = field(default_factory=dict)
    lease: Lease | None = None
    # What was asked, how far it is, and what it has made.
    job: tuple[bytes, bytes, dict[str, bytes]] | None = None

    def __post_init__(self) -> None:
        self.keep_version()

    def keep_version(self) -> None:
        self.versions[self.state.version] = self.state.copy()

    def append(self, *records: Record) -> None:
        self.log += records
        self.state.log_seq = len(self.log)

    def blobs(self) -> set[bytes]:
        """Contents that it refers to."""
        made = self.job[2] if self.job else {}
        holders = [self.state.blobs, *(state.blobs for state in self.versions.values()), made]
        return {data for blobs in holders for data in blobs.values()}

    def stored_bytes(self, overhead: int) -> int:
        contents = [*self.blobs(), *(record.payload for record in self.log)]
        return sum(len(data) + overhead for data in contents)

    def live_reply(self, request_id: str, now: float) -> StoredReply | None:
        reply = self.replies.get(request_id)
        return reply if reply and reply.expires_at > now else None


class Model:
    def __init__(self) -> None:
        self.sessions: dict[SessionKey, Session] = {}

    def of(self, user: str) -> list[SessionKey]:
        return sorted(key for key in self.sessions if key.user == user)

    def user_bytes(self, user: str, overhead: int) -> int:
        mine = [self.sessions[key] for key in self.of(user)]
        shared = {data for session in mine for data in session.blobs()}
        logs = [record.payload for session in mine for record in session.log]
        return sum(len(data) + overhead for data in [*shared, *logs])

    def missing(self, key: SessionKey) -> Refusal:
        return None if key in self.sessions else NotFoundError

    def create(self, key: SessionKey, fingerprint: str, blobs: dict[str, bytes]) -> Refusal:
        if key in self.sessions:
            return AlreadyExistsError
        self.sessions[key] = Session(State(0, None, 0, fingerprint, b"", dict(blobs)), [])
        return None

    def delete(self, key: SessionKey) -> Refusal:
        return NotFoundError if self.sessions.pop(key, None) is None else None

    def acquire(self, key: SessionKey, owner: str, now: float) -> Refusal:
        """The lease itself comes from the store: `grant` it."""
        if key not in self.sessions:
            return NotFoundError
        held = self.sessions[key].lease
        return LeaseHeldError if held and held.owner != owner and held.expires_at > now else None

    def grant(self, lease: Lease) -> None:
        self.sessions[lease.key].lease = lease

    def refuses(self, lease: Lease, revision: int | None = None) -> Refusal:
        """For a change under this lease; `revision` is the one it was computed from."""
        session = self.sessions.get(lease.key)
        if session is None:
            return NotFoundError
        if session.lease is None or session.lease.fence != lease.fence:
            return LeaseLostError
        if revision is not None and revision != session.revision:
            return StaleRevisionError
        return None

    def release(self, lease: Lease) -> None:
        if self.refuses(lease) is None:
            self.sessions[lease.key].lease = None

    def applied(self, lease: Lease, nonce: str, expected_revision: int) -> bool:
        """Whether this is the last change over again."""
        session = self.sessions.get(lease.key)
        return bool(
            session and session.nonce == nonce and session.revision == expected_revision + 1
        )

    def commit(self, lease: Lease, change: Commit, now: float) -> Refusal:
        if self.applied(lease, change.nonce, change.expected_revision):
            return None
        if refusal := self.refuses(lease, change.expected_revision):
            return refusal
        session = self.sessions[lease.key]
        state = session.state
        if change.version not in (state.version, state.version + 1):
            return ValueError
        if change.reply and session.live_reply(change.reply.request_id, now):
            return AlreadyExistsError

        kept = {name: state.blobs[name] for name in state.blobs.keys() - change.drop_blobs}
        state.blobs = kept | dict(change.put_blobs)
        state.summary = change.summary
        state.fingerprint = change.fingerprint or state.fingerprint
        session.append(*change.records)
        if change.version > state.version:
            state.parent_version, state.version = state.version, change.version
            session.keep_version()
        if change.reply:
            session.replies[change.reply.request_id] = change.reply
        if change.ends_job:
            session.job = None
        session.revision += 1
        session.nonce = change.nonce
        return None

    def rollback(
        self, lease: Lease, expected_revision: int, nonce: str, to_version: int, record: Record
    ) -> Refusal:
        if self.applied(lease, nonce, expected_revision):
            return None
        if refusal := self.refuses(lease, expected_revision):
            return refusal
        session = self.sessions[lease.key]
        if to_version not in session.versions:
            return VersionNotFoundError
        session.state = session.versions[to_version].copy(
            version=session.state.version + 1, parent_version=to_version
        )
        session.append(record)
        session.keep_version()
        session.revision += 1
        session.nonce = nonce
        return None

    def fork(self, source: SessionKey, target: SessionKey, version: int | None) -> Refusal:
        if source.user != target.user:
            return ValueError
        if source not in self.sessions:
            return NotFoundError
        origin = self.sessions[source]
        if version is not None and version not in origin.versions:
            return VersionNotFoundError
        if target in self.sessions:
            return AlreadyExistsError
        state = origin.state if version is None else origin.versions[version]
        self.sessions[target] = Session(state.copy(), origin.log[: state.log_seq])
        return None

    def collect(self, key: SessionKey, keep_recent: int) -> int:
        session = self.sessions[key]
        recent = sorted(session.versions)[-keep_recent:]
        spared = {*recent, session.state.parent_version, *session.snapshots.values()}
        doomed = session.versions.keys() - spared
        for version in doomed:
            del session.versions[version]
        return len(doomed)

    def snapshot(self, key: SessionKey, name: str) -> Refusal:
        if key not in self.sessions:
            return NotFoundError
        session = self.sessions[key]
        if name in session.snapshots:
            return SnapshotExistsError
        session.snapshots[name] = session.state.version
        return None

    def delete_snapshot(self, key: SessionKey, name: str) -> Refusal:
        if key not in self.sessions:
            return NotFoundError
        gone = self.sessions[key].snapshots.pop(name, None)
        return SnapshotNotFoundError if gone is None else None

    def save_job(
        self,
        lease: Lease,
        request: bytes,
        progress: bytes,
        put: dict[str, bytes],
        drop: frozenset[str],
    ) -> Refusal:
        if refusal := self.refuses(lease):
            return refusal
        session = self.sessions[lease.key]
        known, _, made = session.job or (request, b"", {})
        if known != request:
            return AlreadyExistsError
        kept = {name: made[name] for name in made.keys() - drop}
        session.job = request, progress, kept | put
        return None

    def end_job(self, lease: Lease) -> Refusal:
        if refusal := self.refuses(lease):
            return refusal
        self.sessions[lease.key].job = None
        return None
