"""What the client tries again, with which wait, and that nothing is done twice by it."""

from __future__ import annotations

import time

import grpc
import hope_client as hope
import pytest
from hope.v1 import inference_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import UNAVAILABLE, Commit, Failure, Hang, delta, reply, status

Code = grpc.StatusCode
DRAINING = Failure(Code.UNAVAILABLE, reason="DRAINING")
SESSION_LOST = Failure(Code.ABORTED, reason="SESSION_LOST")


async def events_of(client: hope.HopeClient, **options: object) -> list[hope.GenerateEvent]:
    return [event async for event in client.generate("diary", "Hi", **options)]


def told(events: list[hope.GenerateEvent]) -> str:
    """The text as somebody reads it who draws it as it comes."""
    text = ""
    for event in events:
        if isinstance(event, hope.Restarted):
            text = ""
        elif isinstance(event, hope.TextDelta):
            text += event.text
    return text


# A turn


async def test_an_unavailable_server_is_asked_again_with_the_same_request_id(server, client):
    server.turns.extend([[UNAVAILABLE], [status(pb.STATUS_QUEUED), UNAVAILABLE], reply("ok")])
    assert (await client.say("diary", "Hi")).text == "ok"
    assert len(server.requests["Generate"]) == 3
    assert len({request.request_id for request in server.requests["Generate"]}) == 1


async def test_a_reply_that_broke_before_its_commit_is_written_again(server, client):
    server.turns.append([*reply("Hel", "lo ")[:2], UNAVAILABLE])
    server.turns.append([*reply("He", "llo the", "re")])
    events = await events_of(client)
    assert [type(event) for event in events] == [
        hope.TextDelta, hope.TextDelta, hope.Resuming, hope.TextDelta, hope.TextDelta,
        hope.GenerateResult,
    ]  # fmt: skip
    assert [event.text for event in events if isinstance(event, hope.TextDelta)] == [
        "Hel", "lo ", "the", "re",
    ]  # fmt: skip
    assert sum(event.tokens for event in events if isinstance(event, hope.TextDelta)) == 3
    assert len({request.request_id for request in server.requests["Generate"]}) == 1


async def test_a_reply_that_broke_after_its_commit_is_answered_from_the_store(server, client):
    server.turns.append([delta("Hel"), delta("lo"), Commit(), UNAVAILABLE])
    events = await events_of(client)
    assert told(events) == events[-1].text == "Hello"
    assert events[-1].replayed is True
    assert server.learnt == ["Hi"]


async def test_a_turn_that_reads_differently_says_so(server, client):
    server.turns.append([delta("It is"), UNAVAILABLE])
    server.turns.append([*reply("It ", "was", " so")])
    events = await events_of(client)
    assert [type(event) for event in events].count(hope.Restarted) == 1
    assert told(events) == events[-1].text == "It was so"


async def test_a_turn_that_stops_earlier_says_so(server, client):
    server.turns.append([delta("It is so"), UNAVAILABLE])
    server.turns.append([*reply("It is")])
    events = await events_of(client)
    assert told(events) == events[-1].text == "It is"


async def test_the_last_attempt_raises_what_broke_it(server, client):
    server.turns.extend([[delta("half"), UNAVAILABLE]] * 9)
    with pytest.raises(hope.UnavailableError):
        await client.say("diary", "Hi")
    assert len(server.requests["Generate"]) == 4


async def test_a_failure_after_the_result_does_not_undo_it(server, client):
    server.turns.append([*reply("done"), UNAVAILABLE])
    assert (await events_of(client))[-1].text == "done"
    assert len(server.requests["Generate"]) == 1


async def test_chance_is_the_same_in_every_attempt(server, client):
    sampling = hope.Sampling(temperature=0.7)
    server.turns.extend([[delta("a"), UNAVAILABLE], reply("ab")])
    await client.say("diary", "Hi", sampling=sampling)
    await client.say("diary", "Hi", sampling=sampling)
    first, second, other = server.requests["Generate"]
    assert first == second
    assert first.sampling.HasField("seed")
    assert first.sampling.seed != other.sampling.seed
    assert not sampling.HasField("seed")  # the caller's own


async def test_a_later_program_repeats_the_very_same_request(server, client):
    sampling = hope.Sampling(temperature=0.7)
    for _ in range(2):
        await client.say("diary", "Hi", sampling=sampling, request_id="once")
    first, second = server.requests["Generate"]
    assert first == second


async def test_a_kept_version_that_broke_is_asked_again_as_it_was(server, client):
    server.turns.extend([[delta("half"), UNAVAILABLE], reply("half", " and half")])
    warm = hope.Sampling(temperature=0.7)
    result = await client.say("diary", "Hi", sampling=warm, at_version=3)
    assert result.text == "half and half"
    first, second = server.requests["Generate"]
    assert first == second
    assert (first.at_version, first.request_id) == (3, "")
    assert first.sampling.HasField("seed")


@pytest.mark.parametrize(
    "sampling", [hope.Sampling(temperature=0.7, seed=3), hope.Sampling(max_tokens=9)]
)
async def test_a_seed_is_added_only_where_it_matters(server, client, sampling):
    await client.say("diary", "Hi", sampling=sampling)
    [request] = server.requests["Generate"]
    assert request.sampling == sampling


# Codes and waits


@pytest.mark.parametrize(
    "code",
    [Code.ABORTED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.UNKNOWN, Code.DEADLINE_EXCEEDED],
)
async def test_nothing_but_unavailable_is_tried_again(server, client, code):
    server.failures["Score"].append(Failure(code, retry_after_seconds=0.01))
    with pytest.raises(hope.HopeClientError):
        await client.score("diary", "text")
    assert len(server.requests["Score"]) == 1


async def test_but_a_session_that_was_lost_to_another_server(server, client):
    server.failures["Score"].append(SESSION_LOST)
    await client.score("diary", "text")
    server.turns.extend([[delta("ha"), SESSION_LOST], reply("ha!")])
    assert (await client.say("diary", "Hi")).text == "ha!"
    server.failures["RollbackSession"].append(SESSION_LOST)
    with pytest.raises(hope.AbortedError):
        await client.sessions.rollback("diary")


async def test_attempts_end(server, client):
    server.failures["GetSession"].extend([UNAVAILABLE] * 9)
    with pytest.raises(hope.UnavailableError):
        await client.sessions.get("diary")
    assert len(server.requests["GetSession"]) == 4


async def test_the_wait_the_server_asks_for_is_kept(server, client):
    server.failures["Score"].append(Failure(Code.UNAVAILABLE, retry_after_seconds=0.3))
    began = time.monotonic()
    await client.score("diary", "text")
    assert time.monotonic() - began >= 0.3


@given(st.integers(1, 40), st.none() | st.floats(0, 100))
def test_waits_grow_are_bounded_and_are_not_all_the_same(failures, wish):
    policy = hope.RetryPolicy(initial_seconds=0.25, maximum_seconds=8.0)
    backoff = min(0.25 * 2 ** (failures - 1), 8.0)
    waits = {policy.delay_seconds(failures, wish) - (wish or 0.0) for _ in range(20)}
    assert all(0.49 * backoff <= wait <= 1.01 * backoff for wait in waits)
    # Even those that were all told the same time do not come back at once.
    assert len(waits) > 1


async def test_a_deadline_covers_all_attempts(server):
    server.failures["Score"].append(Failure(Code.UNAVAILABLE, retry_after_seconds=0.9))
    async with hope.HopeClient(server.target, timeout_seconds=0.4) as client:
        with pytest.raises(hope.UnavailableError):  # at once: the wait would outlast it
            await client.score("diary", "text")
        server.turns.append([Hang()])
        with pytest.raises(hope.DeadlineExceededError):
            await client.say("diary", "Hi")
        server.turns.extend([[delta("a"), UNAVAILABLE]] * 40)
        began = time.monotonic()
        with pytest.raises((hope.UnavailableError, hope.DeadlineExceededError)):
            await client.say("diary", "Hi")
        assert time.monotonic() - began < 0.9


# Changes of sessions

REPEATED = {
    "CreateSession": lambda sessions: sessions.create(),
    "ForkSession": lambda sessions: sessions.fork("diary"),
    "CreateSnapshot": lambda sessions: sessions.snapshot("diary"),
    "UpdateSession": lambda sessions: sessions.rename("diary", "Diary"),
    "DeleteSession": lambda sessions: sessions.delete("diary"),
    "Consolidate": lambda sessions: sessions.consolidate("diary"),
    "EndConversation": lambda sessions: sessions.end_conversation("diary"),
    # Jobs: the same call joins what runs already.
    "MigrateSession": lambda sessions: sessions.migrate("diary"),
}
SENT_ONCE = {
    "CreateSession": lambda sessions: sessions.create("notes"),
    "ForkSession": lambda sessions: sessions.fork("diary", "copy"),
    "CreateSnapshot": lambda sessions: sessions.snapshot("diary", "kept"),
    "UpdateSession": lambda sessions: sessions.rename("diary", "Diary", etag="1"),
    "RollbackSession": lambda sessions: sessions.rollback("diary"),
    "ResetLevels": lambda sessions: sessions.reset("diary"),
    "DeleteUser": lambda sessions: sessions.delete_user(),
}


@pytest.mark.parametrize("method", REPEATED)
async def test_a_change_that_cannot_happen_twice_is_repeated(server, client, method):
    server.failures[method].append(UNAVAILABLE)
    await REPEATED[method](client.sessions)
    first, second = server.requests[method]
    assert first == second


@pytest.mark.parametrize("method", SENT_ONCE)
async def test_a_change_that_could_happen_twice_is_sent_once(server, client, method):
    server.failures[method].append(UNAVAILABLE)
    with pytest.raises(hope.UnavailableError):
        await SENT_ONCE[method](client.sessions)
    assert len(server.requests[method]) == 1


@pytest.mark.parametrize("method", SENT_ONCE)
async def test_a_refusal_to_look_at_it_is_no_change(server, client, method):
    server.failures[method].append(DRAINING)
    await SENT_ONCE[method](client.sessions)
    assert len(server.requests[method]) == 2


async def test_a_name_that_was_picked_here_makes_one_thing_only(server, client):
    server.lost["CreateSession"].append(UNAVAILABLE)
    session = await client.sessions.create(display_name="Notes")
    assert session.display_name == "Notes"
    assert set(server.sessions) == {"users/local/sessions/diary", session.name}
    server.lost["ForkSession"].append(UNAVAILABLE)
    fork = await client.sessions.fork("diary")
    assert set(server.sessions) == {"users/local/sessions/diary", session.name, fork.name}
    server.lost["CreateSnapshot"].append(UNAVAILABLE)
    snapshot = await client.sessions.snapshot("diary")
    assert list(server.snapshots) == [snapshot.name]


async def test_what_a_lost_answer_erased_is_erased(server, client):
    await client.sessions.snapshot("diary", "kept")
    server.lost["DeleteSnapshot"].append(UNAVAILABLE)
    await client.sessions.delete_snapshot("diary", "kept")
    server.lost["DeleteSession"].append(UNAVAILABLE)
    await client.sessions.delete("diary")
    assert (server.sessions, server.snapshots) == ({}, {})
    with pytest.raises(hope.NotFoundError):  # but what never was there is not
        await client.sessions.delete("diary")


async def test_an_export_is_repeated_until_it_has_begun(server, client):
    server.failures["ExportSession"].append(UNAVAILABLE)
    pieces = [piece async for piece in client.sessions.export("diary")]
    twin = await client.sessions.import_("twin", iter(pieces))
    assert twin.memory_version == 4


async def test_an_open_document_whose_acknowledgement_was_lost_is_not_sent_again(server, client):
    server.ingest_breaks.append((1 << 40, UNAVAILABLE))  # fails when all is committed
    result = await client.ingest("diary", b"a" * 2_500, document="d", end_of_document=False)
    assert (result.committed_bytes, result.ended) == (2_500, False)
    assert len(server.requests["Ingest"]) == 1
