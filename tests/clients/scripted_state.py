"""What the scripted server keeps, and the ways in which it fails. See scripted_server.py."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2


def content_digest(data: bytes | bytearray) -> bytes:
    """As sessions.proto says it."""
    chain, whole = bytes(32), len(data) - len(data) % 64
    for at in range(0, whole, 64):
        chain = hashlib.sha256(chain + data[at : at + 64]).digest()
    return hashlib.sha256(chain + data[whole:]).digest()


@dataclass(frozen=True)
class Failure:
    """A status with the details a hope server attaches."""

    code: grpc.StatusCode
    message: str = "scripted"
    reason: str = "SCRIPTED"
    field: str = ""
    retry_after_seconds: float | None = None
    # Of an ingestion: only when the client has sent all. A status that arrives while the client
    # writes may be lost in grpcio, and the client then goes on as after a broken connection.
    when_all_is_sent: bool = False

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


class Commit:
    """A point in a script where the turn is durable, with the text that was sent so far."""


class ScriptedState:
    """A test reads `requests`, `documents`, `ended` and `cancelled`, and writes the rest."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: dict[str, list[Any]] = defaultdict(list)
        # Each call of a method takes the next of these and fails, `lost` when all was done.
        self.failures: dict[str, deque[Failure]] = defaultdict(deque)
        self.lost: dict[str, deque[Failure]] = defaultdict(deque)
        self.sessions: dict[str, sessions_pb2.Session] = {}
        self.snapshots: dict[str, sessions_pb2.Snapshot] = {}
        # Each turn takes the next of these; afterwards it echoes.
        self.turns: deque[list[pb.GenerateResponse | Failure | Hang | Commit]] = deque()
        self.replies: dict[str, pb.GenerateResult] = {}  # by request_id
        self.learnt: list[str] = []  # what the user said, once for every commit
        self.cancelled = asyncio.Event()
        self._committed = asyncio.Event()
        self.documents: dict[str, bytearray] = defaultdict(bytearray)
        self.ended: set[str] = set()
        self.digests = True  # False, as an older server
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
            message = f"Session {name} does not exist"
            missing = Failure(grpc.StatusCode.NOT_FOUND, message, "SESSION_NOT_FOUND")
            await missing.abort(context)
        session = self.sessions[name]
        del session.documents[:]
        for document, content in self.documents.items():
            session.documents.add(
                name=document,
                committed_bytes=len(content),
                ended=document in self.ended,
                content_digest=content_digest(content) if self.digests else b"",
            )
        return session

    async def _add(self, name: str, context: Any) -> sessions_pb2.Session:
        if name in self.sessions:
            await Failure(grpc.StatusCode.ALREADY_EXISTS, f"{name} exists").abort(context)
        return self.add(name)

    async def _changed(self, name: str, context: Any) -> sessions_pb2.Session:
        session = await self._find(name, context)
        session.memory_version += 1
        return session

    async def _leave(self, method: str, answer: Any, context: Any) -> Any:
        if self.lost[method]:
            await self.lost[method].popleft().abort(context)
        return answer
