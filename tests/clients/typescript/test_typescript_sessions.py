"""Sessions through the TypeScript client, and that no change of them happens twice."""

from __future__ import annotations

import grpc
import pytest
from hope.v1 import sessions_pb2
from node_client import NodeClient, NodeError
from scripted_server import UNAVAILABLE, Failure, ScriptedServer

DRAINING = Failure(grpc.StatusCode.UNAVAILABLE, reason="DRAINING")
DIARY = "users/local/sessions/diary"

REPEATED = {
    "CreateSession": ("create",),
    "ForkSession": ("fork", "diary"),
    "CreateSnapshot": ("snapshot", "diary"),
    "UpdateSession": ("rename", "diary", "Diary"),
    "DeleteSession": ("delete", "diary"),
    "Consolidate": ("consolidate", "diary"),
    "EndConversation": ("endConversation", "diary"),
    # Jobs: the same call joins what runs already.
    "MigrateSession": ("migrate", "diary"),
}
SENT_ONCE = {
    "CreateSession": ("create", "notes"),
    "ForkSession": ("fork", "diary", "copy"),
    "CreateSnapshot": ("snapshot", "diary", "kept"),
    "UpdateSession": ("rename", "diary", "Diary", {"etag": "1"}),
    "RollbackSession": ("rollback", "diary"),
    "ResetLevels": ("reset", "diary"),
    "DeleteUser": ("deleteUser",),
}


async def change(client: NodeClient, name: str, *args: object) -> object:
    return await client.call(f"sessions.{name}", *args)


@pytest.mark.parametrize("method", REPEATED)
async def test_a_change_that_cannot_happen_twice_is_repeated(server, client, method):
    server.failures[method].append(UNAVAILABLE)
    await change(client, *REPEATED[method])
    first, second = server.requests[method]
    assert first == second


@pytest.mark.parametrize("method", SENT_ONCE)
async def test_a_change_that_could_happen_twice_is_sent_once(server, client, method):
    server.failures[method].append(UNAVAILABLE)
    with pytest.raises(NodeError) as refused:
        await change(client, *SENT_ONCE[method])
    assert refused.value.name == "UnavailableError"
    assert len(server.requests[method]) == 1
    server.failures[method].append(DRAINING)  # a refusal to look at it is no change
    await change(client, *SENT_ONCE[method])
    assert len(server.requests[method]) == 3


async def test_a_name_that_was_picked_here_makes_one_thing_only(server, client):
    server.lost["CreateSession"].append(UNAVAILABLE)
    session = await client.call("sessions.create", "", {"displayName": "Notes"})
    assert session["displayName"] == "Notes"
    assert set(server.sessions) == {DIARY, session["name"]}
    server.lost["ForkSession"].append(UNAVAILABLE)
    fork = await client.call("sessions.fork", "diary")
    assert set(server.sessions) == {DIARY, session["name"], fork["name"]}
    server.lost["CreateSnapshot"].append(UNAVAILABLE)
    snapshot = await client.call("sessions.snapshot", "diary")
    assert list(server.snapshots) == [snapshot["name"]]


async def test_what_a_lost_answer_erased_is_erased(server, client):
    await client.call("sessions.snapshot", "diary", "kept")
    server.lost["DeleteSnapshot"].append(UNAVAILABLE)
    await client.call("sessions.deleteSnapshot", "diary", "kept")
    server.lost["DeleteSession"].append(UNAVAILABLE)
    await client.call("sessions.delete", "diary")
    assert (server.sessions, server.snapshots) == ({}, {})
    with pytest.raises(NodeError) as missing:  # but what never was there is not
        await client.call("sessions.delete", "diary")
    assert missing.value.name == "NotFoundError"
    assert missing.value.fields["reason"] == "SESSION_NOT_FOUND"


async def test_an_export_is_repeated_until_it_has_begun(server, client):
    server.failures["ExportSession"].append(UNAVAILABLE)
    pieces = await client.call("sessions.export", "diary")
    assert len(server.requests["ExportSession"]) == 2
    twin = await client.call("sessions.import", "twin", pieces)
    assert (twin["name"], twin["memoryVersion"]) == ("users/local/sessions/twin", 4)


async def test_lists_come_page_by_page(server: ScriptedServer, client: NodeClient) -> None:
    for number in range(5):
        server.add(f"users/local/sessions/s{number}")
    sessions = await client.call("sessions.list", "", {"pageSize": 2})
    assert [each["name"] for each in sessions] == sorted(server.sessions)
    assert len(server.requests["ListSessions"]) == 3
    assert len(await client.call("sessions.list", "", {"pageSize": 2}, take=2)) == 2
    assert len(server.requests["ListSessions"]) == 4  # the rest was not wanted
    consolidations = await client.call("sessions.consolidations", "diary")
    assert [each["tokens"] for each in consolidations] == [
        each.tokens for each in server.consolidations
    ]


async def test_what_is_there_is_found_and_what_is_missing_is_made(server, client):
    found = await client.call("sessions.getOrCreate", "diary")
    assert (found["created"], found["session"]["memoryVersion"]) == (False, 4)
    made = await client.call("sessions.getOrCreate", "notes")
    assert made["created"] is True
    assert await client.call("sessions.name", "notes") == made["session"]["name"]


async def test_versions_and_etags_go_onto_the_wire(server, client):
    await client.call("sessions.rollback", "diary", 3, {"etag": "1"})
    await client.call("sessions.reset", "diary", [0, 2])
    assert server.requests["RollbackSession"] == [
        sessions_pb2.RollbackSessionRequest(name=DIARY, version=3, etag="1")
    ]
    assert server.requests["ResetLevels"] == [
        sessions_pb2.ResetLevelsRequest(name=DIARY, levels=[0, 2])
    ]
    await client.call("sessions.rename", "diary", "Diary")
    [update] = server.requests["UpdateSession"]
    assert list(update.update_mask.paths) == ["display_name"]


@pytest.mark.parametrize("name", ["users/local/diary", "users/other/sessions/copy"])
async def test_a_fork_under_an_impossible_name_is_not_sent(server, client, name):
    with pytest.raises(NodeError) as refused:
        await client.call("sessions.fork", "diary", name)
    assert refused.value.name == "InvalidRequestError"
    assert not server.requests["ForkSession"]


async def test_the_server_tells_about_itself(server, client):
    assert (await client.call("serverInfo"))["model"] == "tiny"
