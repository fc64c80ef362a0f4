"""A real gRPC server on loopback whose answers a test writes down beforehand.

It is the peer of the wire in the tests of the clients: it keeps sessions and
documents in dictionaries, records every request, and misbehaves on demand. It
knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from hope.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc, sessions_pb2_grpc
from hope.v1 import inference_pb2 as pb
from scripted_sessions import ScriptedSessions
from scripted_state import UNAVAILABLE, Commit, Failure, Hang, content_digest

__all__ = [
    "UNAVAILABLE",
    "Commit",
    "Failure",
    "Hang",
    "ScriptedServer",
    "delta",
    "reply",
    "start",
    "status",
]


DIFFERS = Failure(grpc.StatusCode.FAILED_PRECONDITION, "another document", "DOCUMENT_DIFFERS")


class ScriptedServer(
    ScriptedSessions,
    inference_pb2_grpc.InferenceServiceServicer,
    admin_pb2_grpc.AdminServiceServicer,
):
    """All of it. Turns follow their scripts; documents are committed piece by piece."""

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        await self._enter("Generate", request, context)
        session = await self._find(request.session, context)
        said = request.messages[-1].content
        if request.request_id in self.replies:
            result = self.replies[request.request_id]
            yield pb.GenerateResponse(delta=pb.TextDelta(text=result.text))
            yield pb.GenerateResponse(result=result)
            return
        text = ""
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
            elif isinstance(step, Commit):
                self.learnt.append(said)
                self.replies[request.request_id] = pb.GenerateResult(text=text, replayed=True)
            else:
                text += step.delta.text
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
                if start.offset_bytes != len(self.documents.get(start.document, b"")):
                    await Failure(
                        grpc.StatusCode.FAILED_PRECONDITION, "wrong offset", "OFFSET_MISMATCH"
                    ).abort(context)
                read = self.documents.get(start.document, b"")
                if start.content_digest not in (b"", content_digest(read)):
                    await DIFFERS.abort(context)
                if limit == 0 and failure:
                    await failure.abort(context)
                continue
            if request.WhichOneof("part") == "end":
                self.requests["end"].append(request.end)
                whole = self.documents[start.document] + tail
                if request.end.content_digest not in (b"", content_digest(whole)):
                    await DIFFERS.abort(context)
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
                    if failure.when_all_is_sent:
                        async for _ in requests:
                            pass
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

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        await self._enter("GetServerInfo", request, context)
        return admin_pb2.GetServerInfoResponse(
            version="0.1.0", schema_revision=1, model="tiny", max_state_bytes=24_000_000
        )


async def start(
    scripted: ScriptedServer,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> grpc.aio.Server:
    """Serves `scripted` on a free port of the loopback interface, with `credentials` over TLS."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(scripted, server)
    sessions_pb2_grpc.add_SessionServiceServicer_to_server(scripted, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(scripted, server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
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
