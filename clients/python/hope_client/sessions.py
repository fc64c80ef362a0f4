"""Sessions: making, finding, versioning and teaching them.

Knows SessionService. Answers are the messages of the wire, whose fields are
documented in hope/v1/sessions.proto; turns are in `generate.py` and `ingest.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from hope.v1 import sessions_pb2 as pb
from hope.v1.sessions_pb2_grpc import SessionServiceStub

from hope_client.errors import (
    AbortedError,
    AlreadyExistsError,
    HopeClientError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
)
from hope_client.names import session_name, split_session_name, user_name
from hope_client.transport import Transport

OnJob = Callable[[pb.Job], None]
JobRequestT = TypeVar("JobRequestT", pb.ForgetDocumentRequest, pb.MigrateSessionRequest)
JobResponseT = TypeVar("JobResponseT", pb.ForgetDocumentResponse, pb.MigrateSessionResponse)


class Sessions:
    """Sessions of one user, as `HopeClient.sessions` gives them.

    Wherever a session is named, `diary` stands for `users/{user}/sessions/diary`.
    Every method raises HopeClientError. Reading is repeated when the server is
    unavailable; a change is sent once, because its answer may be what was lost.
    """

    def __init__(self, transport: Transport, user: str) -> None:
        self._transport = transport
        self._user = user
        self._stub = SessionServiceStub(transport.channel)

    def name(self, session: str) -> str:
        """Full name of a session given in short or full."""
        return session_name(session, self._user)

    async def create(
        self, session: str = "", *, display_name: str = "", policy: str = ""
    ) -> pb.Session:
        """Makes an empty session; without a name the server picks one."""
        parent, session_id = self._split(session, "session_id")
        request = pb.CreateSessionRequest(
            parent=parent, session_id=session_id, display_name=display_name, policy=policy
        )
        return (await self._transport.call(self._stub.CreateSession, request)).session

    async def get(self, session: str) -> pb.Session:
        """The session as it stands."""
        request = pb.GetSessionRequest(name=self.name(session))
        response = await self._transport.call(self._stub.GetSession, request, repeatable=True)
        return response.session

    async def get_or_create(self, session: str) -> tuple[pb.Session, bool]:
        """The session, made when it is missing, and whether it was."""
        try:
            return await self.get(session), False
        except NotFoundError:
            pass
        try:
            return await self.create(session), True
        except AlreadyExistsError:  # somebody was quicker
            return await self.get(session), False

    async def document(self, session: str, document: str) -> pb.Document | None:
        """How far a document has been read; None if the session never saw it."""
        documents = (await self.get(session)).documents
        return next((each for each in documents if each.name == document), None)

    async def list(self, user: str = "", *, page_size: int = 0) -> AsyncIterator[pb.Session]:
        """Sessions of `user` (default: the client's) by name, page after page on demand."""
        request = pb.ListSessionsRequest(parent=user_name(user or self._user), page_size=page_size)
        while True:
            page = await self._transport.call(self._stub.ListSessions, request, repeatable=True)
            for session in page.sessions:
                yield session
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete(self, session: str, *, etag: str = "") -> None:
        """Erases the session: memory, log, every version."""
        request = pb.DeleteSessionRequest(name=self.name(session), etag=etag)
        await self._transport.call(self._stub.DeleteSession, request)

    async def fork(
        self, session: str, new_session: str = "", *, version: int | None = None
    ) -> pb.Session:
        """A second session with the memory that `session` has, or had at `version`."""
        name = self.name(session)
        parent, session_id = self._split(new_session, "session_id")
        if session_id and not name.startswith(f"{parent}/"):
            raise InvalidRequestError(
                f"A fork of {name} stays with its user; {parent} is another one",
                field="session_id",
            )
        request = pb.ForkSessionRequest(name=name, session_id=session_id, version=version)
        return (await self._transport.call(self._stub.ForkSession, request)).session

    async def snapshot(self, session: str, name: str = "") -> pb.Snapshot:
        """Names the present version, so that it is kept; without a name the server picks one."""
        request = pb.CreateSnapshotRequest(parent=self.name(session), snapshot_id=name)
        return (await self._transport.call(self._stub.CreateSnapshot, request)).snapshot

    async def snapshots(self, session: str, *, page_size: int = 0) -> AsyncIterator[pb.Snapshot]:
        """Snapshots of a session by name, page after page on demand."""
        request = pb.ListSnapshotsRequest(parent=self.name(session), page_size=page_size)
        while True:
            page = await self._transport.call(self._stub.ListSnapshots, request, repeatable=True)
            for snapshot in page.snapshots:
                yield snapshot
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_snapshot(self, session: str, name: str) -> None:
        """Takes a snapshot's name away; its version is then kept only while it is recent."""
        request = pb.DeleteSnapshotRequest(name=f"{self.name(session)}/snapshots/{name}")
        await self._transport.call(self._stub.DeleteSnapshot, request)

    async def rollback(
        self, session: str, version: int | None = None, *, etag: str = ""
    ) -> pb.Session:
        """Returns to `version`, by default the parent of the present one."""
        request = pb.RollbackSessionRequest(name=self.name(session), version=version, etag=etag)
        return (await self._transport.call(self._stub.RollbackSession, request)).session

    async def rename(self, session: str, display_name: str, *, etag: str = "") -> pb.Session:
        """Changes the display name."""
        request = pb.UpdateSessionRequest(
            session=pb.Session(name=self.name(session), display_name=display_name, etag=etag),
            update_mask=FieldMask(paths=["display_name"]),
        )
        return (await self._transport.call(self._stub.UpdateSession, request)).session

    async def reset(self, session: str, *levels: int, etag: str = "") -> pb.Session:
        """Returns `levels` (0 is the fastest) to the base model; all of them if none is given."""
        request = pb.ResetLevelsRequest(name=self.name(session), levels=levels, etag=etag)
        return (await self._transport.call(self._stub.ResetLevels, request)).session

    async def forget_document(
        self, session: str, document: str, *, on_progress: OnJob = lambda _: None
    ) -> pb.Session:
        """The session as if it had never read `document`. Everything else is learnt again, as a
        job of the server that goes on without this client; the same call joins it again."""
        request = pb.ForgetDocumentRequest(name=self.name(session), document=document)
        return await self._job(self._stub.ForgetDocument, request, on_progress)

    async def migrate(
        self, session: str, policy: str = "", *, on_progress: OnJob = lambda _: None
    ) -> pb.Session:
        """The session as if it had learnt under `policy` from the beginning (default: its own, as
        the server knows it now). A job, like `forget_document`."""
        request = pb.MigrateSessionRequest(name=self.name(session), policy=policy)
        return await self._job(self._stub.MigrateSession, request, on_progress)

    async def cancel_job(self, session: str) -> pb.Session:
        """Ends what `forget_document` or `migrate` began; the session is as it was before."""
        request = pb.CancelJobRequest(name=self.name(session))
        return (await self._transport.call(self._stub.CancelJob, request)).session

    async def export(self, session: str) -> AsyncIterator[bytes]:
        """The session's present state and log, piece by piece, for `import_` elsewhere."""
        request = pb.ExportSessionRequest(name=self.name(session))
        async for response in self._transport.stream(self._stub.ExportSession, request):
            yield response.chunk

    async def import_(self, session: str, pieces: AsyncIterator[bytes]) -> pb.Session:
        """Makes `session` out of what `export` gave; any pieces of at most a mebibyte."""

        async def requests() -> AsyncIterator[pb.ImportSessionRequest]:
            yield pb.ImportSessionRequest(name=self.name(session))
            async for piece in pieces:
                yield pb.ImportSessionRequest(chunk=piece)

        return (await self._transport.send(self._stub.ImportSession, requests())).session

    async def diff(
        self, session: str, before: int, after: int, *, page_size: int = 0, page_token: str = ""
    ) -> pb.DiffVersionsResponse:
        """How much of each level changed between two kept versions, and a page of what only one
        of them was taught."""
        request = pb.DiffVersionsRequest(
            name=self.name(session),
            from_version=before,
            to_version=after,
            page_size=page_size,
            page_token=page_token,
        )
        return await self._transport.call(self._stub.DiffVersions, request, repeatable=True)

    async def delete_user(self, user: str = "") -> int:
        """Erases every session of `user` (default: the client's); how many there were."""
        request = pb.DeleteUserRequest(name=user_name(user or self._user))
        return (await self._transport.call(self._stub.DeleteUser, request)).sessions

    async def consolidate(self, session: str) -> pb.ConsolidateResponse:
        """Learns now what waits for a boundary; answers when that is done."""
        request = pb.ConsolidateRequest(name=self.name(session))
        return await self._transport.call(self._stub.Consolidate, request)

    async def end_conversation(
        self, session: str, conversation: str = "", *, wait: bool = True
    ) -> pb.EndConversationResponse:
        """Closes a conversation, which is when it is learnt; `wait` for that, or not."""
        request = pb.EndConversationRequest(
            name=self.name(session), conversation=conversation, wait=wait
        )
        return await self._transport.call(self._stub.EndConversation, request)

    async def _job(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[JobRequestT, JobResponseT],
        request: JobRequestT,
        on_progress: OnJob,
    ) -> pb.Session:
        """Begins or joins a job and watches it to its end, across broken connections."""
        attempts = self._transport.attempts()
        version = (await self.get(request.name)).memory_version
        seen = False
        while True:
            try:
                if seen and not (now := await self.get(request.name)).HasField("job"):
                    if now.memory_version > version:
                        return now  # it ended while nobody watched
                    raise AbortedError("The job was ended by somebody else.")
                async for response in self._transport.stream(method, request):
                    if response.WhichOneof("event") == "session":
                        return response.session
                    seen = True
                    attempts.succeeded()
                    on_progress(response.job)
                raise InternalError("The server ended the answer before the job.")
            except HopeClientError as error:
                await attempts.wait_after(error)

    def _split(self, session: str, field: str) -> tuple[str, str]:
        if not session:
            return user_name(self._user), ""
        try:
            return split_session_name(self.name(session))
        except ValueError as error:
            raise InvalidRequestError(str(error), field=field) from None
