"""Turns of the TypeScript client: what it tries again, and that nothing is learnt twice by it.

The rules are those of the Python client (tests/clients/test_client_retries.py), on the same wire.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import hope_client
import pytest
import trustme
from hope.v1 import inference_pb2 as pb
from node_client import NodeClient, NodeError
from processes import soon
from scripted_server import (
    UNAVAILABLE,
    Commit,
    Failure,
    Hang,
    ScriptedServer,
    delta,
    reply,
    start,
    status,
)

Code = grpc.StatusCode
SESSION_LOST = Failure(Code.ABORTED, reason="SESSION_LOST")


async def events_of(client: NodeClient, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await client.call("generate", "diary", "Hi", options)
    return found


def told(events: list[dict[str, Any]]) -> str:
    """The text as somebody reads it who draws it as it comes."""
    text = ""
    for event in events:
        if event["type"] == "restarted":
            text = ""
        elif event["type"] == "delta":
            text += event["text"]
    return text


async def test_a_turn_carries_what_it_was_given(server: ScriptedServer, client: NodeClient) -> None:
    content = [
        {"role": 1, "content": "Be short."},
        {"role": 2, "content": "My cat is called Ada.", "learn": False},
    ]
    sampling = {"maxTokens": 7, "temperature": 0.5, "seed": 3, "stop": ["."]}
    options = {"conversation": "c", "ephemeral": True, "sampling": sampling, "requestId": "once"}
    result = await client.call("say", "diary", content, options)
    assert result["text"] == "You said: My cat is called Ada."
    assert result["usage"]["memoryVersion"] == 2
    [request] = server.requests["Generate"]
    assert request == pb.GenerateRequest(
        session="users/local/sessions/diary",
        conversation="c",
        messages=[
            pb.Message(role=pb.ROLE_SYSTEM, content="Be short."),
            pb.Message(role=pb.ROLE_USER, content="My cat is called Ada.", learn=False),
        ],
        sampling=pb.Sampling(max_tokens=7, temperature=0.5, seed=3, stop=["."]),
        learn_options=pb.LearnOptions(ephemeral=True),
        request_id="once",
    )


async def test_a_kept_version_that_broke_is_asked_again_as_it_was(server, client):
    server.turns.extend([[delta("half"), UNAVAILABLE], reply("half", " and half")])
    options = {"sampling": {"temperature": 0.7}, "atVersion": 3}
    assert (await client.call("say", "diary", "Hi", options))["text"] == "half and half"
    first, second = server.requests["Generate"]
    assert first == second
    assert (first.at_version, first.request_id) == (3, "")
    assert first.sampling.HasField("seed")


async def test_an_unavailable_server_is_asked_again_with_the_same_request_id(server, client):
    server.turns.extend([[UNAVAILABLE], [status(pb.STATUS_QUEUED), UNAVAILABLE], reply("ok")])
    assert (await client.call("say", "diary", "Hi"))["text"] == "ok"
    assert len(server.requests["Generate"]) == 3
    assert len({request.request_id for request in server.requests["Generate"]}) == 1


async def test_a_reply_that_broke_before_its_commit_is_written_again(server, client):
    server.turns.append([*reply("Hel", "lo ")[:2], UNAVAILABLE])
    server.turns.append([*reply("He", "llo the", "re")])
    events = await events_of(client)
    assert [event["type"] for event in events] == [
        "delta", "delta", "resuming", "delta", "delta", "result",
    ]  # fmt: skip
    assert [each["text"] for each in events if each["type"] == "delta"] == [
        "Hel", "lo ", "the", "re",
    ]  # fmt: skip
    assert events[2]["error"]["name"] == "UnavailableError"
    assert sum(each["tokens"] for each in events if each["type"] == "delta") == 3
    assert len({request.request_id for request in server.requests["Generate"]}) == 1


async def test_a_reply_that_broke_after_its_commit_is_answered_from_the_store(server, client):
    server.turns.append([delta("Hel"), delta("lo"), Commit(), UNAVAILABLE])
    events = await events_of(client)
    assert told(events) == events[-1]["text"] == "Hello"
    assert events[-1]["replayed"] is True
    assert server.learnt == ["Hi"]


@pytest.mark.parametrize(
    ("first", "second"), [("It is", ("It ", "was", " so")), ("It is so", ("It is",))]
)
async def test_a_turn_that_reads_differently_says_so(server, client, first, second):
    server.turns.append([delta(first), UNAVAILABLE])
    server.turns.append([*reply(*second)])
    events = await events_of(client)
    assert [event["type"] for event in events].count("restarted") == 1
    assert told(events) == events[-1]["text"] == "".join(second)


async def test_the_last_attempt_raises_what_broke_it(server, client):
    server.turns.extend([[delta("half"), UNAVAILABLE]] * 9)
    with pytest.raises(NodeError) as broken:
        await client.call("say", "diary", "Hi")
    assert broken.value.name == "UnavailableError"
    assert len(server.requests["Generate"]) == 4


async def test_a_failure_after_the_result_does_not_undo_it(server, client):
    server.turns.append([*reply("done"), UNAVAILABLE])
    assert (await events_of(client))[-1]["text"] == "done"
    assert len(server.requests["Generate"]) == 1


async def test_a_turn_that_is_left_is_cancelled(server, client):
    server.turns.append([delta("It is"), Hang()])
    [first] = await client.call("generate", "diary", "Hi", take=1)
    assert first["text"] == "It is"
    await soon(server.cancelled.wait())
    assert server.learnt == []


async def test_an_aborted_signal_is_the_error(server, client):
    with pytest.raises(NodeError, match="enough"):
        await client.call("say", "diary", "Hi", {"signal": {"$aborted": "enough"}})
    assert not server.requests["Generate"]


async def test_chance_is_the_same_in_every_attempt_and_in_python(server, client):
    sampling = {"temperature": 0.5}
    server.turns.extend([[delta("a"), UNAVAILABLE], reply("ab")])
    await client.call("say", "diary", "Hi", {"sampling": sampling, "requestId": "once"})
    async with hope_client.HopeClient(server.target) as python:
        await python.say(
            "diary", "Hi", sampling=hope_client.Sampling(temperature=0.5), request_id="once"
        )
    first, second, other = server.requests["Generate"]
    assert first.sampling.HasField("seed")
    # The request of another program, by another client, is the very same one.
    assert first == second == other


@pytest.mark.parametrize("sampling", [{"temperature": 0.5, "seed": 3}, {"maxTokens": 9}])
async def test_a_seed_is_added_only_where_it_matters(server, client, sampling):
    await client.call("say", "diary", "Hi", {"sampling": sampling})
    [request] = server.requests["Generate"]
    assert request.sampling.seed == sampling.get("seed", 0)


# Codes and waits


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (Code.ABORTED, "AbortedError"),
        (Code.RESOURCE_EXHAUSTED, "ResourceExhaustedError"),
        (Code.INTERNAL, "InternalError"),
        (Code.DATA_LOSS, "DataLossError"),
        (Code.DEADLINE_EXCEEDED, "DeadlineExceededError"),
        (Code.PERMISSION_DENIED, "PermissionDeniedError"),
    ],
)
async def test_nothing_but_unavailable_is_tried_again(server, client, code, name):
    failure = Failure(code, "two\n words", reason="WHY", field="text", retry_after_seconds=0.25)
    server.failures["Score"].append(failure)
    with pytest.raises(NodeError) as refused:
        await client.call("score", "diary", "text")
    assert refused.value.fields == {
        "name": name,
        "message": "two words",
        "code": code.value[0],
        "reason": "WHY",
        "field": "text",
        "retryAfterSeconds": 0.25,
    }
    assert len(server.requests["Score"]) == 1


async def test_but_a_session_that_was_lost_to_another_server(server, client):
    server.failures["Score"].append(SESSION_LOST)
    assert (await client.call("score", "diary", "text"))["totalNats"] == 20
    server.turns.extend([[delta("ha"), SESSION_LOST], reply("ha!")])
    assert (await client.call("say", "diary", "Hi"))["text"] == "ha!"
    server.failures["RollbackSession"].append(SESSION_LOST)
    with pytest.raises(NodeError):
        await client.call("sessions.rollback", "diary")


async def test_the_wait_the_server_asks_for_is_kept(server, client):
    server.failures["Score"].append(Failure(Code.UNAVAILABLE, retry_after_seconds=0.3))
    began = time.monotonic()
    await client.call("score", "diary", "text")
    assert time.monotonic() - began >= 0.3


async def test_a_deadline_covers_all_attempts(server, start_node):
    slow = {"initialSeconds": 60, "maximumSeconds": 60}
    client = await start_node(server.target, timeoutSeconds=20, retry=slow)
    server.failures["Score"].append(UNAVAILABLE)
    with pytest.raises(NodeError) as refused:  # at once: the wait would outlast it
        await client.call("score", "diary", "text")
    assert refused.value.name == "UnavailableError"
    client = await start_node(server.target, timeoutSeconds=0.4)
    server.turns.append([Hang()])
    with pytest.raises(NodeError) as late:
        await client.call("say", "diary", "Hi")
    assert late.value.name == "DeadlineExceededError"


# Credentials and routing


async def test_calls_carry_the_token_and_the_session(server, start_node):
    seen: list[dict[str, str]] = []
    enter = server._enter

    async def looking(method: str, request: Any, context: Any) -> None:
        seen.append(dict(context.invocation_metadata()))
        await enter(method, request, context)

    server._enter = looking
    client = await start_node(server.target, token="a-token")
    await client.call("score", "diary", "text")
    await client.call("sessions.snapshot", "diary")
    assert [each["authorization"] for each in seen] == ["Bearer a-token"] * 2
    assert [each["hope-session"] for each in seen] == ["users/local/sessions/diary"] * 2


async def test_over_tls(server: ScriptedServer, start_node: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf = authority.issue_cert("localhost")
    key, certificate = leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    running = await start(server, "localhost:0", credentials)
    target = server.target.replace("127.0.0.1", "localhost")
    client = await start_node(target, caFile=str(tmp_path / "ca.pem"), token="a-token")
    assert (await client.call("say", "diary", "Hi"))["text"] == "You said: Hi"
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    stranger = await start_node(target, caFile=str(tmp_path / "another.pem"))
    with pytest.raises(NodeError) as refused:
        await stranger.call("say", "diary", "Hi")
    assert refused.value.name == "UnavailableError"
    await running.stop(None)


async def test_a_token_goes_to_another_machine_over_tls_only(start_node):
    client = await start_node("example.org:50051", token="a-token")
    with pytest.raises(AssertionError, match="Node ended"):
        await client.call("serving")


async def test_a_client_that_is_closed_says_so(server, client):
    await client.call("close")
    with pytest.raises(NodeError) as closed:
        await client.call("score", "diary", "text")
    assert closed.value.name == "ClientClosedError"


async def test_a_program_ends_when_its_client_is_closed(server, client):
    await client.call("score", "diary", "text")
    assert await client.end() == 0
