"""SessionService of the scripted server, over dictionaries. See scripted_server.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from hope.v1 import sessions_pb2, sessions_pb2_grpc
from scripted_state import Failure, ScriptedState


class ScriptedSessions(ScriptedState, sessions_pb2_grpc.SessionServiceServicer):
    """Sessions and snapshots by name; versions are mere numbers."""

    async def CreateSession(self, request: Any, context: Any) -> Any:
        await self._enter("CreateSession", request, context)
        name = f"{request.parent}/sessions/{request.session_id or 'picked'}"
        session = await self._add(name, context)
        session.MergeFrom(
            sessions_pb2.Session(display_name=request.display_name, policy=request.policy)
        )
        return await self._leave(
            "CreateSession", sessions_pb2.CreateSessionResponse(session=session), context
        )

    async def GetSession(self, request: Any, context: Any) -> Any:
        await self._enter("GetSession", request, context)
        return sessions_pb2.GetSessionResponse(session=await self._find(request.name, context))

    async def ListStatements(self, request: Any, context: Any) -> Any:
        await self._enter("ListStatements", request, context)
        return sessions_pb2.ListStatementsResponse()

    async def ListSessions(self, request: Any, context: Any) -> Any:
        await self._enter("ListSessions", request, context)
        names = sorted(name for name in self.sessions if name.startswith(f"{request.parent}/"))
        begin = int(request.page_token or 0)
        end = begin + (request.page_size or 50)
        return sessions_pb2.ListSessionsResponse(
            sessions=[self.sessions[name] for name in names[begin:end]],
            next_page_token=str(end) if end < len(names) else "",
        )

    async def DeleteSession(self, request: Any, context: Any) -> Any:
        await self._enter("DeleteSession", request, context)
        await self._find(request.name, context)
        del self.sessions[request.name]
        return await self._leave("DeleteSession", sessions_pb2.DeleteSessionResponse(), context)

    async def DeleteUser(self, request: Any, context: Any) -> Any:
        await self._enter("DeleteUser", request, context)
        mine = [name for name in self.sessions if name.startswith(f"{request.name}/")]
        for name in mine:
            del self.sessions[name]
        return sessions_pb2.DeleteUserResponse(sessions=len(mine))

    async def ForkSession(self, request: Any, context: Any) -> Any:
        await self._enter("ForkSession", request, context)
        original = await self._find(request.name, context)
        parent = request.name.rsplit("/", 1)[0]
        fork = await self._add(f"{parent}/{request.session_id}", context)
        fork.memory_version = original.memory_version
        return await self._leave(
            "ForkSession", sessions_pb2.ForkSessionResponse(session=fork), context
        )

    async def CreateSnapshot(self, request: Any, context: Any) -> Any:
        await self._enter("CreateSnapshot", request, context)
        session = await self._find(request.parent, context)
        name = f"{request.parent}/snapshots/{request.snapshot_id}"
        if name in self.snapshots:
            await Failure(grpc.StatusCode.ALREADY_EXISTS, f"{name} exists").abort(context)
        made = sessions_pb2.Snapshot(name=name, version=session.memory_version)
        self.snapshots[name] = made
        return await self._leave(
            "CreateSnapshot", sessions_pb2.CreateSnapshotResponse(snapshot=made), context
        )

    async def ListSnapshots(self, request: Any, context: Any) -> Any:
        await self._enter("ListSnapshots", request, context)
        return sessions_pb2.ListSnapshotsResponse(snapshots=self.snapshots.values())

    async def DeleteSnapshot(self, request: Any, context: Any) -> Any:
        await self._enter("DeleteSnapshot", request, context)
        if self.snapshots.pop(request.name, None) is None:
            await Failure(
                grpc.StatusCode.NOT_FOUND, f"Snapshot {request.name} does not exist"
            ).abort(context)
        return await self._leave("DeleteSnapshot", sessions_pb2.DeleteSnapshotResponse(), context)

    async def RollbackSession(self, request: Any, context: Any) -> Any:
        await self._enter("RollbackSession", request, context)
        session = await self._changed(request.name, context)
        session.parent_version = request.version
        return sessions_pb2.RollbackSessionResponse(session=session)

    async def UpdateSession(self, request: Any, context: Any) -> Any:
        await self._enter("UpdateSession", request, context)
        session = await self._find(request.session.name, context)
        session.display_name = request.session.display_name
        return sessions_pb2.UpdateSessionResponse(session=session)

    async def ResetLevels(self, request: Any, context: Any) -> Any:
        await self._enter("ResetLevels", request, context)
        session = await self._changed(request.name, context)
        return sessions_pb2.ResetLevelsResponse(session=session)

    async def ForgetDocument(self, request: Any, context: Any) -> AsyncIterator[Any]:
        session = await self._find(request.name, context)
        job = sessions_pb2.Job(
            forget_document=request.document, folded_records=3, total_records=7, total_tokens=50
        )
        session.job.CopyFrom(job)
        yield sessions_pb2.ForgetDocumentResponse(job=job)
        await self._enter("ForgetDocument", request, context)
        self.documents.pop(request.document, None)
        self.ended.discard(request.document)
        session = await self._changed(request.name, context)
        session.ClearField("job")
        yield sessions_pb2.ForgetDocumentResponse(session=session)

    async def MigrateSession(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter("MigrateSession", request, context)
        session = await self._changed(request.name, context)
        session.policy = request.policy or session.policy
        yield sessions_pb2.MigrateSessionResponse(session=session)

    async def CancelJob(self, request: Any, context: Any) -> Any:
        await self._enter("CancelJob", request, context)
        session = await self._find(request.name, context)
        session.ClearField("job")
        return sessions_pb2.CancelJobResponse(session=session)

    async def DiffVersions(self, request: Any, context: Any) -> Any:
        await self._enter("DiffVersions", request, context)
        await self._find(request.name, context)
        return sessions_pb2.DiffVersionsResponse(
            levels=[sessions_pb2.LevelDiff(level=0, relative_norm=0.25)]
        )

    async def ListConsolidations(self, request: Any, context: Any) -> Any:
        await self._enter("ListConsolidations", request, context)
        await self._find(request.parent, context)
        at = int(request.page_token or 0)
        more = at + 1 < len(self.consolidations)
        return sessions_pb2.ListConsolidationsResponse(
            consolidations=self.consolidations[at : at + 1],
            next_page_token=str(at + 1) if more else "",
        )

    async def ExportSession(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._enter("ExportSession", request, context)
        session = await self._find(request.name, context)
        exported = session.SerializeToString()
        for begin in range(0, len(exported), 10):
            yield sessions_pb2.ExportSessionResponse(chunk=exported[begin : begin + 10])

    async def ImportSession(self, requests: Any, context: Any) -> Any:
        first = await anext(aiter(requests))
        await self._enter("ImportSession", first, context)
        content = b"".join([request.chunk async for request in requests])
        session = await self._add(first.name, context)
        session.MergeFromString(content)
        session.name = first.name
        return sessions_pb2.ImportSessionResponse(session=session)

    async def Consolidate(self, request: Any, context: Any) -> Any:
        await self._enter("Consolidate", request, context)
        session = await self._find(request.name, context)
        return sessions_pb2.ConsolidateResponse(session=session, consolidations=self.consolidations)

    async def EndConversation(self, request: Any, context: Any) -> Any:
        await self._enter("EndConversation", request, context)
        session = await self._find(request.name, context)
        name = request.conversation or "default"
        if name in session.conversations:
            session.conversations.remove(name)
        return sessions_pb2.EndConversationResponse(
            session=session, consolidations=self.consolidations
        )
