"""Sessions as a whole: making, listing, forking, going back, erasing; one server at a time."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import NAME, USER, Api, refused
from grpc import aio
from hope.v1 import admin_pb2
from hope.v1 import sessions_pb2 as pb
from serving import Serve, Served
from told import TEXT, teach

from hope_runtime.session.fold import replay
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from server.settings import Settings
from server.store.base import SessionKey

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_a_new_session_is_the_base_model(served: Served) -> None:
    session = await served.api.create()
    assert session.name == NAME
    assert session == await served.api.get()
    assert (session.memory_version, session.learnable_tokens, session.log_records) == (0, 0, 0)
    assert [(level.period_tokens, level.rank) for level in session.levels] == [
        (32, 4),
        (64, 2),
        (128, 1),
    ]
    assert all(level.relative_norm == 0 for level in session.levels)
    text = "The river was wide."
    mine, base = await served.api.score(text), await served.api.score(text, frozen=True)
    assert mine.total_nats == base.total_nats


async def test_the_server_picks_a_name_and_the_default_policy(served: Served) -> None:
    request = pb.CreateSessionRequest(parent=USER, display_name="Diary of Ada")
    first = (await served.api.sessions.CreateSession(request)).session
    second = (await served.api.sessions.CreateSession(request)).session
    assert first.name.startswith(f"{USER}/sessions/")
    assert first.name != second.name
    assert (first.policy, first.display_name) == ("default", "Diary of Ada")


async def test_names_are_taken_once_and_free_again_after_an_erasure(api: Api) -> None:
    async with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS"):
        await api.create()
    first = await api.get()
    await api.say("Hello.")
    await api.delete()
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await api.get()
    again = await api.create()
    assert again.etag != first.etag
    assert again.memory_hash == first.memory_hash
    assert (await api.say("Hello.")).usage.memory_version == 0


async def test_listing_goes_page_by_page_in_the_order_of_names(served: Served) -> None:
    for name in ("c", "a", "e", "b", "d"):
        await served.api.on(name).create()
    found, token = [], ""
    while True:
        request = pb.ListSessionsRequest(parent=USER, page_size=2, page_token=token)
        page = await served.api.sessions.ListSessions(request)
        found.append([session.name.rpartition("/")[2] for session in page.sessions])
        if not (token := page.next_page_token):
            break
    assert found == [["a", "b"], ["c", "d"], ["e"]]
    nobody = await served.api.sessions.ListSessions(pb.ListSessionsRequest(parent="users/nobody"))
    assert not nobody.sessions


async def test_a_fork_has_the_same_memory_and_goes_its_own_way(api: Api) -> None:
    await api.ingest([TEXT.encode() * 4])
    await api.say("Hello.")
    source = await api.learnt()
    fork = await api.fork("copy")
    copy = api.on("copy")
    assert (fork.memory_hash, fork.log_records) == (source.memory_hash, source.log_records)
    assert (await copy.say("And now?")).text == (await api.say("And now?")).text
    await copy.ingest([b"Something else."], document="own")
    assert (await api.get()).memory_hash != (await copy.learnt()).memory_hash
    await api.delete()
    assert (await copy.say("Still here?")).usage.output_tokens


async def test_a_fork_may_begin_at_an_earlier_version(api: Api) -> None:
    first = await teach(api, "one")
    await teach(api, "two")
    fork = await api.fork("earlier", version=first.memory_version)
    assert fork.memory_hash == first.memory_hash
    for version in (99, 2**63, 2**64 - 1):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "version"):
            await api.fork("nowhere", version=version)


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


async def test_a_forgotten_document_was_never_read(api: Api) -> None:
    await api.fork("never")
    other = api.on("never")
    await api.ingest([TEXT.encode()], document="kept")
    await other.ingest([TEXT.encode()], document="kept")
    await api.ingest([b"Rolf bit the postman twice. " * 5], document="gossip")
    for each in (api, other):
        await each.say("Hello, my name is Ada.")
        await each.end_conversation()
    before = await api.learnt()
    after = await api.forget("gossip")
    expected = await other.learnt()
    assert [level.relative_norm for level in after.levels] == [
        level.relative_norm for level in expected.levels
    ]
    assert after.learnable_tokens == expected.learnable_tokens < before.learnable_tokens
    assert [each.name for each in after.documents] == ["kept"]
    assert (await api.say("Who is Rolf?")).text == (await other.say("Who is Rolf?")).text
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "document"):
        await api.forget("gossip")
    assert (await api.rollback(version=before.memory_version)).memory_hash == before.memory_hash


async def test_a_migrated_session_learnt_under_its_new_policy_from_the_beginning(
    served: Served,
) -> None:
    api, other = served.api, served.api.on("other")
    await api.create()
    await other.create(policy="summed_gradient")
    for each in (api, other):
        await each.ingest([TEXT.encode()], document="one")
        await each.say("Hello.")
        await each.end_conversation()
    before = await api.learnt()
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "policy"):
        await api.migrate("nothing")
    after = await api.migrate("summed_gradient")
    expected = await other.learnt()
    assert after.policy == "summed_gradient"
    assert after.memory_version == before.memory_version + 1
    assert after.memory_hash == expected.memory_hash
    assert after.memory_hash != before.memory_hash
    assert (await api.say("Who is Rolf?")).text == (await other.say("Who is Rolf?")).text
    assert (await api.rollback(version=before.memory_version)).memory_hash == before.memory_hash


async def test_a_policy_that_changed_is_refused_until_its_sessions_are_migrated(
    serve: Serve,
) -> None:
    async with serve() as served:
        await served.api.create()
        await teach(served.api, "one")
    async with serve() as served:
        sessions = served.running.sessions
        quick = sessions.policies["quick"]
        sessions.policies = {**sessions.policies, "quick": replace(quick, seed=quick.seed + 1)}
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_STATE_FORMAT"):
            await served.api.say("Hello?")
        assert (await served.api.migrate()).policy == "quick"
        await served.api.say("Hello?")


async def test_an_exported_session_goes_on_elsewhere(served: Served) -> None:
    api, copy = served.api, served.api.on("copy")
    await api.create()
    await teach(api, "one")
    await api.say("Hello, my name is Ada.")
    await teach(api, "two")
    await api.rollback()
    source = await teach(api, "three")
    data = await api.export()
    imported = await copy.import_(data)
    assert imported.memory_hash == source.memory_hash
    assert (imported.log_records, imported.levels) == (source.log_records, source.levels)
    assert (imported.memory_version, imported.policy) == (1, source.policy)
    assert (await copy.say("Who is Rolf?")).text == (await api.say("Who is Rolf?")).text
    # Its log is whole: folding it again gives the same.
    assert (await copy.migrate()).memory_hash == (await copy.get()).memory_hash
    async with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS"):
        await copy.import_(data)


async def test_what_is_no_whole_export_makes_nothing(served: Served) -> None:
    api, copy = served.api, served.api.on("copy")
    await api.create()
    await teach(api, "one")
    data = await api.export()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for broken in (b"", b"hello, world", data[:-1], data[: len(data) // 2], data + b"x", flipped):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "chunk"):
            await copy.import_(bytes(broken))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "name"):
        await copy.sessions.ImportSession(iter([pb.ImportSessionRequest(chunk=data)]))
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await copy.get()


async def test_a_whole_export_that_no_server_made_is_refused(served: Served) -> None:
    """Anybody can make frames and digests that fit; what is in them is looked at as well."""
    api, copy = served.api, served.api.on("copy")
    await api.create()
    await teach(api, "one")
    data = await api.export()
    frames, at = [], 0
    while data[at : at + 1] != b"E":
        size = int.from_bytes(data[at + 1 : at + 5], "little")
        frames.append((data[at : at + 1], data[at + 5 : at + 5 + size]))
        at += 5 + size
    index, kind, record = next(
        (index, kind, Record.decode(payload))
        for index, (letter, body) in enumerate(frames)
        for kind, _, payload in [body.partition(b"\0")]
        if letter == b"L" and Record.decode(payload).learnable_tokens
    )
    strange = replace(record.segments[-1], spans=((2**31,),))
    forged = replace(record, segments=(*record.segments[:-1], strange))
    for body, message in (
        (kind + b"\0" + forged.encode(), "token ids outside the model's vocabulary"),
        (kind + b"\0" + replace(record, segments=()).encode(), "does not match its log"),
    ):
        frames[index] = (b"L", body)
        whole = b"".join(letter + len(body).to_bytes(4, "little") + body for letter, body in frames)
        whole += b"E" + (32).to_bytes(4, "little") + hashlib.sha256(whole).digest()
        with pytest.raises(aio.AioRpcError, match=message):
            await copy.import_(whole)
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await copy.get()


async def test_only_levels_that_exist_are_reset(api: Api) -> None:
    before = await api.get()
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "levels"):
        await api.reset(0, 7)
    assert await api.get() == before


async def test_two_versions_differ_by_what_was_learnt_between_them(api: Api) -> None:
    first = await teach(api, "one")
    second = await teach(api, "two")
    versions = (first.memory_version, second.memory_version)
    changed = await api.diff(*versions)
    assert changed[0] > 0
    assert await api.diff(*reversed(versions)) == pytest.approx(changed, rel=1e-6)
    assert await api.diff(versions[1], versions[1]) == pytest.approx([0, 0, 0], abs=1e-6)
    # From the base model, the difference is the level itself.
    since = await api.diff(0, versions[1])
    assert since == pytest.approx([level.relative_norm for level in second.levels], rel=1e-5)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "to_version"):
        await api.diff(0, 99)


async def _between(api: Api, before: int, after: int, **fields: Any) -> pb.DiffVersionsResponse:
    request = pb.DiffVersionsRequest(name=NAME, from_version=before, to_version=after, **fields)
    return await api.sessions.DiffVersions(request)


def _told(answer: pb.DiffVersionsResponse) -> list[tuple[bool, str, str]]:
    return [(each.taken_back, each.document, each.excerpt) for each in answer.taught]


async def test_a_diff_tells_what_lies_between_two_versions(api: Api) -> None:
    one = await teach(api, "one")
    await api.say("My name is Ada.", conversation="work")
    await api.say("This is not learnt.", conversation="work", learn=False)
    said = (await api.consolidate()).session
    two = await teach(api, "two")
    answer = await _between(api, one.memory_version, two.memory_version)
    assert _told(answer) == [(False, "", "My name is Ada."), (False, "two", TEXT)]
    turn, document = answer.taught
    assert (turn.conversation, document.conversation) == ("work", "default")
    assert turn.learnable_tokens == said.learnable_tokens - one.learnable_tokens
    assert document.learnable_tokens == two.learnable_tokens - said.learnable_tokens
    assert one.log_records < turn.log_record < document.log_record <= two.log_records
    assert len(answer.levels) == 3
    # What was taken back is told as well, whichever way one looks.
    assert _told(await _between(api, two.memory_version, said.memory_version)) == [
        (True, "two", TEXT)
    ]
    back = await api.rollback(version=one.memory_version)
    three = await teach(api, "three")
    assert _told(await _between(api, two.memory_version, three.memory_version)) == [
        (True, "", "My name is Ada."),
        (True, "two", TEXT),
        (False, "three", TEXT),
    ]
    assert _told(await _between(api, one.memory_version, back.memory_version)) == []
    forgotten = await api.forget("one")
    assert _told(await _between(api, three.memory_version, forgotten.memory_version)) == [
        (True, "one", TEXT)
    ]


async def test_a_diff_is_paged_and_its_excerpts_are_short(api: Api) -> None:
    for number in range(5):
        text = f"{number}. {'字' * 20}{'x' * 45 * number}"
        await api.ingest([text.encode()], document=str(number))
    last = await api.learnt()
    texts, token = [], ""
    while True:
        page = await _between(api, 0, last.memory_version, page_size=2, page_token=token)
        texts.append([(len(each.excerpt), each.truncated) for each in page.taught])
        if not (token := page.next_page_token):
            break
    assert texts == [[(23, False), (68, False)], [(113, False), (158, False)], [(200, True)]]
    for field, value in (("page_size", 1001), ("page_token", "next"), ("page_token", "9" * 30)):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", field):
            await _between(api, 0, last.memory_version, **{field: value})


async def test_a_diff_knows_the_surprise_of_what_is_rehearsed(served: Served) -> None:
    api = served.api
    await api.create(policy="default")
    result = await api.say("My dog is called Rolf.")
    learnt = (await api.consolidate()).session
    (taught,) = (await _between(api, 0, learnt.memory_version)).taught
    # Read as a statement of its own, not in its place in the chat: another figure, the same kind.
    assert taught.surprise_nats > 0
    assert taught.learnable_tokens == result.usage.learnable_tokens
    (taken,) = (await _between(api, learnt.memory_version, 0)).taught
    assert taken.surprise_nats == taught.surprise_nats
    migrated = await api.migrate("quick")
    answer = await _between(api, learnt.memory_version, migrated.memory_version)
    assert _told(answer) == []


async def test_a_session_is_renamed_and_its_memory_stays(api: Api) -> None:
    before = await teach(api, "one")
    after = await api.rename("Diary", etag=before.etag)
    assert (after.display_name, after.memory_hash) == ("Diary", before.memory_hash)
    assert after.memory_version == before.memory_version
    async with refused(grpc.StatusCode.ABORTED, "STALE_ETAG"):
        await api.rename("Other", etag=before.etag)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "session.display_name"):
        await api.rename("x" * 257)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "update_mask"):
        await api.sessions.UpdateSession(pb.UpdateSessionRequest(session=after))
    assert (await api.get()).display_name == "Diary"


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


async def test_erasing_a_user_erases_every_session_and_nobody_elses(served: Served) -> None:
    for name in ("a", "b", "c"):
        await served.api.on(name).create()
    await served.api.on("b").say("Hello.")  # this one is resident
    other = pb.CreateSessionRequest(parent="users/bob", session_id="a")
    await served.api.sessions.CreateSession(other)
    answer = await served.api.sessions.DeleteUser(pb.DeleteUserRequest(name=USER))
    assert answer.sessions == 3
    assert served.running.sessions.residency.resident_count == 0
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await served.api.on("b").say("Hello?")
    await served.api.sessions.GetSession(pb.GetSessionRequest(name="users/bob/sessions/a"))
    again = await served.api.sessions.DeleteUser(pb.DeleteUserRequest(name=USER))
    assert again.sessions == 0


async def test_an_old_etag_is_refused(api: Api) -> None:
    old = (await api.get()).etag
    await teach(api, "one")
    now = await api.get()
    for change in (api.delete(etag=old), api.rollback(etag=old)):
        async with refused(grpc.StatusCode.ABORTED, "STALE_ETAG"):
            await change
    assert (await api.get()).etag == now.etag
    await api.rollback(etag=now.etag)
    await api.delete(etag=(await api.get()).etag)


async def test_a_session_is_on_one_server_at_a_time(serve: Serve) -> None:
    async with serve() as first, serve() as second:
        await first.api.create()
        await first.api.say("Mine.")
        async with refused(grpc.StatusCode.UNAVAILABLE, "SESSION_OWNED_ELSEWHERE"):
            await second.api.say("Mine?")
        assert (await second.api.get()).conversations == ["default"]  # reading needs no lease
        await first.api.delete()
        await second.api.create()
        await second.api.say("Mine now.")
        async with refused(grpc.StatusCode.UNAVAILABLE, "SESSION_OWNED_ELSEWHERE"):
            await first.api.say("Not any more?")


async def test_sessions_that_are_put_aside_come_back_whole(serve: Serve) -> None:
    async with serve(resident_sessions=1, lease_seconds=0.15, memory_cache_bytes=0) as served:
        apis = [served.api.on(f"s{number}") for number in range(3)]
        for api in apis:
            await api.create()
        for _ in range(2):
            replies = [await api.say(TEXT) for api in apis]
            assert len({reply.text for reply in replies}) == 1
            while served.running.sessions.residency.resident_count > 1:
                await served.api.admin.GetLoad(admin_pb2.GetLoadRequest())
        hashes = {(await api.learnt()).memory_hash for api in apis}
        assert len(hashes) == 1


async def test_names_that_do_not_exist_leave_nothing_behind(served: Served) -> None:
    for number in range(20):
        async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
            await served.api.on(f"no{number}").say("Hello?")
        async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
            await served.api.on(f"no{number}").delete()
    assert not served.running.sessions.residency.entries


async def test_memories_outlive_the_server(serve: Serve) -> None:
    async with serve() as first:
        await first.api.create()
        await first.api.ingest([TEXT.encode() * 3])
        await first.api.say("Remember?")
        before = await first.api.get()
    async with serve() as second:
        assert await second.api.get() == before
        assert (await second.api.say("Now?")).usage.memory_version == before.memory_version


@pytest.mark.parametrize("tokens", [96, 512])
async def test_a_server_with_another_window_goes_on(serve: Serve, tokens: int) -> None:
    async with serve() as first:
        await first.api.create()
        await first.api.ingest([TEXT.encode() * 30])
        before = await first.api.get()
    async with serve(window_tokens=tokens) as second:
        assert (await second.api.say("Go on.")).usage.output_tokens
        assert (await second.api.get()).levels == before.levels


async def test_the_database_is_sound_after_all_this(served: Served, api: Api) -> None:
    for number in range(3):
        await teach(api, f"part {number}")
    await api.fork("copy")
    await api.rollback()
    await api.on("copy").delete()
    assert await served.running.sessions.store.check_integrity() == []


def test_settings_keep_their_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Settings().database == tmp_path / "hope-server" / "sessions.db"
