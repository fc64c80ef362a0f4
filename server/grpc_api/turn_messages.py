"""Messages of turns: events of the application as responses, and replies as they are stored.

The stored format is persisted: the length of a TextDelta in 4 bytes, big endian, that message, then
a GenerateResult.
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from hope.v1 import inference_pb2 as pb

from hope_runtime.engine.reply import FinishReason
from server.app import events
from server.grpc_api.convert import to_duration

_FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
}
# Parts of a level's work after which a client hears of its progress.
STEPS = 20
_REASONS = {number: reason for reason, number in _FINISH.items()}


class Statuses:
    """Statuses of one call. The wire says what a turn waits for when that changes, and how far
    learning is in steps of a twentieth; that a reply begins has no place in it."""

    def __init__(self) -> None:
        self._last: object = None

    def is_new(self, event: object) -> bool:
        """Whether a client is told of the event: all but a beginning, and a status that repeats the
        one before."""
        if isinstance(event, events.Began):
            return False
        key: object = type(event)
        if isinstance(event, events.Learning):
            part = None if event.fraction is None else int(event.fraction * STEPS)
            key = (key, event.level, part)
        repeated = isinstance(event, events.Waiting) and key == self._last
        self._last = key
        return not repeated


def to_generate_response(event: events.GenerateEvent) -> pb.GenerateResponse:
    """An event of a reply as the API sends it."""
    match event:
        case events.TextDelta():
            return pb.GenerateResponse(delta=_to_delta(event))
        case events.Finished():
            return pb.GenerateResponse(result=_to_result(event))
        case events.Began():
            raise AssertionError("the wire does not say that a reply begins")
        case _:
            return pb.GenerateResponse(status=_to_status(event))


def to_ingest_response(event: events.IngestEvent) -> pb.IngestResponse:
    """An event of an ingest as the API sends it."""
    match event:
        case events.IngestProgress():
            progress = pb.IngestProgress(
                committed_bytes=event.committed_bytes,
                tokens=event.tokens,
                memory_version=event.memory_version,
                surprise_nats=event.surprise_nats,
                dropped_document=event.dropped_document,
                dropped_conversation=event.dropped_conversation,
                learning=_to_learning(event.learning),
            )
            return pb.IngestResponse(progress=progress)
        case events.Ingested():
            result = pb.IngestResult(
                committed_bytes=event.committed_bytes,
                tokens=event.tokens,
                memory_version=event.memory_version,
                surprise_nats=event.surprise_nats,
                ended=event.ended,
                learning=_to_learning(event.learning),
                queued=event.queued,
            )
            return pb.IngestResponse(result=result)
        case _:
            return pb.IngestResponse(status=_to_status(event))


class MessageCodec:
    """Stores replies as messages; see ReplyCodec."""

    def encode(self, delta: events.TextDelta, finished: events.Finished) -> bytes:
        head = _to_delta(delta).SerializeToString()
        result = _to_result(finished).SerializeToString()
        return len(head).to_bytes(4, "big") + head + result

    def decode(self, payload: bytes) -> tuple[events.TextDelta, events.Finished]:
        size = int.from_bytes(payload[:4], "big")
        delta = pb.TextDelta.FromString(payload[4 : 4 + size])
        result = pb.GenerateResult.FromString(payload[4 + size :])
        return _from_delta(delta), _from_result(result)


def _to_status(event: events.Waiting) -> pb.StatusUpdate:
    if isinstance(event, events.Queued):
        return pb.StatusUpdate(status=pb.STATUS_QUEUED)
    return pb.StatusUpdate(
        status=pb.STATUS_LEARNING,
        learning_level=event.level,
        learning_fraction=event.fraction,
    )


def _to_learning(learning: events.IngestLearning) -> pb.IngestLearning:
    return pb.IngestLearning(
        budget=learning.budget,
        trained_tokens=learning.trained_tokens,
        practised_statements=learning.practised_statements,
    )


def _to_delta(delta: events.TextDelta) -> pb.TextDelta:
    def one(each: events.TokenLogprob) -> pb.TokenLogprob:
        return pb.TokenLogprob(token=each.token, text=each.text, logprob=each.logprob)

    return pb.TextDelta(
        text=delta.text,
        tokens=delta.tokens,
        logprobs=[
            pb.TokenLogprobs(chosen=one(each.chosen), top=map(one, each.top))
            for each in delta.logprobs
        ],
    )


def _from_delta(delta: pb.TextDelta) -> events.TextDelta:
    def one(each: pb.TokenLogprob) -> events.TokenLogprob:
        return events.TokenLogprob(each.token, each.text, each.logprob)

    logprobs = (
        events.TokenLogprobs(one(each.chosen), tuple(map(one, each.top))) for each in delta.logprobs
    )
    return events.TextDelta(delta.text, delta.tokens, tuple(logprobs))


def _to_result(finished: events.Finished) -> pb.GenerateResult:
    usage = finished.usage
    return pb.GenerateResult(
        finish_reason=_FINISH[finished.reason],
        usage=pb.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            learnable_tokens=usage.learnable_tokens,
            surprise_nats=usage.surprise_nats,
            memory_version=usage.memory_version,
            queue_time=to_duration(usage.queue_seconds),
            prefill_time=to_duration(usage.prefill_seconds),
            decode_time=to_duration(usage.decode_seconds),
            cached_input_tokens=usage.cached_input_tokens,
        ),
        text=finished.text,
        replayed=finished.replayed,
        window_began=finished.window_began,
        dropped_conversation=finished.dropped_conversation,
        learning=finished.learning,
    )


def _from_result(result: pb.GenerateResult) -> events.Finished:
    usage = result.usage
    return events.Finished(
        reason=_REASONS[result.finish_reason],
        text=result.text,
        usage=events.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            learnable_tokens=usage.learnable_tokens,
            memory_version=usage.memory_version,
            queue_seconds=_seconds(usage.queue_time),
            prefill_seconds=_seconds(usage.prefill_time),
            decode_seconds=_seconds(usage.decode_time),
            cached_input_tokens=usage.cached_input_tokens,
            surprise_nats=usage.surprise_nats if usage.HasField("surprise_nats") else None,
        ),
        replayed=True,
        window_began=result.window_began,
        dropped_conversation=result.dropped_conversation,
        learning=result.learning,
    )


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
