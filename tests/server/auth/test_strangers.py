"""A tenant with a valid credential meets another tenant's names: nothing tells them from names that
never existed. Methods are read from the descriptors, so a new one cannot be forgotten."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from credentials import bearer, shared_key_file, token
from google.protobuf import field_mask_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import status_pb2
from grpc import aio
from grpc_status.rpc_status import from_call
from hope.v1 import admin_pb2
from hope.v1 import inference_pb2 as inference
from hope.v1 import sessions_pb2 as sessions
from serving import Serve, Served, connect

PROTOS = Path(inference.__file__).parent
MODULES = [importlib.import_module(f"hope.v1.{path.stem}") for path in PROTOS.glob("*_pb2.py")]
METHODS: dict[str, MethodDescriptor] = {
    method.full_name: method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
ADMIN = {name for name in METHODS if ".AdminService." in name}
ADA, BOB = bearer(token("ada")), bearer(token("bob"))


def requests(method: str, user: str, session: str, snapshot: str = "kept") -> list[Any]:
    """A sound request of every method that users have, about one session or user."""
    parent = f"users/{user}"
    name = f"{parent}/sessions/{session}"
    document = inference.IngestStart(session=name, document="book")
    said = [inference.Message(role=inference.ROLE_USER, content="Hello.")]
    renamed = sessions.Session(name=name, display_name="mine")
    mask = field_mask_pb2.FieldMask(paths=["display_name"])
    known: dict[str, list[Any]] = {
        "Generate": [inference.GenerateRequest(session=name, messages=said)],
        "Ingest": [
            inference.IngestRequest(start=document),
            inference.IngestRequest(chunk=b"A text."),
            inference.IngestRequest(end=inference.IngestEnd()),
        ],
        "Score": [inference.ScoreRequest(session=name, text="x")],
        "CreateSession": [sessions.CreateSessionRequest(parent=parent, session_id=session)],
        "GetSession": [sessions.GetSessionRequest(name=name)],
        "ListSessions": [sessions.ListSessionsRequest(parent=parent)],
        "UpdateSession": [sessions.UpdateSessionRequest(session=renamed, update_mask=mask)],
        "DeleteSession": [sessions.DeleteSessionRequest(name=name)],
        "ForkSession": [sessions.ForkSessionRequest(name=name, session_id="copy")],
        "CreateSnapshot": [sessions.CreateSnapshotRequest(parent=name, snapshot_id=snapshot)],
        "ListSnapshots": [sessions.ListSnapshotsRequest(parent=name)],
        "DeleteSnapshot": [sessions.DeleteSnapshotRequest(name=f"{name}/snapshots/{snapshot}")],
        "RollbackSession": [sessions.RollbackSessionRequest(name=name, version=0)],
        "ResetLevels": [sessions.ResetLevelsRequest(name=name)],
        "Consolidate": [sessions.ConsolidateRequest(name=name)],
        "EndConversation": [sessions.EndConversationRequest(name=name)],
        "ForgetDocument": [sessions.ForgetDocumentRequest(name=name, document="book")],
        "DiffVersions": [sessions.DiffVersionsRequest(name=name, from_version=0, to_version=0)],
        "ExportSession": [sessions.ExportSessionRequest(name=name)],
        "ImportSession": [
            sessions.ImportSessionRequest(name=name),
            sessions.ImportSessionRequest(chunk=b"x"),
        ],
        "MigrateSession": [sessions.MigrateSessionRequest(name=name)],
        "ListConsolidations": [sessions.ListConsolidationsRequest(parent=name)],
        "ListStatements": [sessions.ListStatementsRequest(parent=name)],
        "ForgetStatements": [sessions.ForgetStatementsRequest(name=name, ids=["1.0"])],
        "CancelJob": [sessions.CancelJobRequest(name=name)],
        "DeleteUser": [sessions.DeleteUserRequest(name=parent)],
    }
    return known[method.rpartition(".")[2]]


# These make the session, or are about the user; for them only users can be unknown.
OF_USERS = {"CreateSession", "ListSessions", "ImportSession", "DeleteUser"}


async def call(
    channel: aio.Channel, name: str, messages: Iterable[Any], metadata: Any
) -> list[Any]:
    """One call of a method by its full name; all answers."""
    method = METHODS[name]
    streams_in, streams_out = method.client_streaming, method.server_streaming
    kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
    send = getattr(channel, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    messages = list(messages)
    running = send(iter(messages) if streams_in else messages[0], metadata=metadata)
    return [each async for each in running] if streams_out else [await running]


async def answer(
    channel: aio.Channel, method: str, user: str, session: str, metadata: Any = ADA
) -> status_pb2.Status:
    """The whole status, details included, without the name that was asked about."""
    for _ in range(20):
        with pytest.raises(aio.AioRpcError) as caught:
            await call(channel, method, requests(method, user, session), metadata)
        # A refusal that arrives while a stream is written can be lost (grpc/grpc issue 36066).
        if caught.value.details() != "Internal error from Core":
            break
    status = from_call(caught.value)
    assert status is not None, caught.value
    message = status.message.replace(f"users/{user}/sessions/{session}", "SESSION")
    status.message = message.replace(f"users/{user}", "USER")
    return status


@pytest.fixture
def guarded(serve: Serve, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Served]:
        async with serve(token_key_file=shared_key_file(tmp_path), **options) as served:
            yield served

    return start


async def test_every_method_answers_as_for_names_that_never_existed(
    guarded: Callable[..., Any],
) -> None:
    async with guarded() as served:
        channel = served.api.channel

        async def of_bob(method: str, session: str = "theirs") -> list[Any]:
            service = "InferenceService" if method in ("Generate", "Ingest") else "SessionService"
            full = f"hope.v1.{service}.{method}"
            return await call(channel, full, requests(full, "bob", session), BOB)

        await of_bob("CreateSession")
        await of_bob("Ingest")
        await of_bob("CreateSnapshot")
        before = await of_bob("GetSession"), await of_bob("ListSnapshots")
        exported = await of_bob("ExportSession")
        for name in sorted(METHODS.keys() - ADMIN):
            found = await answer(channel, name, "bob", "theirs")
            assert found.code == grpc.StatusCode.NOT_FOUND.value[0], (name, found)
            same = [("bob", "absent"), ("nobody", "theirs"), ("nobody", "absent")]
            if name.rpartition(".")[2] not in OF_USERS:
                same.append(("ada", "absent"))
            for about in same:
                assert await answer(channel, name, *about) == found, (name, about)
        # Whoever says nothing learns as little, whatever there is.
        for name in sorted(METHODS.keys() - ADMIN):
            first = await answer(channel, name, "bob", "theirs", metadata=())
            assert first.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
            assert await answer(channel, name, "nobody", "absent", metadata=()) == first
        # And nothing of it had an effect.
        assert (await of_bob("GetSession"), await of_bob("ListSnapshots")) == before
        assert await of_bob("ExportSession") == exported
        listing = "hope.v1.SessionService.ListSessions"
        (mine,) = await call(channel, listing, requests(listing, "ada", ""), ADA)
        assert not mine.sessions


async def test_users_never_reach_the_admin_service(guarded: Callable[..., Any]) -> None:
    async with guarded() as served:
        for name in sorted(ADMIN):
            message = message_factory.GetMessageClass(METHODS[name].input_type)()
            with pytest.raises(aio.AioRpcError) as caught:
                await call(served.api.channel, name, [message], ADA)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_the_admin_service_has_a_port_and_a_credential_of_its_own(
    guarded: Callable[..., Any], tmp_path: Path
) -> None:
    operator = "an operator's token of enough length"
    path = tmp_path / "operator"
    path.write_text(operator + "\n")
    name = "hope.v1.AdminService.GetServerInfo"
    async with guarded(admin_port=0, admin_token_file=path) as served:
        assert served.running.admin_port not in (None, served.running.port)
        async with connect(served.running.admin_port) as channel:
            request = admin_pb2.GetServerInfoRequest()
            (info,) = await call(channel, name, [request], bearer(operator))
            assert info.model == "chat"
            for wrong in (ADA, (), bearer(operator[:-1]), bearer(operator + "x"), bearer("")):
                with pytest.raises(aio.AioRpcError) as caught:
                    await call(channel, name, [request], wrong)
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
                assert operator not in str(caught.value)
            # Operators run the server; what users said is not offered to them here.
            get = "hope.v1.SessionService.GetSession"
            with pytest.raises(aio.AioRpcError) as caught:
                await call(channel, get, requests(get, "bob", "x"), bearer(operator))
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(aio.AioRpcError):
            await call(served.api.channel, name, [request], bearer(operator))
