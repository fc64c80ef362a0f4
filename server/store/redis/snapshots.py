"""Names for versions. Contracts are in `base`."""

from __future__ import annotations

from server.store.errors import SnapshotExistsError, SnapshotNotFoundError
from server.store.redis.transaction import Draft
from server.store.values import Snapshot


def snapshot(draft: Draft, name: str) -> Snapshot:
    record = draft.require()
    if name in record.snapshots:
        raise SnapshotExistsError(f"snapshot {name} of session {draft.key} already exists")
    made = Snapshot(name=name, version=record.state.version, create_time=draft.now)
    record.snapshots[name] = made
    return made


def snapshots(draft: Draft, page_size: int, page_token: str) -> tuple[list[Snapshot], str]:
    # The token is the last name of the page before; no name is empty.
    named = draft.require().snapshots
    names = sorted(name for name in named if name > page_token)
    page = [named[name] for name in names[:page_size]]
    return page, page[-1].name if len(names) > page_size else ""


def delete_snapshot(draft: Draft, name: str) -> None:
    if draft.require().snapshots.pop(name, None) is None:
        raise SnapshotNotFoundError(f"snapshot {name} of session {draft.key} does not exist")
