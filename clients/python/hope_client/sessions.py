"""Sessions: making, finding, versioning and teaching them.

Knows SessionService. Answers are the messages of the wire, whose fields are
documented in hope/v1/sessions.proto; turns are in `generate.py` and `ingest.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable

from google.protobuf.field_mask_pb2 import FieldMask
from hope.v1 import sessions_pb2 as pb
from hope.v1.sessions_pb2_grpc import SessionServiceStub

from hope_client.erasing import erase
from hope_client.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from hope_client.jobs import OnJob, run_job
from hope_client.names import new_name, picked_id, session_name, user_name
from hope_client.paging import pages
from hope_client.sources import MAX_CHUNK_BYTES, in_pieces
from hope_client.transport import Transport
from hope_client.unicode import typed_text_errors


@typed_text_errors
class Sessions:
    """Sessions of one user, as `HopeClient.sessions` gives them.

    Wherever a session is named, `diary` stands for `users/{user}/sessions/diary`.
    Every method raises HopeClientError. When the server is unavailable, a call is
    repeated where that cannot change anything twice: reading, erasing, learning
    what waits, and making something under a name that was picked here. Any other
    change is repeated only if the server refused to look at it; otherwise its
    answer may be what was lost, and the session tells whether it was.
    """

    def __init__(self, transport: Transport, user: str) -> None:
        self._transport = transport
        self._user = user
        self._stub = transport.stub(SessionServiceStub)

    def name(self, session: str) -> str:
        """Full name of a session given in short or full."""
        return session_name(session, self._user)

    async def create(
        self, session: str = "", *, display_name: str = "", policy: str = ""
    ) -> pb.Session:
        """Makes an empty session; without a name one is picked."""
        parent, session_id, picked = new_name(session, self._user)
        request = pb.CreateSessionRequest(
            parent=parent, session_id=session_id, display_name=display_name, policy=policy
        )
        try:
            response = await self._transport.call(
                self._stub.CreateSession, request, repeatable=picked
            )
            return response.session
        except AlreadyExistsError:
            if not picked:
                raise
            return await self.get(f"{parent}/sessions/{session_id}")

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
        """Reading state of a document; None if the session never saw it."""
        documents = (await self.get(session)).documents
        return next((each for each in documents if each.name == document), None)

    async def list(self, user: str = "", *, page_size: int = 0) -> AsyncGenerator[pb.Session, None]:
        """Sessions of `user` (default: the client's) by name, page after page on demand."""
        request = pb.ListSessionsRequest(parent=user_name(user or self._user), page_size=page_size)
        async for page in pages(self._transport, self._stub.ListSessions, request):
            for session in page.sessions:
                yield session

    async def delete(self, session: str, *, etag: str = "") -> None:
        """Erases the session: memory, log, every version."""
        request = pb.DeleteSessionRequest(name=self.name(session), etag=etag)
        await erase(self._transport, self._stub.DeleteSession, request)

    async def fork(
        self, session: str, new_session: str = "", *, version: int | None = None
    ) -> pb.Session:
        """A second session with the memory that `session` has, or had at `version`."""
        name = self.name(session)
        parent, session_id, picked = new_name(new_session, self._user)
        if picked:
            parent = name.rpartition("/sessions/")[0]
        elif not name.startswith(f"{parent}/"):
            raise InvalidRequestError(
                f"a fork must belong to the same user as {name}, not to {parent}",
                field="session_id",
            )
        request = pb.ForkSessionRequest(name=name, session_id=session_id, version=version)
        try:
            response = await self._transport.call(
                self._stub.ForkSession, request, repeatable=picked
            )
            return response.session
        except AlreadyExistsError:
            if not picked:
                raise
            return await self.get(f"{parent}/sessions/{session_id}")

    async def snapshot(self, session: str, name: str = "") -> pb.Snapshot:
        """Names the present version, so that it is kept; without a name one is picked."""
        picked = "" if name else picked_id()
        request = pb.CreateSnapshotRequest(parent=self.name(session), snapshot_id=name or picked)
        try:
            response = await self._transport.call(
                self._stub.CreateSnapshot, request, repeatable=bool(picked)
            )
            return response.snapshot
        except AlreadyExistsError:
            async for snapshot in self.snapshots(session):
                if picked and snapshot.name.endswith(f"/{picked}"):
                    return snapshot
            raise

    async def snapshots(
        self, session: str, *, page_size: int = 0
    ) -> AsyncGenerator[pb.Snapshot, None]:
        """Snapshots of a session by name, page after page on demand."""
        request = pb.ListSnapshotsRequest(parent=self.name(session), page_size=page_size)
        async for page in pages(self._transport, self._stub.ListSnapshots, request):
            for snapshot in page.snapshots:
                yield snapshot

    async def delete_snapshot(self, session: str, name: str) -> None:
        """Takes a snapshot's name away; its version is then kept only while it is recent."""
        request = pb.DeleteSnapshotRequest(name=f"{self.name(session)}/snapshots/{name}")
        await erase(self._transport, self._stub.DeleteSnapshot, request)

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
        # With an etag, a repeat would take its own first attempt for somebody else's change.
        response = await self._transport.call(
            self._stub.UpdateSession, request, repeatable=not etag
        )
        return response.session

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
        return await run_job(
            self._transport, self._stub.ForgetDocument, request, self.get, on_progress
        )

    async def statements(
        self,
        session: str,
        query: str = "",
        *,
        document: str = "",
        rehearsed_only: bool = False,
        page_size: int = 0,
    ) -> AsyncGenerator[pb.Statement, None]:
        """Statements that the session was taught, in the order of its log, fetched page by page;
        with `query` those in which a word begins with each of its words, with `document` those of
        one document, with `rehearsed_only` those that were practised and not merely read."""
        request = pb.ListStatementsRequest(
            parent=self.name(session),
            query=query,
            document=document,
            rehearsed_only=rehearsed_only,
            page_size=page_size,
        )
        async for page in pages(self._transport, self._stub.ListStatements, request):
            for each in page.statements:
                yield each

    async def forget_statements(
        self, session: str, *ids: str, on_progress: OnJob = lambda _: None
    ) -> pb.Session:
        """The session as if it had never been told the statements with these ids. A job, like
        `forget_document`."""
        request = pb.ForgetStatementsRequest(name=self.name(session), ids=ids)
        return await run_job(
            self._transport, self._stub.ForgetStatements, request, self.get, on_progress
        )

    async def migrate(
        self, session: str, policy: str = "", *, on_progress: OnJob = lambda _: None
    ) -> pb.Session:
        """The session as if it had learnt under `policy` from the beginning (default: its own, as
        the server knows it now). A job, like `forget_document`."""
        request = pb.MigrateSessionRequest(name=self.name(session), policy=policy)
        return await run_job(
            self._transport, self._stub.MigrateSession, request, self.get, on_progress
        )

    async def cancel_job(self, session: str) -> pb.Session:
        """Ends what a forgetting or `migrate` began; the session is as it was before."""
        request = pb.CancelJobRequest(name=self.name(session))
        return (await self._transport.call(self._stub.CancelJob, request)).session

    async def export(self, session: str) -> AsyncGenerator[bytes, None]:
        """The session's present state and log, piece by piece, for `import_` elsewhere."""
        request = pb.ExportSessionRequest(name=self.name(session))
        async for response in self._transport.stream(self._stub.ExportSession, request):
            yield response.chunk

    async def import_(
        self, session: str, pieces: Iterable[bytes] | AsyncIterable[bytes]
    ) -> pb.Session:
        """Makes `session` out of what `export` gave, cut in any way. An ordinary iterable is
        read in a thread of its own."""

        name = self.name(session)

        async def requests() -> AsyncIterator[pb.ImportSessionRequest]:
            yield pb.ImportSessionRequest(name=name)
            async for piece in in_pieces(pieces, MAX_CHUNK_BYTES):
                yield pb.ImportSessionRequest(chunk=piece)

        call = self._transport.send(self._stub.ImportSession, requests(), session=name)
        return (await call).session

    async def diff(
        self, session: str, before: int, after: int, *, page_size: int = 0, page_token: str = ""
    ) -> pb.DiffVersionsResponse:
        """Change of each level between two kept versions, and a page of what only one
        of them was taught."""
        request = pb.DiffVersionsRequest(
            name=self.name(session),
            from_version=before,
            to_version=after,
            page_size=page_size,
            page_token=page_token,
        )
        return await self._transport.call(self._stub.DiffVersions, request, repeatable=True)

    async def consolidations(
        self, session: str, *, page_size: int = 0
    ) -> AsyncGenerator[pb.Consolidation, None]:
        """Consolidations of the session in the order of its log, fetched page by page."""
        request = pb.ListConsolidationsRequest(parent=self.name(session), page_size=page_size)
        async for page in pages(self._transport, self._stub.ListConsolidations, request):
            for each in page.consolidations:
                yield each

    async def delete_user(self, user: str = "") -> int:
        """Erases every session of `user` (default: the client's); how many there were."""
        request = pb.DeleteUserRequest(name=user_name(user or self._user))
        return (await self._transport.call(self._stub.DeleteUser, request)).sessions

    async def consolidate(self, session: str) -> pb.ConsolidateResponse:
        """Learns now what waits for a boundary; answers when that is done. An answer that comes
        after a broken connection leaves out what was learnt before it."""
        request = pb.ConsolidateRequest(name=self.name(session))
        return await self._transport.call(self._stub.Consolidate, request, repeatable=True)

    async def end_conversation(
        self, session: str, conversation: str = "", *, wait: bool = True
    ) -> pb.EndConversationResponse:
        """Closes a conversation, which is when it is learnt; `wait` for that, or not. Broken
        connections are as for `consolidate`."""
        request = pb.EndConversationRequest(
            name=self.name(session), conversation=conversation, wait=wait
        )
        return await self._transport.call(self._stub.EndConversation, request, repeatable=True)
