"""InferenceService: Generate, Ingest and Score, as messages over server/app."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc import aio
from hope.v1 import inference_pb2 as pb
from hope.v1 import inference_pb2_grpc

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session import content
from hope_runtime.session.log import MAX_BUDGET
from server.app import generation, ingest, kept_versions, turns
from server.app.background_reading import BackgroundReading
from server.app.events import Scored
from server.app.names import MAX_DOCUMENT_NAME, conversation_name, session_key, short_name
from server.app.reading_queue import QueuedDocument
from server.app.replies import RequestId
from server.app.sessions import Sessions
from server.grpc_api.turn_messages import Statuses, to_generate_response, to_ingest_response

Context = aio.ServicerContext[Any, Any]

MAX_CHUNK_BYTES = 1 << 20

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """See inference.proto. Raises typed errors, which grpc_api/errors.py translates."""

    def __init__(self, sessions: Sessions, background: BackgroundReading) -> None:
        self._sessions = sessions
        self._background = background

    async def Generate(  # noqa: N802 - the name is gRPC's
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        learn, ephemeral = _learn_options(request.learn_options)
        if request.learn_options.HasField("budget"):
            raise InvalidRequestError(
                "only documents have a budget; what users say is always practised",
                field="learn_options.budget",
            )
        key = session_key(request.session, field="session")
        turn = GenerateTurn(
            conversation=conversation_name(request.conversation),
            messages=tuple(map(_message, request.messages)),
            sampling=_sampling(request.sampling),
            learn=learn and not ephemeral,
        )
        if request.HasField("at_version"):
            _check_kept_version(request)
            events = kept_versions.generate(
                self._sessions, key, request.at_version, turn, field="at_version"
            )
        else:
            events = generation.generate(
                self._sessions, key, turn, ephemeral=ephemeral, request=_request_id(request)
            )
        statuses = Statuses()
        async with aclosing(events):
            async for event in events:
                if statuses.is_new(event):
                    yield to_generate_response(event)

    async def Ingest(  # noqa: N802
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("part") != "start":
            raise InvalidRequestError("the first message must contain 'start'", field="start")
        start = first.start
        learn, ephemeral = _learn_options(start.learn_options)
        if ephemeral:
            raise InvalidRequestError(
                "an ingest cannot be ephemeral because it would keep nothing; use Score to "
                "measure a text",
                field="start.learn_options.ephemeral",
            )
        key = session_key(start.session, field="start.session")
        document = QueuedDocument(
            short_name(start.document, "", MAX_DOCUMENT_NAME, field="start.document"),
            conversation_name(start.conversation),
            start.offset_bytes,
            start.offset_bytes,
            learn,
            _budget(start.learn_options),
        )
        digest, parts = _digest(start.content_digest, "start"), _parts(requests)
        if start.detach:
            yield to_ingest_response(
                await self._background.receive(key, document, parts, content_digest=digest)
            )
            return
        events = ingest.ingest(
            self._sessions,
            key,
            parts,
            conversation=document.conversation,
            document=document.document,
            offset_bytes=document.offset,
            content_digest=digest,
            learn=learn,
            budget=document.budget,
        )
        statuses = Statuses()
        async with aclosing(events):
            async for event in events:
                if statuses.is_new(event):
                    yield to_ingest_response(event)

    async def Score(  # noqa: N802
        self, request: pb.ScoreRequest, context: Context
    ) -> pb.ScoreResponse:
        events = turns.score(
            self._sessions,
            session_key(request.session, field="session"),
            request.context,
            request.text,
            frozen=request.frozen,
            at_version=request.at_version if request.HasField("at_version") else None,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Scored):
                    return pb.ScoreResponse(
                        tokens=event.tokens,
                        total_nats=event.nats,
                        memory_version=event.memory_version,
                    )
        raise AssertionError("a score that does not fail ends with its figures")


def _message(message: pb.Message) -> Message:
    learn = message.learn if message.HasField("learn") else True
    return Message(_ROLES.get(message.role, ""), message.content, learn=learn)


def _check_kept_version(request: pb.GenerateRequest) -> None:
    """Refuse what contradicts at_version, or only seems to say something with it."""
    options = request.learn_options
    kept_versions.check_alone(
        learn=options.learn or any(message.learn for message in request.messages),
        ephemeral=options.ephemeral if options.HasField("ephemeral") else None,
        conversation=request.conversation,
        request_id=request.request_id,
        field="at_version",
    )


async def _parts(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[bytes | ingest.End]:
    """Bytes of the document, then an End. A client that disconnects looks like the end of its
    stream, so only the message `end` proves that all of it has come."""
    async for request in requests:
        match request.WhichOneof("part"):
            case "chunk" if len(request.chunk) <= MAX_CHUNK_BYTES:
                yield request.chunk
            case "chunk":
                raise InvalidRequestError(
                    f"the chunk has {len(request.chunk)} bytes; at most {MAX_CHUNK_BYTES} are "
                    "allowed",
                    field="chunk",
                )
            case "end":
                end = request.end
                yield ingest.End(end.keep_open, _digest(end.content_digest, "end"))
                return
            case _:
                raise InvalidRequestError(
                    "only 'chunk' messages and then 'end' may follow the first message",
                    field="part",
                )
    raise ingest.BrokenStreamError("the stream ended without 'end'; resume at committed_bytes")


def _digest(given: bytes, part: str) -> bytes:
    if given and len(given) != content.DIGEST_BYTES:
        raise InvalidRequestError(
            f"content_digest must have {content.DIGEST_BYTES} bytes, but has {len(given)}",
            field=f"{part}.content_digest",
        )
    return given


def _learn_options(options: pb.LearnOptions) -> tuple[bool, bool]:
    """(learn, ephemeral). Raises InvalidRequestError when both are asked for."""
    if options.ephemeral and options.HasField("learn") and options.learn:
        raise InvalidRequestError(
            "learn and ephemeral are mutually exclusive; set at most one of them",
            field="learn_options",
        )
    learn = options.learn if options.HasField("learn") else True
    return learn, options.ephemeral


def _budget(options: pb.LearnOptions) -> float | None:
    """Budget of a document; None when it is not given. Raises InvalidRequestError."""
    if not options.HasField("budget"):
        return None
    if not 0 <= options.budget <= MAX_BUDGET:
        raise InvalidRequestError(
            f"budget must be from 0 to {MAX_BUDGET:g}, but is {options.budget:g}",
            field="start.learn_options.budget",
        )
    # The number that was meant: 0.1 is no float of 32 bits.
    return float(f"{options.budget:.6g}")


def _sampling(message: pb.Sampling) -> Sampling:
    """Sampling of a request: its fields over the defaults, and a random seed when none is given."""
    # Presence, not value, says what was given: 0 is a temperature.
    given: dict[str, Any] = {
        field.name: value for field, value in message.ListFields() if field.name != "stop"
    }
    given.setdefault("seed", secrets.randbits(63))
    return Sampling(**given, stop=tuple(message.stop))


def _request_id(request: pb.GenerateRequest) -> RequestId | None:
    if not request.request_id:
        return None
    body = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return RequestId(request.request_id, body)
