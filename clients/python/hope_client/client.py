"""HopeClient: what a program does with a server, one method per thing.

Knows how requests are put together; how turns run is in `generate.py` and
`ingest.py`, sessions are in `sessions.py`, deadlines and retries in `transport.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hope.v1 import admin_pb2
from hope.v1 import inference_pb2 as pb
from hope.v1.admin_pb2_grpc import AdminServiceStub
from hope.v1.inference_pb2_grpc import InferenceServiceStub

from hope_client.errors import InternalError
from hope_client.events import GenerateEvent, IngestEvent
from hope_client.generate import Content, generate_events, messages_of, repeatable
from hope_client.ingest import RESUME, IngestOptions, ingest_events
from hope_client.sessions import Sessions
from hope_client.sources import MAX_CHUNK_BYTES, DocumentSource, open_source
from hope_client.transport import RetryPolicy, Token, Transport
from hope_client.unicode import typed_text_errors

DEFAULT_TARGET = "127.0.0.1:50051"


@typed_text_errors
class HopeClient:
    """Client of one server, for one user, within one event loop of one process.

        async with HopeClient() as client:
            await client.sessions.get_or_create("diary")
            print((await client.say("diary", "My cat is called Ada.")).text)

    Args:
        target: host and port of the server.
        user: whose sessions short names mean; "@me" is whom the credentials name.
        timeout_seconds: for each call, its retries included; ingests are exempt,
            they take as long as their document.
        credentials: for a server with TLS; None connects in clear text.
        token: bearer token that says who the user is, or a function that gives the
            present one; without TLS it goes to this machine only.
        retry: when the server is unavailable, for calls that may be repeated.
        resume: the same for an ingest, counted from its last progress.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        user: str = "local",
        timeout_seconds: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        retry: RetryPolicy | None = None,
        resume: RetryPolicy | None = None,
    ) -> None:
        self._transport = Transport(
            target,
            credentials=credentials,
            token=token,
            timeout_seconds=timeout_seconds,
            retry=retry or RetryPolicy(),
        )
        self._resume = resume or RESUME
        self._inference = self._transport.stub(InferenceServiceStub)
        self._admin = self._transport.stub(AdminServiceStub)
        self._health = self._transport.stub(health_pb2_grpc.HealthStub)
        self.sessions = Sessions(self._transport, user)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection and cancels what still runs on it, which then raises
        ClientClosedError, as does every later call."""
        await self._transport.close()

    def generate(
        self,
        session: str,
        content: Content,
        *,
        conversation: str = "",
        learn: bool | None = None,
        ephemeral: bool = False,
        sampling: pb.Sampling | None = None,
        request_id: str = "",
        at_version: int | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Runs a turn and streams its events; the last one is the GenerateResult.

        Leaving the loop early, or cancelling the task, cancels the turn, which
        then leaves no trace. Use contextlib.aclosing to have that at once. A broken
        connection does not end the turn: it is taken up again (Resuming) within
        the client's retry policy and timeout, and learnt once.

        Args:
            learn: whether the memory may learn from the turn; None leaves it to the server.
            ephemeral: keep nothing of the turn at all.
            request_id: the same id later gives the stored reply again; made up if empty.
            at_version: answer with the memory as it was then, 0 being the base model, and
                keep nothing of the turn; it needs no conversation and no request_id.
        """
        request = pb.GenerateRequest(
            session=self.sessions.name(session),
            conversation=conversation,
            messages=messages_of(content),
            sampling=sampling,
            learn_options=_learn_options(learn, ephemeral),
            request_id=request_id,
            at_version=at_version,
        )
        return generate_events(self._transport, self._inference, repeatable(request))

    async def say(
        self,
        session: str,
        content: Content,
        *,
        conversation: str = "",
        learn: bool | None = None,
        ephemeral: bool = False,
        sampling: pb.Sampling | None = None,
        request_id: str = "",
        at_version: int | None = None,
    ) -> pb.GenerateResult:
        """`generate` for those who want the whole reply at once."""
        events = self.generate(
            session,
            content,
            conversation=conversation,
            learn=learn,
            ephemeral=ephemeral,
            sampling=sampling,
            request_id=request_id,
            at_version=at_version,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, pb.GenerateResult):
                    return event
        raise InternalError("the turn ended without a result")

    async def ingest_events(
        self,
        session: str,
        source: DocumentSource,
        *,
        document: str = "",
        conversation: str = "",
        learn: bool | None = None,
        budget: float | None = None,
        detach: bool = False,
        end_of_document: bool = True,
        source_offset_bytes: int = 0,
        resume_at_bytes: int | None = None,
        chunk_bytes: int = 32 * 1024,
    ) -> AsyncGenerator[IngestEvent, None]:
        """Reads a document into a session and streams progress; the last event is the IngestResult.

        A broken connection is taken up again where the server's memory ends.

        Args:
            source: text, UTF-8 bytes, a file, or an iterator of bytes, async or not.
            document: its name; a path gives its own, anything else must be named.
            budget: the most tokens that learning may run forward and backward for each of the
                document's; None: as the session's policy says (`Session.document_budget`).
            detach: leave the reading to the server, which goes on when the client is gone; the
                result comes once it has the text (`Session.job` tells how far it is).
            end_of_document: False leaves the document open for more.
            source_offset_bytes: where in the document the source begins: 0, or for
                the next piece of an open document its `committed_bytes`.
            resume_at_bytes: start here instead of where the source begins, because
                what comes before is committed (`sessions.document` tells).
            chunk_bytes: size of the messages, 1 byte to 1 MiB.

        Raises:
            ValueError: a document without a name, or a size out of range.
            OSError: the source cannot be read.
        """
        if not document and isinstance(source, Path):
            document = source.name
        if not document:
            raise ValueError("a document that is not a path needs a name; pass document")
        if not 1 <= chunk_bytes <= MAX_CHUNK_BYTES:
            raise ValueError(
                f"chunk_bytes must be between 1 and {MAX_CHUNK_BYTES}, not {chunk_bytes}"
            )
        offset = source_offset_bytes if resume_at_bytes is None else resume_at_bytes
        if offset < source_offset_bytes:
            raise ValueError("resume_at_bytes lies before the beginning of the source")
        start = pb.IngestStart(
            session=self.sessions.name(session),
            conversation=conversation,
            document=document,
            offset_bytes=offset,
            learn_options=_learn_options(learn, ephemeral=False, budget=budget),
            detach=detach,
        )
        opened = await open_source(source, source_offset_bytes)
        events = ingest_events(
            self._transport,
            self._inference,
            self.sessions,
            start,
            opened,
            keep_open=not end_of_document,
            chunk_bytes=chunk_bytes,
            retry=self._resume,
        )
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event
        finally:
            await opened.close()

    async def ingest(
        self,
        session: str,
        source: DocumentSource,
        *,
        on_progress: Callable[[IngestEvent], object] | None = None,
        **options: Unpack[IngestOptions],
    ) -> pb.IngestResult:
        """`ingest_events` for those who want the end; `on_progress` gets every other event."""
        events = self.ingest_events(session, source, **options)
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, pb.IngestResult):
                    return event
                if on_progress is not None:
                    on_progress(event)
        raise InternalError("the ingest ended without a result")

    async def score(
        self,
        session: str,
        text: str,
        *,
        context: str = "",
        frozen: bool = False,
        at_version: int | None = None,
    ) -> pb.ScoreResponse:
        """Surprise of `text` after `context`, for the memory, for the one that there was
        `at_version` (0 is the base model) or for the `frozen` base model."""
        request = pb.ScoreRequest(
            session=self.sessions.name(session),
            context=context,
            text=text,
            frozen=frozen,
            at_version=at_version,
        )
        return await self._transport.call(self._inference.Score, request, repeatable=True)

    async def server_info(self) -> admin_pb2.GetServerInfoResponse:
        """Model, engine and versions of the server; needs a target where AdminService listens."""
        request = admin_pb2.GetServerInfoRequest()
        return await self._transport.call(self._admin.GetServerInfo, request, repeatable=True)

    async def serving(self, service: str = "") -> bool:
        """Whether the server, or one of its services, takes calls; asks for no credential. A server
        that drains does not."""
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self._transport.call(self._health.Check, request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _learn_options(
    learn: bool | None, ephemeral: bool, budget: float | None = None
) -> pb.LearnOptions:
    return pb.LearnOptions(learn=learn, ephemeral=True if ephemeral else None, budget=budget)
