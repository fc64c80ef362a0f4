"""The history of a session's learning: measured at each consolidation, kept in its log."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
from api import NAME, Api, refused
from hope.v1 import admin_pb2
from hope.v1 import sessions_pb2 as pb
from processes import soon
from serving import Serve, Served, Spawn
from test_metrics import scrape, value_of
from told import TEXT

from hope_runtime.errors import CorruptStateError
from hope_runtime.session.guards import GuardConfig
from hope_runtime.session.policy import POLICIES, LearningPolicy, LevelConfig, ReplayConfig
from server.grpc_api.convert import noted_consolidation

# The default recipe, at a price that a test can pay.
REPLAY = LearningPolicy(
    name="replay",
    levels=(
        LevelConfig(period_tokens=64, rank=4, learning_rate=3e-3),
        LevelConfig(period_tokens=128, rank=2, learning_rate=3e-3),
    ),
    replay=ReplayConfig(statement_price=20, questions=1, contrasts_each=1),
)


async def history(api: Api, page_size: int = 0) -> list[pb.Consolidation]:
    found: list[pb.Consolidation] = []
    token = ""
    while True:
        request = pb.ListConsolidationsRequest(
            parent=api.name, page_size=page_size, page_token=token
        )
        page = await api.sessions.ListConsolidations(request)
        assert len(page.consolidations) <= (page_size or 50)
        found += page.consolidations
        if not (token := page.next_page_token):
            return found


@pytest.fixture(autouse=True)
def _replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "replay", REPLAY)


async def test_each_version_has_figures_and_they_stay(serve: Serve) -> None:
    async with serve() as served:
        await check_history(served.api)


async def check_history(api: Api) -> None:
    await api.create("replay")
    assert await history(api) == []
    reports = []
    for text in (TEXT, TEXT.replace("Rolf", "Bruno")):
        await api.say(text)
        reports += (await api.end_conversation()).consolidations
    session = await api.get()
    found = await history(api)
    for each in reports:
        each.ClearField("duration")
    assert found == reports
    assert [each.memory_version for each in found] == [1, 2]
    assert found[-1].position == session.learnable_tokens
    last = found[-1].drift
    assert last.relative_norm == pytest.approx(session.levels[0].relative_norm)
    assert last.update_ratio > 0
    assert 1 <= last.effective_rank <= 4
    assert 0 < last.gradient_norm <= last.largest_gradient_norm
    assert last.steps > 1
    # The second stretch was learnt beside replays of the first; even that one beside samples.
    assert 0 < found[0].drift.rehearsed_share < last.rehearsed_share < 1
    assert found[-1].probes.frozen_nats == found[0].probes.frozen_nats > 0
    assert found[-1].probes.divergence_nats > 0
    assert await history(api, page_size=1) == found
    await api.rollback()  # what it takes back stays in the history
    assert await history(api) == found


async def test_a_level_that_learnt_nothing_has_no_drift(served: Served) -> None:
    api = served.api
    await api.create()
    await api.ingest([TEXT.encode() * 6])  # past boundaries of both faster levels
    await api.end_conversation()
    found = await history(api)
    assert {each.level for each in found} >= {0, 1}
    for each in found:
        assert each.HasField("drift") == each.HasField("probes") == (each.tokens > 0)


async def test_what_cannot_be_listed_is_refused(api: Api) -> None:
    list_them: Any = api.sessions.ListConsolidations
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "page_size"):
        await list_them(pb.ListConsolidationsRequest(parent=NAME, page_size=1001))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "page_token"):
        await list_them(pb.ListConsolidationsRequest(parent=NAME, page_token="-1"))
    async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
        await list_them(pb.ListConsolidationsRequest(parent=f"{NAME}2"))


@pytest.mark.parametrize(
    "notes",
    [
        {"level": -1},
        {"level": "0"},
        {"drift": 1},
        {"drift": {}},
        {"drift": {"steps": 3}},
        {"probed": {"nats": 1.0}},
        {"version": [1]},
        {"guards": [1]},
        {"guards": [{"guard": "level_frozen", "value": 1}]},
    ],
)
def test_notes_that_no_server_wrote_are_a_typed_error(notes: dict[str, Any]) -> None:
    with pytest.raises(CorruptStateError):
        noted_consolidation(notes)
    assert noted_consolidation({"level": 1, "tokens": 3}).memory_version == 0


async def test_figures_are_the_same_whatever_was_served_before(serve: Serve) -> None:
    async with serve() as served:
        for name in ("diary", "other"):
            await served.api.on(name).create("replay")
            await served.api.on(name).say(TEXT)
            await served.api.on(name).end_conversation()
        first, second = [await history(served.api.on(name)) for name in ("diary", "other")]
    assert first == second


async def test_what_a_guard_decides_is_shown_and_undone_by_one_call(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = LevelConfig(period_tokens=32, rank=4, learning_rate=0.5)
    harmful = LearningPolicy("harmful", (level,), recipe="summed_gradient")
    guards = GuardConfig(1e6, 1e6, 1e6, probe_rise=0.02, freeze_after=1)
    monkeypatch.setitem(POLICIES, "harmful", harmful)
    monkeypatch.setitem(POLICIES, "guarded", replace(harmful, name="guarded", guards=guards))
    async with serve(metrics_port=0) as served:
        api = served.api
        await api.create("guarded")
        before = await api.get()
        await api.say(TEXT)  # the turn itself is not refused
        [learnt] = (await api.end_conversation()).consolidations
        assert [each.guard for each in learnt.guards] == [
            pb.GUARD_CONSOLIDATION_REJECTED,
            pb.GUARD_LEVEL_FROZEN,
        ]
        assert learnt.guards[0].value > learnt.guards[0].limit == 0.02
        session = await api.get()
        assert session.memory_version == before.memory_version
        assert (session.levels[0].frozen, session.levels[0].rejections) == (True, 1)
        assert list(session.levels[0].guards) == list(learnt.guards)
        assert (await history(api))[-1].guards == learnt.guards
        metrics = await scrape(served)
        counts = {"consolidation_rejected": 1, "level_frozen": 1, "level_decayed": 0}
        for guard, count in counts.items():
            assert value_of(metrics, "hope_guard_events_total", guard=guard) == count
        # One call takes all of it back: the log is learnt again without guards.
        request = pb.MigrateSessionRequest(name=api.name, policy="harmful")
        async for _ in api.sessions.MigrateSession(request):
            pass
        session = await api.get()
        assert session.levels[0].relative_norm > 0
        assert not session.levels[0].frozen


async def test_an_operator_freezes_a_session_and_lets_it_go_on(served: Served) -> None:
    api = served.api
    await api.create()

    async def freeze(frozen: bool) -> None:
        await api.admin.SetFrozen(admin_pb2.SetFrozenRequest(session=api.name, frozen=frozen))

    await freeze(True)
    records = (await api.get()).log_records
    await freeze(True)  # twice is once
    assert (await api.get()).log_records == records
    await api.say(TEXT)
    learnt = (await api.end_conversation()).consolidations
    assert {event.guard for each in learnt for event in each.guards} == {pb.GUARD_LEVEL_IS_FROZEN}
    session = await api.get()
    assert (session.memory_version, session.pending_tokens) == (0, 0)
    assert all(level.frozen for level in session.levels)
    await freeze(False)
    await api.say(TEXT)
    await api.end_conversation()
    assert (await api.get()).levels[0].relative_norm > 0


async def test_the_sessions_that_moved_furthest(served: Served) -> None:
    for name, text in (("a", "Hello."), ("b", TEXT * 2), ("c", TEXT)):
        api = served.api.on(name)
        await api.create()
        await api.say(text)
        await api.end_conversation()
    norms = {
        name: max(level.relative_norm for level in (await served.api.on(name).get()).levels)
        for name in "abc"
    }
    found = (await served.api.admin.ListTopDrift(admin_pb2.ListTopDriftRequest(limit=2))).sessions
    expected = sorted(norms, key=lambda name: -norms[name])[:2]
    assert [each.session.rpartition("/")[2] for each in found] == expected
    assert found[0].relative_norm == pytest.approx(norms[expected[0]])
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "limit"):
        await served.api.admin.ListTopDrift(admin_pb2.ListTopDriftRequest(limit=1001))


async def test_an_operator_drains_a_server(spawn: Spawn) -> None:
    async with spawn() as server:
        await server.api.create("default")
        await server.api.admin.Drain(admin_pb2.DrainRequest())
        assert await soon(server.process.wait()) == 0
