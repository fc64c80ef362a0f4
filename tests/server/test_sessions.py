"""Sessions as a whole: making, listing, forking, rebuilding, erasing; one server at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from api import NAME, USER, Api, refused
from hope.v1 import admin_pb2
from hope.v1 import sessions_pb2 as pb
from serving import Serve, Served
from told import TEXT, teach

from server.settings import Settings

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
