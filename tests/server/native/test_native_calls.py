"""A native checkpoint is served like any other model: every call, over the wire, on a real one."""

from __future__ import annotations

import grpc
from api import refused
from hope.v1 import admin_pb2, sessions_pb2
from native_sessions import begin
from serving import Serve
from told import TEXT

from hope_runtime.models.hope.served import HopeModel
from server.app.status import describe_levels


async def test_the_server_says_what_it_runs(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        info = await served.api.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
        assert list(info.policies) == ["default"]
        assert info.base_fingerprint == model.fingerprint
        assert info.dtype == "float32"
        assert info.window_tokens == 32
        levels, size = len(model.policy.levels), info.max_state_bytes / 1e6
        assert describe_levels(served.running.sessions) == (
            f"the {levels} levels of a session take at most {size:.1f} MB"
        )
        session = await served.api.create(policy="")
        assert session.memory_version == 0
        assert [level.period_tokens for level in session.levels] == (
            [16, 64] if model.policy.levels else []
        )
        assert all(level.relative_norm == 0 for level in session.levels)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "policy"):
            await served.api.on("other").create(policy="replay")


async def test_versions_forks_and_exports(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api = await begin(served)
        await api.say(TEXT)
        first = await api.learnt()
        fork = api.on("fork")
        await api.fork("fork")
        await api.say("Another text altogether, of no great length.", conversation="b")
        second = await api.learnt()
        assert second.memory_version > first.memory_version
        assert (await fork.get()).memory_hash == first.memory_hash
        # What is only context makes no version.
        await api.say("Quiet, please.", learn=False, conversation="b")
        assert (await api.learnt()).memory_version == second.memory_version
        data = [
            each.chunk
            async for each in api.sessions.ExportSession(
                sessions_pb2.ExportSessionRequest(name=api.name)
            )
        ]
        parts = [sessions_pb2.ImportSessionRequest(name=api.on("copy").name)]
        parts += [sessions_pb2.ImportSessionRequest(chunk=chunk) for chunk in data]
        await api.sessions.ImportSession(iter(parts))
        said = [(await each.say("So?", conversation="b")).text for each in (api, api.on("copy"))]
        assert said[0] == said[1]
        norms = await api.diff(first.memory_version, second.memory_version)
        assert len(norms) == len(first.levels)
        back = await api.rollback(version=first.memory_version)
        assert back.memory_hash == first.memory_hash
        assert (await api.say("So?")).text == (await fork.say("So?")).text


async def test_levels_are_flushed_reset_and_compared(serve: Serve, hope: HopeModel) -> None:
    async with serve(hope) as served:
        api = await begin(served)
        await api.say("Twenty bytes of text")
        session = await api.get()
        assert [level.updates for level in session.levels] == [1, 0]
        assert session.pending_tokens == 4
        done = await api.consolidate()
        assert [(each.level, each.tokens) for each in done.consolidations] == [(0, 4)]
        assert done.consolidations[0].surprise_after_nats > 0
        assert [level.updates for level in done.session.levels] == [2, 1]
        assert done.session.pending_tokens == 0
        assert not (await api.consolidate()).consolidations
        await api.say("More")
        ended = await api.end_conversation(conversation="default")
        assert [each.tokens for each in ended.consolidations] == [4]
        assert not ended.session.conversations
        reset = await api.reset()
        assert all(level.relative_norm == 0 for level in reset.levels)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "levels"):
            await api.reset(2)


async def test_what_is_ephemeral_leaves_no_trace(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api = await begin(served)
        await api.say(TEXT)
        before = await api.learnt()
        said = [(await api.say("Who?", ephemeral=True)).text for _ in range(2)]
        assert said[0] == said[1]
        assert await api.get() == before
        frozen = (await api.score(TEXT, frozen=True)).total_nats
        assert frozen != (await api.score(TEXT)).total_nats
        assert frozen == (await api.score(TEXT, at_version=0)).total_nats
        answer = await api.say("Who?", at_version=before.memory_version)
        assert answer.usage.memory_version == before.memory_version
        assert await api.get() == before


async def test_its_history_has_no_drift(serve: Serve, hope: HopeModel) -> None:
    async with serve(hope) as served:
        api = await begin(served)
        await api.say(TEXT)
        assert (await api.end_conversation()).consolidations
        request = sessions_pb2.ListConsolidationsRequest(parent=api.name)
        found = (await api.sessions.ListConsolidations(request)).consolidations
    assert found
    assert not any(each.HasField("drift") or each.HasField("probes") for each in found)
    assert all(each.memory_version for each in found)
