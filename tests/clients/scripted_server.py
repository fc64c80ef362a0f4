"""A real gRPC server on loopback whose answers a test writes down beforehand.

It is the peer of the wire in the tests of the clients: it keeps sessions and
documents in dictionaries, records every request, and misbehaves on demand. It
knows no model.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hope.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from hope.v1 import inference_pb2 as pb


@dataclass(frozen=True)
class Failure:
    """A status with the details a hope server attaches."""

    code: grpc.StatusCode
    message: str = "scripted"
    reason: str = "SCRIPTED"
    field: str = ""
    retry_after_seconds: float | None = None

    async def abort(self, context: grpc.aio.ServicerContext) -> None:
        details: list[Any] = []
        if self.reason:
            details.append(error_details_pb2.ErrorInfo(reason=self.reason, domain="hope.dev"))
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field)
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_seconds is not None:
            delay = Duration(nanos=int(self.retry_after_seconds * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        await context.abort_with_status(rpc_status.to_status(status))


UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE)


class Hang:
    """A point in a script where the server waits until the client goes away."""


class ScriptedServer(
    inference_pb2_grpc.InferenceServiceServicer,
    sessions_pb2_grpc.SessionServiceServicer,
    admin_pb2_grpc.AdminServiceServicer,
):
    """A test reads `requests`, `documents`, `ended` and `cancelled`, and writes the rest."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.failures: dict[str, deque[Failure]] = defaultdict(deque)
        self.sessions: dict[str, sessions_pb2.Session] = {}
        # Each turn takes the next of these; afterwards it echoes.
        self.turns: deque[list[pb.GenerateResponse | Failure | Hang]] = deque()
        self.cancelled = asyncio.Event()
        self._committed = asyncio.Event()
        self.documents: dict[str, bytearray] = defaultdict(bytearray)
        self.ended: set[str] = set()
        # Each Ingest call takes the next of these and fails so after that many bytes of its own.
        self.ingest_breaks: deque[tuple[int, Failure]] = deque()
        self.commit_bytes = 1000
        self.consolidations = [
            sessions_pb2.Consolidation(
                level=0, spans=30, tokens=240, surprise_before_nats=4.1, surprise_after_nats=0.3
            )
        ]

    def add(self, name: str, **fields: Any) -> sessions_pb2.Session:
        self.sessions[name] = sessions_pb2.Session(name=name, etag="1", **fields)
        return self.sessions[name]

    async def until_committed(self, document: str, size: int) -> None:
        """Waits until that many bytes of a document are committed."""
        while len(self.documents[document]) < size:
            self._committed.clear()
            await self._committed.wait()

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        kept = type(request)()
        kept.CopyFrom(request)
        self.requests[method].append(kept)
        if self.failures[method]:
            await self.failures[method].popleft().abort(context)

    async def _find(self, name: str, context: Any) -> sessions_pb2.Session:
        if name not in self.sessions:
            message = f"There is no session {name}"
            missing = Failure(grpc.StatusCode.NOT_FOUND, message, "SESSION_NOT_FOUND")
            await missing.abort(context)
        session = self.sessions[name]
        del session.documents[:]
        for document, content in self.documents.items():
            session.documents.add(
                name=document, committed_bytes=len(content), ended=document in self.ended
            )
        return session

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        await self._enter("Generate", request, context)
        session = await self._find(request.session, context)
        said = request.messages[-1].content
        script = self.turns.popleft() if self.turns else [*reply("You said: ", said)]
        for step in script:
            if isinstance(step, Failure):
                await step.abort(context)
            elif isinstance(step, Hang):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            else:
                yield step
        conversation = request.conversation or "default"
        if conversation not in session.conversations:
            session.conversations.append(conversation)

    async def Ingest(self, requests: Any, context: Any) -> AsyncIterator[pb.IngestResponse]:
        start = None
        taken, tail, keep_open = 0, b"", False
        limit, failure = self.ingest_breaks.popleft() if self.ingest_breaks else (1 << 60, None)
        async for request in requests:
            if request.WhichOneof("part") == "start":
                start = request.start
                await self._enter("Ingest", start, context)
                await self._find(start.session, context)
                if start.offset_bytes != len(self.documents[start.document]):
                    await Failure(
                        grpc.StatusCode.FAILED_PRECONDITION, "wrong offset", "OFFSET_MISMATCH"
                    ).abort(context)
                if limit == 0 and failure:
                    await failure.abort(context)
                continue
            if request.WhichOneof("part") == "end":
                self.requests["end"].append(request.end)
                keep_open = request.end.keep_open
                break
            self.requests["chunk"].append(len(request.chunk))
            tail += request.chunk
            while len(tail) >= self.commit_bytes:
                self.documents[start.document] += tail[: self.commit_bytes]
                tail = tail[self.commit_bytes :]
                taken += self.commit_bytes
                self._committed.set()
                yield self._progress(start.document, taken)
                if failure and taken >= limit:
                    await failure.abort(context)
        else:  # a broken connection ends the iteration, too
            await Failure(grpc.StatusCode.ABORTED, "no end", "BROKEN_STREAM").abort(context)
        assert start is not None
        self.documents[start.document] += tail
        taken += len(tail)
        if not keep_open:
            self.ended.add(start.document)
        if failure:
            await failure.abort(context)
        result = pb.IngestResult(
            committed_bytes=len(self.documents[start.document]),
            tokens=taken // 4,
            surprise_nats=3.5,
            memory_version=7,
            ended=start.document in self.ended,
        )
        yield pb.IngestResponse(result=result)

    def _progress(self, document: str, taken: int) -> pb.IngestResponse:
        progress = pb.IngestProgress(
            committed_bytes=len(self.documents[document]), tokens=taken // 4, memory_version=6
        )
        return pb.IngestResponse(progress=progress)

    async def Score(self, request: Any, context: Any) -> pb.ScoreResponse:
        await self._enter("Score", request, context)
        await self._find(request.session, context)
        return pb.ScoreResponse(tokens=10, total_nats=20.0, memory_version=3)

    async def CreateSession(self, request: Any, context: Any) -> Any:
        await self._enter("CreateSession", request, context)
        name = f"{request.parent}/sessions/{request.session_id or 'picked'}"
        if name in self.sessions:
            message = f"{name} exists"
            await Failure(grpc.StatusCode.ALREADY_EXISTS, message).abort(context)
        session = self.add(name, display_name=request.display_name, policy=request.policy)
        return sessions_pb2.CreateSessionResponse(session=session)

    async def GetSession(self, request: Any, context: Any) -> Any:
        await self._enter("GetSession", request, context)
        return sessions_pb2.GetSessionResponse(session=await self._find(request.name, context))

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
        return sessions_pb2.DeleteSessionResponse()

    async def ForkSession(self, request: Any, context: Any) -> Any:
        await self._enter("ForkSession", request, context)
        original = await self._find(request.name, context)
        parent = request.name.rsplit("/", 1)[0]
        fork = self.add(f"{parent}/{request.session_id}", memory_version=original.memory_version)
        return sessions_pb2.ForkSessionResponse(session=fork)

    async def RollbackSession(self, request: Any, context: Any) -> Any:
        await self._enter("RollbackSession", request, context)
        session = await self._find(request.name, context)
        session.parent_version = request.version
        session.memory_version += 1
        return sessions_pb2.RollbackSessionResponse(session=session)

    async def ForgetDocument(self, request: Any, context: Any) -> AsyncIterator[Any]:
        session = await self._find(request.name, context)
        job = sessions_pb2.Job(
            forget_document=request.document, folded_records=3, total_records=7, total_tokens=50
        )
        session.job.CopyFrom(job)
        yield sessions_pb2.ForgetDocumentResponse(job=job)
        await self._enter("ForgetDocument", request, context)
        session.ClearField("job")
        session.memory_version += 1
        yield sessions_pb2.ForgetDocumentResponse(session=session)

    async def CancelJob(self, request: Any, context: Any) -> Any:
        await self._enter("CancelJob", request, context)
        session = await self._find(request.name, context)
        session.ClearField("job")
        return sessions_pb2.CancelJobResponse(session=session)

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

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        await self._enter("GetServerInfo", request, context)
        return admin_pb2.GetServerInfoResponse(
            version="0.1.0", schema_revision=1, model="tiny", max_state_bytes=24_000_000
        )


async def start(scripted: ScriptedServer, address: str = "127.0.0.1:0") -> grpc.aio.Server:
    """Serves `scripted` on a free port of the loopback interface."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(scripted, server)
    sessions_pb2_grpc.add_SessionServiceServicer_to_server(scripted, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(scripted, server)
    port = server.add_insecure_port(address)
    await server.start()
    scripted.target = f"127.0.0.1:{port}"
    return server


def delta(text: str) -> pb.GenerateResponse:
    return pb.GenerateResponse(delta=pb.TextDelta(text=text, tokens=1))


def status(value: pb.Status.ValueType) -> pb.GenerateResponse:
    return pb.GenerateResponse(status=pb.StatusUpdate(status=value))


def reply(*pieces: str) -> list[pb.GenerateResponse]:
    """Deltas and the result that ends them."""
    result = pb.GenerateResult(
        text="".join(pieces),
        finish_reason=pb.FINISH_REASON_STOP,
        usage=pb.Usage(input_tokens=5, output_tokens=len(pieces), memory_version=2),
    )
    return [*map(delta, pieces), pb.GenerateResponse(result=result)]
