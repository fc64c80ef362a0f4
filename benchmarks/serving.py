"""Benchmarks of serving many sessions at once: batched decoding, and chats beside an ingest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import (
    PAIRS,
    WINDOW_TOKENS,
    Entry,
    compared,
    observed,
    served_terms,
    text_spans,
)
from benchmarks.floors import decoding_floor
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason, TextPiece
from hope_runtime.engine.runner import ForwardChunk, Runner
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.engine.window_reader import Reader
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY
from server.app.events import Finished, TextDelta, Usage
from server.app.measures import ReplyClock
from server.telemetry.metrics import Metrics

ROWS = 8
CHATS = 4
STEPS = 24
REPLY_TOKENS = 64
ROUNDS = 2


def decode_batch8(model: BaseModel) -> Entry:
    """Tokens per second, wall time, of 8 sessions with 8 memories against one session alone."""
    memories = [served_terms(model, seed=row) for row in range(ROWS)]
    batch, single = _decoder(model, memories), _decoder(model, memories[:1])
    entry = compared("decode.batch8", "tokens/s", batch, single)
    return {**entry, "floor": decoding_floor(model, memories, clock=time.perf_counter)}


def decode_adapted8(model: BaseModel) -> Entry:
    """Tokens per second of 8 sessions with memories against 8 without any.

    `floor` is the ratio that reading the bytes alone would allow: those of the weights over those
    of the weights and the 8 memories.
    """
    memories = [served_terms(model, seed=row) for row in range(ROWS)]
    entry = compared(
        "decode.adapted8", "tokens/s", _decoder(model, memories), _decoder(model, [None] * ROWS)
    )
    weights = sum(tensor.nbytes for _, tensor in model.weights.named())
    return {**entry, "floor": weights / (weights + sum(adapter.nbytes for adapter in memories))}


def metrics_cost(model: BaseModel) -> Entry:
    """Cost of metrics in a step of 8 replies, as a share of that step.

    Timed by itself: beside a step it would drown in what a step varies by.
    """
    adapter = served_terms(model)
    decode = _decoder(model, [adapter] * ROWS)
    usage = Usage(
        input_tokens=40,
        output_tokens=REPLY_TOKENS,
        learnable_tokens=20,
        memory_version=0,
        queue_seconds=0.0,
        prefill_seconds=0.1,
        decode_seconds=1.0,
    )
    finished = Finished(FinishReason.LENGTH, "word " * REPLY_TOKENS, usage)
    events = [*[TextDelta("word ", 1)] * REPLY_TOKENS, finished]
    metrics = Metrics()

    def record() -> float:
        """CPU seconds of what is recorded for a token of each of 8 replies."""
        started = time.process_time()
        for row in range(ROWS):
            clock = ReplyClock(metrics, f"users/ada/sessions/{row}")
            for event in events:
                clock.saw(event)
        return (time.process_time() - started) / REPLY_TOKENS

    record(), decode()  # warm up
    pairs = [(record(), ROWS / decode()) for _ in range(PAIRS)]
    return {
        "name": "metrics.cost",
        "value": statistics.median(1e6 * ours for ours, _ in pairs),
        "unit": "CPU-microseconds a step of 8 replies",
        "against": statistics.median(1e6 * step for _, step in pairs),
        "ratio": statistics.median(ours / step for ours, step in pairs),
    }


def _decoder(model: BaseModel, memories: Sequence[ServedAdapter | None]) -> Callable[[], float]:
    """Measures tokens per second of rows that decode together, one for each of `memories`."""
    reader, runner = Reader(model, WINDOW_TOKENS), Runner(model)
    prompt = tuple(model.tokenizer.encode("The history of the lighthouse begins with a storm"))
    rows = [reader.new_slot() for _ in memories]
    for number, (row, adapter) in enumerate(zip(rows, memories, strict=True)):
        row.adapter = adapter
        runner.finish(reader.read(row, prompt * (number % 4 + 4)))  # windows of several lengths

    def measure() -> float:
        lengths = [row.kv.length for row in rows]
        started = time.perf_counter()
        for _ in range(STEPS):
            runner.run([ForwardChunk(row, (30,)) for row in rows])
        spent = time.perf_counter() - started
        for row, length in zip(rows, lengths, strict=True):
            row.kv.truncate(length)
        return STEPS * len(rows) / spent

    return measure


@dataclass
class _Stream:
    """When the text of one reply came, in seconds."""

    times: list[float] = field(default_factory=list)

    def on_text(self, piece: TextPiece) -> None:
        self.times.append(time.perf_counter())

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


def chat_beside_ingest(model: BaseModel) -> Entry:
    """99th percentile of the milliseconds between tokens of 4 chats while a novel is learnt, as a
    server does it: what its recipe reads, the engine does not read as well."""
    return _chats_beside(model, "chat.beside_ingest", learns=True)


def chat_beside_reading(model: BaseModel) -> Entry:
    """The same while the novel is read and scored, and not learnt."""
    return _chats_beside(model, "chat.beside_reading", learns=False)


def _chats_beside(model: BaseModel, name: str, *, learns: bool) -> Entry:
    with TorchEngine(model, window_tokens=WINDOW_TOKENS) as engine:
        memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
        _chats(engine, memory)  # warm up
        alone = _chats(engine, memory)
        ingest = _Ingest(engine, memory, learns=learns)
        ingest.step()
        beside = _chats(engine, memory, meanwhile=ingest.step)
    p99 = [statistics.quantiles(gaps, n=100)[98] * 1000 for gaps in (beside, alone)]
    return {
        "name": name,
        "value": p99[0],
        "unit": "ms between tokens, p99",
        "against": p99[1],
        "ratio": p99[0] / p99[1],
        "read_tokens": ingest.tokens,
        "consolidations": ingest.consolidations,
    }


class _Ingest:
    """A document that is read, or learnt, piece by piece, as a server does it."""

    def __init__(self, engine: TorchEngine, memory: SessionMemory, *, learns: bool) -> None:
        self._engine = engine
        self._memory = memory
        self._spans = text_spans(engine.model, 40_000)
        self._learns = learns
        self._ticket: Any = None
        self._record: Record | None = None
        self.tokens = 0
        self.consolidations = 0

    def step(self) -> None:
        """Submits the next piece of work when the last one has ended."""
        if self._ticket is not None and not self._ticket.future.done():
            return
        if self._record is not None:
            self._memory = self._ticket.future.result().memory
            self.tokens += len(self._record.tokens)
            self._record = None
        elif self._ticket is not None:
            self._memory = self._ticket.future.result()[0]
            self.consolidations += 1
        while (boundary := due(self._memory)) is None:
            record = self._next()
            if not self._learns:
                self._record = record
                self._ticket = self._engine.read("novel", self._memory, record)
                return
            self._memory = observed(self._memory, record)
            self.tokens += len(record.tokens)
        self._ticket = self._engine.consolidate(self._memory, boundary)

    def _next(self) -> Record:
        spans, self._spans = self._spans[:16], self._spans[16:]
        segment = Segment(Speaker.DOCUMENT, tuple(spans), self._learns)
        return Record(RecordKind.DOCUMENT, "novel", (segment,), document="novel")


def _chats(
    engine: TorchEngine, memory: SessionMemory, meanwhile: Callable[[], None] = lambda: None
) -> list[float]:
    """Seconds between the tokens of several replies that are written at once."""
    gaps: list[float] = []
    for _ in range(ROUNDS):
        streams = [_Stream() for _ in range(CHATS)]
        tickets = []
        for number, stream in enumerate(streams):
            text = f"Tell me a long story about {number + 2} ships."
            sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=1.0, seed=number)
            turn = GenerateTurn("chat", (Message("user", text),), sampling)
            tickets.append(engine.generate(("chat", number), memory, turn, stream.on_text))
        while not all(ticket.future.done() for ticket in tickets):
            meanwhile()
            time.sleep(0.005)
        # While prompts are read there is no stream to be stalled yet.
        begun = max(stream.times[0] for stream in streams if stream.times)
        for stream in streams:
            stream.times = [at for at in stream.times if at >= begun]
            gaps += stream.gaps
    return gaps
