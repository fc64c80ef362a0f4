"""Versions of a session over the wire: rollback, reset, snapshots, and what is collected."""

from __future__ import annotations

import grpc
from api import NAME, Api, refused
from hope.v1 import sessions_pb2 as pb
from serving import Serve, Served
from told import TEXT, teach

from hope_runtime.session.fold import replay
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from server.store.base import SessionKey

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_a_rollback_takes_back_what_came_after(api: Api) -> None:
    versions = [await api.get()]
    for number in range(3):
        versions.append(await teach(api, f"part {number}"))
    back = await api.rollback()
    assert back.memory_hash == versions[2].memory_hash
    assert back.memory_version == versions[3].memory_version + 1
    assert back.parent_version == versions[2].memory_version
    assert [document.name for document in back.documents] == ["part 0", "part 1"]
    # And forth again: to what the rollback itself took back, and to the very beginning.
    forth = await api.rollback(version=versions[3].memory_version)
    assert forth.memory_hash == versions[3].memory_hash
    start = await api.rollback(version=0)
    assert start.memory_hash == versions[0].memory_hash
    assert start.levels == versions[0].levels
    again = await teach(api, "part 0")
    assert again.memory_hash == versions[1].memory_hash


async def test_going_on_after_a_rollback_is_as_if_nothing_had_been(api: Api) -> None:
    await teach(api, "kept")
    await api.fork("never")
    other = api.on("never")
    await teach(api, "undone")
    await api.say("Undone too.")
    await api.rollback()
    for each in (api, other):
        await each.ingest([TEXT.encode() * 2], document="after")
    assert (await api.learnt()).memory_hash == (await other.learnt()).memory_hash
    assert (await api.say("Who is Rolf?")).text == (await other.say("Who is Rolf?")).text


async def test_a_rollback_needs_a_version_that_is_kept(serve: Serve) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    async with serve(keep_versions=2) as served:
        api = served.api
        await api.create()
        async with refused(invalid, "INVALID_REQUEST", "version"):
            await api.rollback()  # nothing to go back to
        for number in range(4):
            last = await teach(api, f"part {number}")
        for version in (0, 99, 2**64 - 1):
            async with refused(invalid, "INVALID_REQUEST", "version"):
                await api.rollback(version=version)
        assert (await api.get()).etag == last.etag
        assert await api.rollback()


async def test_versions_are_collected_whatever_made_them(serve: Serve) -> None:
    async with serve(keep_versions=2) as served:
        api, store = served.api, served.running.sessions.store
        await api.create()
        for number in range(3):
            await teach(api, f"part {number}")
            await api.reset()
            await api.rollback()
            # The newest two, and the parent, so that one step back is always possible.
            assert len(await store.versions(SessionKey("ada", "diary"))) <= 3
        await api.migrate()
        assert len(await store.versions(SessionKey("ada", "diary"))) <= 3
        assert await store.check_integrity() == []


async def test_a_level_that_is_reset_is_the_base_model_and_a_rollback_undoes_it(api: Api) -> None:
    taught = await teach(api, "one")
    assert taught.levels[0].relative_norm > 0
    unchanged = await api.reset(2)  # it never learnt
    assert unchanged.memory_version == taught.memory_version
    assert unchanged.levels == taught.levels
    reset = await api.reset(0)
    assert reset.memory_version == taught.memory_version + 1
    assert reset.levels[0].relative_norm == 0
    assert (reset.levels[0].updates, reset.levels[0].learnt_tokens) == (0, 0)
    assert reset.learnable_tokens == taught.learnable_tokens
    text = "The river was wide."
    mine, base = await api.score(text), await api.score(text, frozen=True)
    assert mine.total_nats == base.total_nats
    # It goes on learning from there, and the resets can be taken back.
    assert (await teach(api, "two")).levels[0].relative_norm > 0
    back = await api.rollback(version=taught.memory_version)
    assert back.memory_hash == taught.memory_hash


async def test_a_reset_is_part_of_the_log(served: Served) -> None:
    """Whoever folds the log again gets the same memory."""
    await served.api.create()
    await teach(served.api, "one")
    await served.api.reset()
    await teach(served.api, "two")
    session = await served.api.learnt()
    sessions = served.running.sessions
    key = SessionKey("ada", "diary")
    records = [Record.decode(each.payload) for each in await sessions.store.read_log(key)]
    fresh = SessionMemory.fresh(sessions.fingerprint, sessions.policies["quick"])
    folded = replay(
        fresh, records, sessions.engine.learner, window_tokens=sessions.engine.window_tokens
    )
    assert folded.hash() == session.memory_hash


async def test_only_levels_that_exist_are_reset(api: Api) -> None:
    before = await api.get()
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "levels"):
        await api.reset(0, 7)
    assert await api.get() == before


async def test_a_snapshot_keeps_its_version(serve: Serve) -> None:
    async with serve(keep_versions=1) as served:
        api = served.api
        await api.create()
        first = await teach(api, "one")
        request = pb.CreateSnapshotRequest(parent=NAME, snapshot_id="good")
        snapshot = (await api.sessions.CreateSnapshot(request)).snapshot
        assert (snapshot.name, snapshot.version) == (f"{NAME}/snapshots/good", first.memory_version)
        async with refused(grpc.StatusCode.ALREADY_EXISTS, "SNAPSHOT_EXISTS"):
            await api.sessions.CreateSnapshot(request)
        for number in range(4):
            await teach(api, f"part {number}")
        back = await api.rollback(version=snapshot.version)
        assert back.memory_hash == first.memory_hash
        page = await api.sessions.ListSnapshots(pb.ListSnapshotsRequest(parent=NAME))
        assert list(page.snapshots) == [snapshot]
        deletion = pb.DeleteSnapshotRequest(name=snapshot.name)
        await api.sessions.DeleteSnapshot(deletion)
        async with refused(NOT_FOUND, "SNAPSHOT_NOT_FOUND"):
            await api.sessions.DeleteSnapshot(deletion)
        async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
            request = pb.DeleteSnapshotRequest(name=f"{NAME}2/snapshots/good")
            await api.sessions.DeleteSnapshot(request)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "name"):
            await api.sessions.DeleteSnapshot(pb.DeleteSnapshotRequest(name=NAME))
