"""Generate, Score and sessions through HopeClient: streams, errors, and what is tried again."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import hope_client as hope
import pytest
from hope.v1 import inference_pb2 as pb
from processes import soon
from scripted_server import Failure, Hang, delta, reply, status

Code = grpc.StatusCode


async def test_a_turn_streams_status_text_and_result(server, client):
    server.turns.append([status(pb.STATUS_LEARNING), *reply("Hel", "lo")])
    events = [event async for event in client.generate("diary", "Hi")]
    assert [type(event) for event in events] == [
        hope.StatusUpdate,
        hope.TextDelta,
        hope.TextDelta,
        hope.GenerateResult,
    ]
    assert events[-1].text == "Hello"


async def test_text_reaches_the_reader_before_the_turn_ends(server, client):
    server.turns.append([delta("first"), Hang()])
    events = client.generate("diary", "Hi")
    assert (await soon(anext(events))).text == "first"
    await events.aclose()
    await soon(server.cancelled.wait())


async def test_cancelling_the_task_cancels_the_turn(server, client):
    server.turns.append([delta("first"), Hang()])
    shown = asyncio.Event()

    async def read() -> None:
        async with contextlib.aclosing(client.generate("diary", "Hi")) as events:
            async for _ in events:
                shown.set()

    task = asyncio.create_task(read())
    await soon(shown.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(server.cancelled.wait())


async def test_say_sends_what_it_was_given(server, client):
    result = await client.say(
        "diary",
        [
            hope.Message(role=hope.Role.ROLE_SYSTEM, content="Be brief."),
            hope.Message(role=hope.Role.ROLE_USER, content="Hi"),
        ],
        conversation="evening",
        learn=False,
        sampling=hope.Sampling(temperature=0.5, max_tokens=9),
        request_id="once",
    )
    assert result.text == "You said: Hi"
    [request] = server.requests["Generate"]
    assert request.session == "users/local/sessions/diary"
    assert request.conversation == "evening"
    assert [message.role for message in request.messages] == [pb.ROLE_SYSTEM, pb.ROLE_USER]
    assert request.learn_options.learn is False
    assert not request.learn_options.HasField("ephemeral")
    assert request.sampling.temperature == 0.5
    assert not request.sampling.HasField("top_k")
    assert request.request_id == "once"


async def test_options_that_were_not_given_stay_unset(server, client):
    await client.say("diary", "Hi")
    [request] = server.requests["Generate"]
    assert not request.learn_options.HasField("learn")
    assert not request.HasField("sampling")
    assert len(request.request_id) >= 16


async def test_a_stream_without_a_result_is_an_error(server, client):
    server.turns.append([delta("half")])
    with pytest.raises(hope.InternalError, match="without a result"):
        await client.say("diary", "Hi")


ERRORS = {
    Code.CANCELLED: hope.CancelledError,
    Code.UNKNOWN: hope.UnknownError,
    Code.INVALID_ARGUMENT: hope.InvalidRequestError,
    Code.DEADLINE_EXCEEDED: hope.DeadlineExceededError,
    Code.NOT_FOUND: hope.NotFoundError,
    Code.ALREADY_EXISTS: hope.AlreadyExistsError,
    Code.PERMISSION_DENIED: hope.PermissionDeniedError,
    Code.RESOURCE_EXHAUSTED: hope.ResourceExhaustedError,
    Code.FAILED_PRECONDITION: hope.FailedPreconditionError,
    Code.ABORTED: hope.AbortedError,
    Code.OUT_OF_RANGE: hope.OutOfRangeError,
    Code.UNIMPLEMENTED: hope.UnimplementedError,
    Code.INTERNAL: hope.InternalError,
    Code.DATA_LOSS: hope.DataLossError,
    Code.UNAUTHENTICATED: hope.UnauthenticatedError,
}


@pytest.mark.parametrize(("code", "kind"), ERRORS.items(), ids=[code.name for code in ERRORS])
async def test_every_code_has_its_error_with_its_details(server, client, code, kind):
    failure = Failure(code, "two\nlines", "WHY", "sampling.top_p", 0.5)
    server.failures["Score"].append(failure)
    with pytest.raises(kind) as caught:
        await client.score("diary", "text")
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.reason, error.field) == (code, "WHY", "sampling.top_p")
    assert error.retry_after_seconds == pytest.approx(0.5)
    assert str(error) == "two lines"


async def test_a_method_the_server_lacks_is_unimplemented(server, client):
    server.failures["GetServerInfo"].append(Failure(Code.UNIMPLEMENTED, reason=""))
    with pytest.raises(hope.UnimplementedError) as caught:
        await client.server_info()
    assert caught.value.reason == ""
    assert caught.value.retry_after_seconds is None


async def test_listing_reads_page_after_page(server, client):
    for number in range(7):
        server.add(f"users/ada/sessions/s{number}")
    names = [each.name async for each in client.sessions.list("ada", page_size=3)]
    assert names == [f"users/ada/sessions/s{number}" for number in range(7)]
    tokens = [request.page_token for request in server.requests["ListSessions"]]
    assert tokens == ["", "3", "6"]
    assert {request.parent for request in server.requests["ListSessions"]} == {"users/ada"}


async def test_sessions_by_short_and_by_full_name(server, client):
    created = await client.sessions.create("notes", display_name="Notes")
    assert created.name == "users/local/sessions/notes"
    assert (await client.sessions.get("users/local/sessions/notes")).display_name == "Notes"
    other = await client.sessions.create("users/ada/sessions/x")
    assert other.name == "users/ada/sessions/x"
    assert len((await client.sessions.create()).name) > len("users/local/sessions/") + 16
    await client.sessions.delete("notes")
    with pytest.raises(hope.NotFoundError):
        await client.sessions.get("notes")
    with pytest.raises(hope.InvalidRequestError):
        await client.sessions.create("a/b")


async def test_get_or_create(server, client):
    assert (await client.sessions.get_or_create("diary"))[1] is False
    session, created = await client.sessions.get_or_create("fresh")
    assert (session.name, created) == ("users/local/sessions/fresh", True)


async def test_get_or_create_when_somebody_is_quicker(server, client):
    missing = Failure(Code.NOT_FOUND, reason="SESSION_NOT_FOUND")
    server.failures["GetSession"].append(missing)
    assert (await client.sessions.get_or_create("diary"))[1] is False


async def test_versions_and_learning(server, client):
    fork = await client.sessions.fork("diary", "copy", version=3)
    assert fork.name == "users/local/sessions/copy"
    assert server.requests["ForkSession"][0].version == 3
    with pytest.raises(hope.InvalidRequestError):
        await client.sessions.fork("diary", "users/ada/sessions/copy")
    assert (await client.sessions.rollback("diary", 0)).memory_version == 5
    assert server.requests["RollbackSession"][0].HasField("version")
    assert (await client.sessions.consolidate("diary")).consolidations[0].spans == 30
    await client.sessions.end_conversation("diary", "evening", wait=False)
    assert server.requests["EndConversation"][0].wait is False


async def test_no_server():
    quick = hope.RetryPolicy(attempts=2, initial_seconds=0.01)
    async with hope.HopeClient("127.0.0.1:1", retry=quick) as client:
        with pytest.raises(hope.UnavailableError) as caught:
            await client.sessions.get("diary")
    assert caught.value.reason == ""


def test_public_names():
    assert hope.__all__ == [
        "AbortedError",
        "AlreadyExistsError",
        "CancelledError",
        "ClientClosedError",
        "ClientForkedError",
        "ConsolidateResponse",
        "Consolidation",
        "DataLossError",
        "DeadlineExceededError",
        "Document",
        "DocumentSource",
        "EndConversationResponse",
        "FailedPreconditionError",
        "FinishReason",
        "GenerateEvent",
        "GenerateResult",
        "GetServerInfoResponse",
        "HopeClient",
        "HopeClientError",
        "IngestEvent",
        "IngestProgress",
        "IngestResult",
        "InternalError",
        "InvalidRequestError",
        "LevelStatus",
        "Message",
        "NotFoundError",
        "OutOfRangeError",
        "PermissionDeniedError",
        "ResourceExhaustedError",
        "Restarted",
        "Resuming",
        "RetryPolicy",
        "Role",
        "Sampling",
        "ScoreResponse",
        "Session",
        "Sessions",
        "Status",
        "StatusUpdate",
        "SyncHopeClient",
        "SyncSessions",
        "TextDelta",
        "UnauthenticatedError",
        "UnavailableError",
        "UnimplementedError",
        "UnknownError",
        "Usage",
    ]
    assert all(getattr(hope, name) is not None for name in hope.__all__)
    with pytest.raises(AttributeError):
        hope.nothing  # noqa: B018
