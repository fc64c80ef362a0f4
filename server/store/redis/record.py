"""The record of a session: what its hash holds besides log, replies and the bytes of blobs.

Knows how it is written: one field for the head, the lease and the job, and one for each version and
each snapshot, so that a change writes only what changed. Which changes are allowed is said in the
modules beside this one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, ValidationError

from server.store.errors import CorruptStoreError
from server.store.values import BlobRef, Head, Job, SessionKey, Snapshot, VersionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Fields that a head and a version share."""

    version: int
    parent_version: int | None
    log_seq: int
    log_bytes: int
    fingerprint: str
    policy: str
    summary: bytes
    blobs: Mapping[str, BlobRef]


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as the session knows it."""

    owner: str
    fence: int
    expires_at: float
    epoch: str
    """Process of the store that granted it. Another one may have lost later grants, so what this
    one granted is void there."""


@dataclass(frozen=True, slots=True)
class HeldJob:
    """A job, its blobs, and the name under which the list of all jobs has it."""

    name: str
    job: Job
    blobs: Mapping[str, BlobRef]


@dataclass(slots=True, kw_only=True)
class SessionRecord:
    """One session."""

    key: SessionKey
    incarnation: int
    revision: int = 1
    nonce: str = ""
    display_name: str
    create_time: float
    update_time: float
    state: State
    versions: dict[int, tuple[State, float]] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    lease: HeldLease | None = None
    job: HeldJob | None = None

    def keep_version(self, now: float) -> None:
        """Keeps the present state as a version to go back to."""
        self.versions[self.state.version] = self.state, now

    def refs(self) -> dict[str, BlobRef]:
        """Every blob that it refers to, by digest."""
        holders = [self.state.blobs, *(state.blobs for state, _ in self.versions.values())]
        if self.job:
            holders.append(self.job.blobs)
        return {ref.digest: ref for blobs in holders for ref in blobs.values()}

    def head(self) -> Head:
        state = self.state
        return Head(
            key=self.key,
            incarnation=self.incarnation,
            revision=self.revision,
            version=state.version,
            parent_version=state.parent_version,
            log_seq=state.log_seq,
            fingerprint=state.fingerprint,
            policy=state.policy,
            display_name=self.display_name,
            blobs=dict(sorted(state.blobs.items())),
            summary=state.summary,
            create_time=self.create_time,
            update_time=self.update_time,
            stored_bytes=state.log_bytes + sum(ref.size_bytes for ref in self.refs().values()),
            job=self.job.job if self.job else None,
        )

    def version_infos(self) -> list[VersionInfo]:
        return [
            VersionInfo(
                version=state.version,
                parent_version=state.parent_version,
                log_seq=state.log_seq,
                fingerprint=state.fingerprint,
                policy=state.policy,
                blobs=dict(sorted(state.blobs.items())),
                summary=state.summary,
                create_time=create_time,
            )
            for _, (state, create_time) in sorted(self.versions.items())
        ]


def encode(record: SessionRecord) -> dict[str, bytes]:
    """Fields of the record's hash."""
    fields: dict[str, Any] = {
        "head": {
            "incarnation": record.incarnation,
            "revision": record.revision,
            "nonce": record.nonce,
            "display_name": record.display_name,
            "create_time": record.create_time,
            "update_time": record.update_time,
            "state": _state_out(record.state),
        }
    }
    for number, (state, create_time) in record.versions.items():
        fields[f"version:{number}"] = [_state_out(state), create_time]
    for name, snapshot in record.snapshots.items():
        fields[f"snapshot:{name}"] = [snapshot.version, snapshot.create_time]
    if (lease := record.lease) is not None:
        fields["lease"] = [lease.owner, lease.fence, lease.expires_at, lease.epoch]
    if (held := record.job) is not None:
        job = held.job
        made = [_text(job.request), _text(job.progress), job.create_time]
        fields["job"] = [held.name, made, held.blobs]
    return {
        name: json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        for name, value in fields.items()
    }


def decode(key: SessionKey, fields: Mapping[str, bytes]) -> SessionRecord:
    """The record in a hash. Raises CorruptStoreError."""
    try:
        return _decode(key, fields)
    except (KeyError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CorruptStoreError(
            f"the record of session {key} cannot be read ({reason}); delete the session or "
            "restore a backup"
        ) from error


def _decode(key: SessionKey, fields: Mapping[str, bytes]) -> SessionRecord:
    head = _HEAD.validate_json(fields["head"], strict=True)
    plain = head.model_dump(exclude={"state"})
    record = SessionRecord(key=key, state=head.state.value(), **plain)
    for name, data in fields.items():
        kind, _, rest = name.partition(":")
        if kind == "version":
            stored, create_time = _VERSION.validate_json(data, strict=True)
            record.versions[int(rest)] = stored.value(), create_time
        elif kind == "snapshot":
            version, create_time = _SNAPSHOT.validate_json(data, strict=True)
            record.snapshots[rest] = Snapshot(name=rest, version=version, create_time=create_time)
        elif kind == "lease":
            record.lease = HeldLease(*_LEASE.validate_json(data, strict=True))
        elif kind == "job":
            known, (request, progress, create_time), blobs = _JOB.validate_json(data, strict=True)
            job = Job(request=_bytes(request), progress=_bytes(progress), create_time=create_time)
            record.job = HeldJob(known, job, blobs)
    return record


_Count = Annotated[int, Field(ge=0)]
_Blobs = dict[str, BlobRef]


class _State(BaseModel):
    version: _Count
    parent_version: _Count | None
    log_seq: _Count
    log_bytes: _Count
    fingerprint: str
    policy: str
    summary: str
    blobs: _Blobs

    def value(self) -> State:
        known = {name: getattr(self, name) for name in type(self).model_fields}
        return State(**known | {"summary": _bytes(self.summary)})


class _Head(BaseModel):
    incarnation: _Count
    revision: _Count
    nonce: str
    display_name: str
    create_time: FiniteFloat
    update_time: FiniteFloat
    state: _State


_HEAD = TypeAdapter(_Head)
_VERSION = TypeAdapter(tuple[_State, FiniteFloat])
_SNAPSHOT = TypeAdapter(tuple[_Count, FiniteFloat])
_LEASE = TypeAdapter(tuple[str, _Count, FiniteFloat, str])
_JOB = TypeAdapter(tuple[str, tuple[str, str, FiniteFloat], _Blobs])


def _state_out(state: State) -> dict[str, Any]:
    return {
        "version": state.version,
        "parent_version": state.parent_version,
        "log_seq": state.log_seq,
        "log_bytes": state.log_bytes,
        "fingerprint": state.fingerprint,
        "policy": state.policy,
        "summary": _text(state.summary),
        "blobs": state.blobs,
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
