"""SessionService: sessions, their versions, and the events that make them learn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from grpc import aio
from hope.v1 import sessions_pb2 as pb
from hope.v1 import sessions_pb2_grpc

from hope_runtime.errors import InvalidRequestError
from server.app import archive, turns, versions
from server.app.jobs import Jobs, Running
from server.app.names import conversation_name, session_id, session_key, snapshot_key, user_id
from server.app.sessions import Sessions
from server.grpc_api.convert import (
    noted_consolidation,
    to_consolidations,
    to_job,
    to_session,
    to_snapshot,
    to_taught,
)
from server.grpc_api.paging import page_offset, page_size
from server.grpc_api.statements import forget_statements, list_statements
from server.store.base import Head, SessionKey

JobResponseT = TypeVar("JobResponseT", pb.ForgetDocumentResponse, pb.MigrateSessionResponse)
Context = aio.ServicerContext[Any, Any]

MAX_DISPLAY_NAME = 256


class SessionService(sessions_pb2_grpc.SessionServiceServicer):
    """See sessions.proto."""

    def __init__(self, sessions: Sessions, jobs: Jobs) -> None:
        self._sessions = sessions
        self._jobs = jobs

    async def CreateSession(  # noqa: N802 - the names are gRPC's
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        user = user_id(request.parent, field="parent")
        key = SessionKey(user, session_id(request.session_id, field="session_id"))
        _check_display_name(request.display_name, field="display_name")
        head = await self._sessions.create(
            key, policy=request.policy or "default", display_name=request.display_name
        )
        return pb.CreateSessionResponse(session=self._shown(head))

    async def GetSession(  # noqa: N802
        self, request: pb.GetSessionRequest, context: Context
    ) -> pb.GetSessionResponse:
        head = await self._sessions.head(session_key(request.name, field="name"))
        return pb.GetSessionResponse(session=self._shown(head))

    async def ListSessions(  # noqa: N802
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        user = user_id(request.parent, field="parent")
        heads, token = await self._sessions.page(
            user, page_size=page_size(request.page_size), page_token=request.page_token
        )
        return pb.ListSessionsResponse(
            sessions=[self._shown(head) for head in heads], next_page_token=token
        )

    async def DeleteSession(  # noqa: N802
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        key = session_key(request.name, field="name")
        await self._sessions.delete(key, request.etag or None)
        return pb.DeleteSessionResponse()

    async def ForkSession(  # noqa: N802
        self, request: pb.ForkSessionRequest, context: Context
    ) -> pb.ForkSessionResponse:
        source = session_key(request.name, field="name")
        target = SessionKey(source.user, session_id(request.session_id, field="session_id"))
        version = request.version if request.HasField("version") else None
        head = await versions.fork(self._sessions, source, target, version)
        return pb.ForkSessionResponse(session=self._shown(head))

    async def CreateSnapshot(  # noqa: N802
        self, request: pb.CreateSnapshotRequest, context: Context
    ) -> pb.CreateSnapshotResponse:
        key = session_key(request.parent, field="parent")
        name = session_id(request.snapshot_id, field="snapshot_id")
        snapshot = await versions.snapshot(self._sessions, key, name)
        return pb.CreateSnapshotResponse(snapshot=to_snapshot(key, snapshot))

    async def ListSnapshots(  # noqa: N802
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        key = session_key(request.parent, field="parent")
        size, after = page_size(request.page_size), request.page_token
        found, token = await versions.snapshots(
            self._sessions, key, page_size=size, page_token=after
        )
        return pb.ListSnapshotsResponse(
            snapshots=[to_snapshot(key, each) for each in found], next_page_token=token
        )

    async def DeleteSnapshot(  # noqa: N802
        self, request: pb.DeleteSnapshotRequest, context: Context
    ) -> pb.DeleteSnapshotResponse:
        key, name = snapshot_key(request.name, field="name")
        await versions.delete_snapshot(self._sessions, key, name)
        return pb.DeleteSnapshotResponse()

    async def RollbackSession(  # noqa: N802
        self, request: pb.RollbackSessionRequest, context: Context
    ) -> pb.RollbackSessionResponse:
        key = session_key(request.name, field="name")
        version = request.version if request.HasField("version") else None
        head = await versions.rollback(self._sessions, key, version, request.etag or None)
        return pb.RollbackSessionResponse(session=self._shown(head))

    async def UpdateSession(  # noqa: N802
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> pb.UpdateSessionResponse:
        session = request.session
        key = session_key(session.name, field="session.name")
        fixed = [path for path in request.update_mask.paths if path != "display_name"]
        if fixed or not request.update_mask.paths:
            raise InvalidRequestError(
                "update_mask must name display_name, the only field that can be updated",
                field="update_mask",
            )
        _check_display_name(session.display_name, field="session.display_name")
        head = await versions.rename(
            self._sessions, key, session.display_name, session.etag or None
        )
        return pb.UpdateSessionResponse(session=self._shown(head))

    async def ResetLevels(  # noqa: N802
        self, request: pb.ResetLevelsRequest, context: Context
    ) -> pb.ResetLevelsResponse:
        key = session_key(request.name, field="name")
        head = await versions.reset(self._sessions, key, request.levels, request.etag or None)
        return pb.ResetLevelsResponse(session=self._shown(head))

    async def DiffVersions(  # noqa: N802
        self, request: pb.DiffVersionsRequest, context: Context
    ) -> pb.DiffVersionsResponse:
        key = session_key(request.name, field="name")
        size, start = page_size(request.page_size), page_offset(request.page_token)
        norms, taught = await versions.changes(
            self._sessions, key, request.from_version, request.to_version
        )
        tokenizer = self._sessions.tokenizer
        end = start + size
        return pb.DiffVersionsResponse(
            levels=[
                pb.LevelDiff(level=level, relative_norm=norm) for level, norm in enumerate(norms)
            ],
            taught=[to_taught(each, tokenizer) for each in taught[start:end]],
            next_page_token=str(end) if end < len(taught) else "",
        )

    async def ForgetDocument(  # noqa: N802
        self, request: pb.ForgetDocumentRequest, context: Context
    ) -> AsyncIterator[pb.ForgetDocumentResponse]:
        key = session_key(request.name, field="name")
        running = await self._jobs.forget_document(key, request.document)
        async for response in self._watched(running, pb.ForgetDocumentResponse):
            yield response

    async def ListStatements(  # noqa: N802
        self, request: pb.ListStatementsRequest, context: Context
    ) -> pb.ListStatementsResponse:
        return await list_statements(self._sessions, request)

    async def ForgetStatements(  # noqa: N802
        self, request: pb.ForgetStatementsRequest, context: Context
    ) -> AsyncIterator[pb.ForgetStatementsResponse]:
        async for response in forget_statements(self._jobs, request, self._shown):
            yield response

    async def ExportSession(  # noqa: N802
        self, request: pb.ExportSessionRequest, context: Context
    ) -> AsyncIterator[pb.ExportSessionResponse]:
        key = session_key(request.name, field="name")
        async for chunk in archive.export(self._sessions, key):
            yield pb.ExportSessionResponse(chunk=chunk)

    async def ImportSession(  # noqa: N802
        self, requests: AsyncIterator[pb.ImportSessionRequest], context: Context
    ) -> pb.ImportSessionResponse:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "name":
            raise InvalidRequestError("the first message must contain 'name'", field="name")
        key = session_key(first.name, field="name")
        head = await archive.import_session(self._sessions, key, _chunks(requests))
        return pb.ImportSessionResponse(session=self._shown(head))

    async def MigrateSession(  # noqa: N802
        self, request: pb.MigrateSessionRequest, context: Context
    ) -> AsyncIterator[pb.MigrateSessionResponse]:
        key = session_key(request.name, field="name")
        running = await self._jobs.migrate(key, request.policy)
        async for response in self._watched(running, pb.MigrateSessionResponse):
            yield response

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        head = await self._jobs.cancel(session_key(request.name, field="name"))
        return pb.CancelJobResponse(session=self._shown(head))

    async def DeleteUser(  # noqa: N802
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        user = user_id(request.name, field="name")
        return pb.DeleteUserResponse(sessions=await self._sessions.delete_user(user))

    async def Consolidate(  # noqa: N802
        self, request: pb.ConsolidateRequest, context: Context
    ) -> pb.ConsolidateResponse:
        key = session_key(request.name, field="name")
        head, reports = await turns.consolidate(self._sessions, key)
        return pb.ConsolidateResponse(
            session=self._shown(head), consolidations=to_consolidations(reports, head.version)
        )

    async def ListConsolidations(  # noqa: N802
        self, request: pb.ListConsolidationsRequest, context: Context
    ) -> pb.ListConsolidationsResponse:
        key = session_key(request.parent, field="parent")
        size, after = page_size(request.page_size), page_offset(request.page_token)
        found, last = await versions.consolidations(self._sessions, key, after, size)
        return pb.ListConsolidationsResponse(
            consolidations=[noted_consolidation(each.notes) for each in found],
            next_page_token=str(last) if last else "",
        )

    async def EndConversation(  # noqa: N802
        self, request: pb.EndConversationRequest, context: Context
    ) -> pb.EndConversationResponse:
        key = session_key(request.name, field="name")
        conversation = conversation_name(request.conversation)
        wait = request.wait if request.HasField("wait") else True
        head, reports = await turns.end_conversation(self._sessions, key, conversation, wait=wait)
        return pb.EndConversationResponse(
            session=self._shown(head), consolidations=to_consolidations(reports, head.version)
        )

    async def _watched(
        self, running: Running, kind: type[JobResponseT]
    ) -> AsyncIterator[JobResponseT]:
        """A job's progress, and the session at its end."""
        async for progress in running.watch():
            yield kind(job=to_job(running.ask, progress))
        yield kind(session=self._shown(await running.result()))

    def _shown(self, head: Head) -> pb.Session:
        running = self._jobs.running(head.key)
        return to_session(
            head,
            running.progress if running else None,
            self._jobs.background.reading(head.key),
            known=self._sessions.base.known,
        )


async def _chunks(requests: AsyncIterator[pb.ImportSessionRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise InvalidRequestError(
                "every message after the first must contain 'chunk'", field="chunk"
            )
        yield request.chunk


def _check_display_name(name: str, *, field: str) -> None:
    if len(name) > MAX_DISPLAY_NAME:
        raise InvalidRequestError(
            f"display_name must have at most {MAX_DISPLAY_NAME} characters", field=field
        )
