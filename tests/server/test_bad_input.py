"""What cannot be done is refused with a code, a reason and one sentence, and changes nothing."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from api import USER, Api, refusal_of, refused
from grpc import aio
from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2
from serving import Served

from server.store.base import StoreFullError

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAN, INF = float("nan"), float("inf")


@pytest.fixture
async def unchanged(api: Api):  # type: ignore[no-untyped-def]
    """The session has a turn behind it; the test must leave it exactly so."""
    await api.say("My name is Ada.")
    before = await api.get()
    yield api
    assert await api.get() == before


def messages(*said: tuple[int, str]) -> dict[str, Any]:
    return {"messages": [pb.Message(role=role, content=content) for role, content in said]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": 2.5}, "sampling.temperature"),
        ({"temperature": NAN}, "sampling.temperature"),
        ({"temperature": INF}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_p": NAN}, "sampling.top_p"),
        ({"min_p": -0.5}, "sampling.min_p"),
        ({"min_p": NAN}, "sampling.min_p"),
        ({"repetition_penalty": 0.0}, "sampling.repetition_penalty"),
        ({"repetition_penalty": NAN}, "sampling.repetition_penalty"),
        ({"repetition_penalty": INF}, "sampling.repetition_penalty"),
        ({"stop": [""]}, "sampling.stop"),
        ({"stop": ["x"] * 33}, "sampling.stop"),
        ({"logprobs": 21}, "sampling.logprobs"),
        ({"conversation": "c" * 65}, "conversation"),
        ({"request_id": "r" * 129}, "request_id"),
        ({"learn": True, "ephemeral": True}, "learn_options"),
        (messages((pb.ROLE_ASSISTANT, "Hi.")), "messages[1].role"),
        (messages((99, "Hi.")), "messages[1].role"),
        (messages((pb.ROLE_USER, "  ")), "messages[1].content"),
    ],
)
async def test_values_that_make_no_sense(
    unchanged: Api, fields: dict[str, Any], field: str
) -> None:
    async with refused(INVALID, "INVALID_REQUEST", field):
        await unchanged.say("Hello.", **fields)


@pytest.mark.parametrize("text", ["", "   \n"])
async def test_an_empty_message(unchanged: Api, text: str) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "messages[0].content"):
        await unchanged.say(text)


async def test_no_message_at_all(unchanged: Api) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "messages"):
        await unchanged.events(pb.GenerateRequest(session=unchanged.name))


@pytest.mark.parametrize("conversation", ["default", "new"])
async def test_a_prompt_longer_than_the_window(unchanged: Api, conversation: str) -> None:
    async with refused(INVALID, "WINDOW_OVERFLOW", "messages"):
        await unchanged.say("word " * 1000, conversation=conversation)


async def test_a_system_prompt_longer_than_half_the_window(unchanged: Api) -> None:
    request = unchanged.asking(conversation="new")
    system = pb.Message(role=pb.ROLE_SYSTEM, content="word " * 150)
    user = pb.Message(role=pb.ROLE_USER, content="Hi.")
    request.ClearField("messages")
    request.messages.extend([system, user])
    async with refused(INVALID, "WINDOW_OVERFLOW", "messages"):
        await unchanged.events(request)


async def test_ten_megabytes_are_refused_by_the_transport(unchanged: Api) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await unchanged.say("x" * 10_000_000)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


NAMES = [
    "",
    "diary",
    "users/ada",
    "users//sessions/x",
    "users/ada/sessions/",
    "users/a b/sessions/x",
]
NAMES += ["users/ada/sessions/x/y", "users/ada/sessions/" + "x" * 65, "users/ä/sessions/x"]
NAMES += ["users/ada/sessions/x\n"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_malformed_session_name(served: Served, name: str) -> None:
    api = Api(served.api.channel, name)
    for call, field in (
        (api.say("Hi."), "session"),
        (api.score("Hi."), "session"),
        (api.ingest([b"Hi."]), "start.session"),
        (api.get(), "name"),
        (api.delete(), "name"),
        (api.rollback(), "name"),
        (api.fork("x"), "name"),
        (api.consolidate(), "name"),
        (api.end_conversation(), "name"),
    ):
        async with refused(INVALID, "INVALID_REQUEST", field):
            await call


async def test_an_unknown_session(served: Served) -> None:
    api = served.api
    for call in (
        api.say("Hi."),
        api.score("Hi."),
        api.ingest([b"Hi."]),
        api.get(),
        api.delete(),
        api.rollback(),
        api.fork("x"),
        api.consolidate(),
        api.end_conversation(),
    ):
        async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
            await call


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": ""}, "parent"),
        ({"parent": "ada"}, "parent"),
        ({"parent": USER, "session_id": "a/b"}, "session_id"),
        ({"parent": USER, "session_id": "x" * 65}, "session_id"),
        ({"parent": USER, "display_name": "x" * 257}, "display_name"),
        ({"parent": USER, "policy": "wild"}, "policy"),
    ],
)
async def test_a_session_that_cannot_be_made(
    served: Served, fields: dict[str, str], field: str
) -> None:
    async with refused(INVALID, "INVALID_REQUEST", field):
        await served.api.sessions.CreateSession(sessions_pb2.CreateSessionRequest(**fields))
    listed = await served.api.sessions.ListSessions(sessions_pb2.ListSessionsRequest(parent=USER))
    assert not listed.sessions


async def test_a_page_that_is_too_long(served: Served) -> None:
    request = sessions_pb2.ListSessionsRequest(parent=USER, page_size=1001)
    async with refused(INVALID, "INVALID_REQUEST", "page_size"):
        await served.api.sessions.ListSessions(request)


@pytest.mark.parametrize(
    ("start", "chunks", "field"),
    [
        ({}, [b""], "chunk"),
        ({}, [], "chunk"),
        ({}, [b"caf\xe9 noir"], "chunk"),
        ({}, [b"half a character \xe2\x82"], "chunk"),
        ({}, [b"x" * ((1 << 20) + 1)], "chunk"),
        ({"document": ""}, [b"x"], "start.document"),
        ({"document": "d" * 257}, [b"x"], "start.document"),
        ({"conversation": "c" * 65}, [b"x"], "conversation"),
        ({"offset_bytes": 5}, [b"x"], "start.offset_bytes"),
        ({"offset_bytes": 2**64 - 1}, [b"x"], "start.offset_bytes"),
        ({"ephemeral": True}, [b"x"], "start.learn_options.ephemeral"),
    ],
)
async def test_an_ingest_that_makes_no_sense(
    unchanged: Api, start: dict[str, Any], chunks: list[bytes], field: str
) -> None:
    async with refused(INVALID, "INVALID_REQUEST", field):
        await unchanged.ingest(chunks, **start)


@pytest.mark.parametrize(
    ("parts", "code", "reason", "field"),
    [
        ([], INVALID, "INVALID_REQUEST", "start"),
        ([pb.IngestRequest(chunk=b"x")], INVALID, "INVALID_REQUEST", "start"),
        ([pb.IngestRequest()], INVALID, "INVALID_REQUEST", "start"),
    ],
)
async def test_an_ingest_out_of_order(
    unchanged: Api, parts: list[pb.IngestRequest], code: Any, reason: str, field: str
) -> None:
    async with refused(code, reason, field):
        async for _ in unchanged.inference.Ingest(iter(parts)):
            pass


@pytest.mark.parametrize("text", ["", "word " * 1000])
async def test_a_text_that_cannot_be_scored(unchanged: Api, text: str) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "text"):
        await unchanged.score(text)


# When it is not the client's fault


async def test_a_full_disk_refuses_turns_until_there_is_room(
    served: Served, unchanged: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StoreFullError("cannot write to sessions.db (disk full); free disk space")

    with monkeypatch.context() as patch:
        patch.setattr(served.running.sessions.store, "commit", full)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"):
            await unchanged.say("Hello.")
    copy = await unchanged.fork("copy")
    assert (await unchanged.on("copy").say("Hello.")).usage.output_tokens
    assert copy.log_records == 1


async def test_a_bug_tells_the_caller_a_reference_and_nothing_else(
    served: Served,
    unchanged: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret text of a user")

    monkeypatch.setattr(served.running.sessions.engine, "score", broken)
    with pytest.raises(aio.AioRpcError) as caught:
        await unchanged.score("x")
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in refusal.message
    assert refusal.message.split()[-1].rstrip(".") in caplog.text
