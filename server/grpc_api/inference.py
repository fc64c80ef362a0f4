"""InferenceService: Generate, Ingest and Score."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc import aio
from hope.v1 import inference_pb2 as pb
from hope.v1 import inference_pb2_grpc

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason, TextPiece
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session import content
from server.app import turns
from server.app.names import session_key, short_name
from server.app.residency import Status
from server.app.sessions import Sessions

Context = aio.ServicerContext[Any, Any]

REPLY_KEPT_SECONDS = 24 * 3600.0
MAX_CHUNK_BYTES = 1 << 20
MAX_REQUEST_ID = 128
MAX_CONVERSATION_NAME = 64
MAX_DOCUMENT_NAME = 256
# A reader this many pieces of text behind makes its own turn wait, and no other.
STREAM_PIECES = 64

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}
_STATUS = {Status.QUEUED: pb.STATUS_QUEUED, Status.LEARNING: pb.STATUS_LEARNING}
_FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
}


class StalledStreamError(Exception):
    """A client stopped reading, and its turn held what others wait for."""


class _Events(asyncio.Queue["pb.GenerateResponse | None"]):
    """What a client has not read yet."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = 0

    @property
    def has_plenty(self) -> bool:
        return self.qsize() >= STREAM_PIECES

    async def get(self) -> pb.GenerateResponse | None:
        event = await super().get()
        self._taken += 1
        return event

    async def stalled(self, seconds: float) -> None:
        """Returns when nothing was taken for so long while there was plenty to take."""
        taken = -1
        while not (self.has_plenty and self._taken == taken):
            taken = self._taken
            await asyncio.sleep(seconds)


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """See inference.proto. Raises typed errors; services/errors.py puts them on the wire."""

    def __init__(self, sessions: Sessions, *, stalled_stream_seconds: float = 60) -> None:
        self._sessions = sessions
        self._stalled_stream_seconds = stalled_stream_seconds

    async def Generate(  # noqa: N802 - the name is gRPC's
        self, request: pb.GenerateRequest, context: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        key = session_key(request.session, field="session")
        learn, ephemeral = _learn_options(request.learn_options)
        turn = GenerateTurn(
            conversation=_conversation(request.conversation),
            messages=tuple(
                Message(_ROLES.get(message.role, ""), message.content)
                for message in request.messages
            ),
            sampling=_sampling(request.sampling),
            learn=learn and not ephemeral,
        )
        protection = _request_id(request, ephemeral)
        events = _Events()
        loop = asyncio.get_running_loop()
        started = time.monotonic()

        def on_text(piece: TextPiece) -> None:
            delta = self._delta(piece)
            loop.call_soon_threadsafe(events.put_nowait, pb.GenerateResponse(delta=delta))

        def on_status(status: Status) -> None:
            events.put_nowait(pb.GenerateResponse(status=pb.StatusUpdate(status=_STATUS[status])))

        def encode_reply(generated: turns.Generated) -> bytes:
            delta = self._delta(generated.outcome.reply)
            return _stored(delta, _result(generated, queue_seconds=0.0))

        task = asyncio.create_task(
            turns.generate(
                self._sessions,
                key,
                turn,
                on_text=on_text,
                on_status=on_status,
                ready=lambda: not events.has_plenty,
                ephemeral=ephemeral,
                request=protection,
                encode_reply=encode_reply,
            )
        )
        # The last event comes after all text: both reach the queue through the loop, in order.
        task.add_done_callback(lambda _: events.put_nowait(None))
        watch = asyncio.create_task(events.stalled(self._stalled_stream_seconds))
        watch.add_done_callback(lambda _: task.cancel())
        try:
            while (event := await events.get()) is not None:
                yield _coalesced(event, events)
            try:
                generated = await task
            except asyncio.CancelledError:
                if not watch.done():
                    raise
                raise StalledStreamError(
                    f"the reply was not read for {self._stalled_stream_seconds:g} seconds, so "
                    "the turn was cancelled without effect; read replies without long pauses"
                ) from None
            except turns.RepeatedRequestError as repeat:
                delta, result = _restored(repeat.payload)
                yield pb.GenerateResponse(delta=delta)
            else:
                spent = generated.outcome.prefill_seconds + generated.outcome.decode_seconds
                queued = max(0.0, time.monotonic() - started - spent)
                result = _result(generated, queue_seconds=queued)
            yield pb.GenerateResponse(result=result)
        finally:
            watch.cancel()
            # A client that went away cancels its turn; wait until it has left no trace.
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

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
        waiting: list[pb.IngestResponse] = []

        def on_status(status: Status) -> None:
            waiting.append(pb.IngestResponse(status=pb.StatusUpdate(status=_STATUS[status])))

        pieces = turns.ingest(
            self._sessions,
            session_key(start.session, field="start.session"),
            _parts(requests),
            conversation=_conversation(start.conversation),
            document=short_name(start.document, "", MAX_DOCUMENT_NAME, field="start.document"),
            offset_bytes=start.offset_bytes,
            content_digest=_digest(start.content_digest),
            learn=learn,
            on_status=on_status,
        )
        nats, scored = 0.0, 0
        last: turns.IngestProgress | None = None
        async for progress in pieces:
            for status in waiting:
                yield status
            waiting.clear()
            nats, scored, last = nats + progress.nats, scored + progress.scored, progress
            update = pb.IngestProgress(
                committed_bytes=progress.committed_bytes,
                tokens=progress.tokens,
                memory_version=progress.memory_version,
                dropped_document=progress.dropped_document,
                dropped_conversation=progress.dropped_conversation,
            )
            if progress.scored:
                update.surprise_nats = progress.nats / progress.scored
            yield pb.IngestResponse(progress=update)
        assert last is not None, "an ingest that does not fail reports at least once"
        result = pb.IngestResult(
            committed_bytes=last.committed_bytes,
            tokens=last.tokens,
            memory_version=last.memory_version,
            ended=last.ended,
        )
        if scored:
            result.surprise_nats = nats / scored
        yield pb.IngestResponse(result=result)

    async def Score(  # noqa: N802
        self, request: pb.ScoreRequest, context: Context
    ) -> pb.ScoreResponse:
        key = session_key(request.session, field="session")
        outcome, version = await turns.score(
            self._sessions, key, request.context, request.text, frozen=request.frozen
        )
        return pb.ScoreResponse(
            tokens=outcome.scored, total_nats=outcome.nats, memory_version=version
        )

    def _delta(self, piece: TextPiece) -> pb.TextDelta:
        token_bytes = self._sessions.engine.model.tokenizer.token_bytes

        def one(token: int, logprob: float) -> pb.TokenLogprob:
            return pb.TokenLogprob(token=token, text=token_bytes(token), logprob=logprob)

        return pb.TextDelta(
            text=piece.text,
            tokens=piece.tokens,
            logprobs=[
                pb.TokenLogprobs(
                    chosen=one(each.token, each.logprob), top=[one(*likely) for likely in each.top]
                )
                for each in piece.logprobs
            ],
        )


async def _parts(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[bytes | turns.End]:
    """Bytes, then how it ends. A client that goes away looks like the end of its stream, so only
    the last message says that all of it has come."""
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
                yield turns.End.KEEP_OPEN if request.end.keep_open else turns.End.COMPLETE
                return
            case _:
                raise InvalidRequestError(
                    "only 'chunk' messages and then 'end' may follow the first message",
                    field="part",
                )
    raise turns.BrokenStreamError("the stream ended without 'end'; resume at committed_bytes")


def _digest(given: bytes) -> bytes:
    if given and len(given) != content.DIGEST_BYTES:
        raise InvalidRequestError(
            f"content_digest must have {content.DIGEST_BYTES} bytes, but has {len(given)}",
            field="start.content_digest",
        )
    return given


def _conversation(name: str) -> str:
    return short_name(name, "default", MAX_CONVERSATION_NAME, field="conversation")


def _learn_options(options: pb.LearnOptions) -> tuple[bool, bool]:
    """(learn, ephemeral), refusing what contradicts itself."""
    if options.ephemeral and options.HasField("learn") and options.learn:
        raise InvalidRequestError(
            "learn and ephemeral are mutually exclusive; set at most one of them",
            field="learn_options",
        )
    learn = options.learn if options.HasField("learn") else True
    return learn, options.ephemeral


def _sampling(message: pb.Sampling) -> Sampling:
    """The runtime's Sampling: set fields over its defaults, a drawn seed when none is given."""
    # Presence, not value, says what was given: 0 is a temperature.
    given: dict[str, Any] = {
        field.name: value for field, value in message.ListFields() if field.name != "stop"
    }
    given.setdefault("seed", secrets.randbits(63))
    return Sampling(**given, stop=tuple(message.stop))


def _request_id(request: pb.GenerateRequest, ephemeral: bool) -> turns.RequestId | None:
    if not request.request_id:
        return None
    if len(request.request_id) > MAX_REQUEST_ID:
        raise InvalidRequestError(
            f"request_id has {len(request.request_id)} characters; at most {MAX_REQUEST_ID} are "
            "allowed",
            field="request_id",
        )
    if ephemeral:
        return None  # nothing is kept, so there is nothing to repeat
    body = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return turns.RequestId(request.request_id, body, time.time() + REPLY_KEPT_SECONDS)


def _coalesced(event: pb.GenerateResponse, events: _Events) -> pb.GenerateResponse:
    """`event` with the text that is ready behind it: one message for what came in one tick."""
    while event.WhichOneof("event") == "delta" and not events.empty():
        following = events.get_nowait()
        if following is None or following.WhichOneof("event") != "delta":
            # Only the last event or a status ends a run of text, and a turn under way sends no
            # status any more, so putting it back keeps the order.
            events.put_nowait(following)
            break
        event.delta.text += following.delta.text
        event.delta.tokens += following.delta.tokens
        event.delta.logprobs.extend(following.delta.logprobs)
    return event


def _result(generated: turns.Generated, *, queue_seconds: float) -> pb.GenerateResult:
    outcome = generated.outcome
    usage = pb.Usage(
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        learnable_tokens=outcome.record.learnable_tokens,
        memory_version=generated.memory_version,
        queue_time=_duration(queue_seconds),
        prefill_time=_duration(outcome.prefill_seconds),
        decode_time=_duration(outcome.decode_seconds),
    )
    if outcome.surprise_nats is not None:
        usage.surprise_nats = outcome.surprise_nats
    return pb.GenerateResult(
        finish_reason=_FINISH[outcome.finish_reason],
        usage=usage,
        text=outcome.text,
        window_began=generated.window_began,
        dropped_conversation=generated.dropped_conversation,
    )


def _stored(delta: pb.TextDelta, result: pb.GenerateResult) -> bytes:
    """A reply as the store keeps it for a repeated request: all its text, and the result."""
    head = delta.SerializeToString()
    return len(head).to_bytes(4, "big") + head + result.SerializeToString()


def _restored(payload: bytes) -> tuple[pb.TextDelta, pb.GenerateResult]:
    size = int.from_bytes(payload[:4], "big")
    result = pb.GenerateResult.FromString(payload[4 + size :])
    result.replayed = True
    return pb.TextDelta.FromString(payload[4 : 4 + size]), result


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(int(seconds * 1e6))
    return duration
