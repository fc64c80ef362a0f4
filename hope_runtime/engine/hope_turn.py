"""Requests of a HOPE model, whose memories are written while tokens are read.

As in request.py, a request reads an immutable memory, and dropping it leaves no trace. Here reading
is learning: the state that a chunk returns holds what was written. Every token of a record is read
exactly once, in order, so the state after a turn is a function of the record, and folding the log
again gives the same one.

Shape suffix: V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from hope_runtime.engine.hope_reading import HopeForwardChunk, HopeOutput, HopeReading
from hope_runtime.engine.reply import OnText, Reply, ReplyBuilder
from hope_runtime.engine.request import Ready, Request, Status, always_ready
from hope_runtime.engine.turn import (
    DEFAULT_MAX_TOKENS,
    GenerateOutcome,
    GenerateTurn,
    ReadOutcome,
    prompt_in_steps,
    score_tokens,
)
from hope_runtime.models.hope.model import fresh_context
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.session import enter, remember, restore
from hope_runtime.models.hope.state import HopeState, fresh_state
from hope_runtime.session.fold import continued, observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.steps import at_once

_Result = TypeVar("_Result")


def prompt(model: HopeModel, memory: SessionMemory, turn: GenerateTurn) -> Record:
    """The turn's record up to where the model answers. Raises InvalidRequestError."""
    return at_once(prompt_in_steps(model.tokenizer, memory, turn))


class HopeGenerateRequest(Request[GenerateOutcome]):
    """A turn: reads the prompt, learning from what the user says, and writes a reply."""

    chunk: HopeForwardChunk | None
    prompt: Record
    output: ReplyBuilder

    def __init__(
        self,
        model: HopeModel,
        memory: SessionMemory,
        turn: GenerateTurn,
        on_text: OnText,
        ready: Ready = always_ready,
    ) -> None:
        super().__init__(ready)
        self.model, self.memory, self.turn = model, memory, turn
        limit = turn.sampling.max_tokens or DEFAULT_MAX_TOKENS
        self.output = ReplyBuilder(model.tokenizer, turn.sampling, limit, on_text)
        self._surprise: float | None = None

    def _encode(self) -> Iterator[None]:
        self.prompt = yield from prompt_in_steps(self.model.tokenizer, self.memory, self.turn)

    def _begin(self) -> None:
        before = continued(self.memory, self.prompt)
        self.memory = enter(self.model, before, self.turn.conversation)
        flags = _learnable(self.prompt)
        state = restore(self.model, self.memory)
        self._read(HopeReading(state, self.prompt.tokens, flags, score=flags))

    def _read(self, reading: HopeReading) -> None:
        self._reading: HopeReading | None = reading
        self.chunk = reading.chunk

    def _advance(self, output: HopeOutput) -> None:
        reading = self._reading
        if reading is None:
            self._write(output.state, output.logits_TV[-1])
            return
        reading.accept(output)
        self.chunk = reading.chunk
        if self.chunk is not None:
            return
        self._reading = None
        if self.status is Status.READING:
            self._surprise = reading.nats / reading.scored if reading.scored else None
            self.timings.prefilled = time.monotonic()
            self.status = Status.WRITING
            self._write(reading.state, reading.logits)
        else:  # the end of the reply was read
            self._finish(self._result(reading.state))

    def _write(self, state: HopeState, logits_V: Tensor) -> None:
        """Choose the next token and read it; after the last one, read the end of the reply."""
        token = self.output.choose(logits_V)
        if not self.output.ended:
            self.chunk = HopeForwardChunk(state, (token,), (False,))
            return
        self._reply: Reply = self.output.finish()
        self._record = self._reply.ends(self.prompt, self.model.tokenizer)
        # All tokens of the reply but the last were read: that one, and the template's end.
        rest = self._record.tokens[len(self.prompt.tokens) + len(self._reply.tokens) - 1 :]
        self._read(HopeReading(state, rest, (False,) * len(rest)))

    def _result(self, state: HopeState) -> GenerateOutcome:
        prefill, decode = self.timings.spent()
        return GenerateOutcome(
            record=self._record,
            memory=remember(self.model, self.memory, self._record, state),
            reply=self._reply.piece,
            finish_reason=self._reply.reason,
            input_tokens=len(self.prompt.tokens),
            output_tokens=len(self._reply.tokens),
            surprise_nats=self._surprise,
            prefill_seconds=prefill,
            decode_seconds=decode,
        )


class _RecordRequest(Request[_Result]):
    """Reads a record of the log, learning from what it may learn from."""

    scored: bool

    def __init__(self, model: HopeModel, memory: SessionMemory, record: Record) -> None:
        super().__init__()
        self.model, self.memory, self.record = model, memory, record

    def _begin(self) -> None:
        if not self.record.tokens:
            after = observe(self.memory, self.record, window_tokens=None)
            self._finish(self._result(0.0, 0, after))
            return
        before = continued(self.memory, self.record)
        self.memory = enter(self.model, before, self.record.conversation)
        flags, state = _learnable(self.record), restore(self.model, self.memory)
        score = (self.scored,) * len(flags)
        self._reading = HopeReading(state, self.record.tokens, flags, score=score)
        self.chunk = self._reading.chunk

    def _advance(self, output: HopeOutput) -> None:
        reading = self._reading
        reading.accept(output)
        self.chunk = reading.chunk
        if self.chunk is None:
            after = remember(self.model, self.memory, self.record, reading.state)
            self._finish(self._result(reading.nats, reading.scored, after))

    def _result(self, nats: float, scored: int, after: SessionMemory) -> _Result:
        raise NotImplementedError


class HopeReadRequest(_RecordRequest[ReadOutcome]):
    """Reads a record and scores its tokens.

    The first one is left out of the score: what predicts it was read before this turn.
    """

    scored = True

    def _result(self, nats: float, scored: int, after: SessionMemory) -> ReadOutcome:
        return ReadOutcome(nats, scored, after)


class HopeObserveRequest(_RecordRequest[SessionMemory]):
    """Reads a record that nobody scores; the outcome is the memory after it."""

    scored = False

    def _result(self, nats: float, scored: int, after: SessionMemory) -> SessionMemory:
        return after


class HopeScoreRequest(Request[ReadOutcome]):
    """Scores `text` after `context` in a new conversation, in nats; a memory of None is the model
    as it was trained. Nothing is learnt and nothing stays.

    Without a context the first token is predicted from the beginning-of-text token; where a model
    has none, it is left out.
    """

    def __init__(
        self, model: HopeModel, memory: SessionMemory | None, context: str, text: str
    ) -> None:
        super().__init__()
        self.model, self.memory = model, memory
        self._context, self._text = context, text

    def _encode(self) -> Iterator[None]:
        self._tokens = yield from score_tokens(self.model.tokenizer, self._context, self._text)

    def _begin(self) -> None:
        model, (before, ids) = self.model, self._tokens
        state = fresh_state(model.config, model.weights, 1)
        if self.memory is not None:
            state = _beginning(model, restore(model, self.memory))
        # Without a segment nothing is gathered, and no boundary is met.
        state = replace(state, segment=None)
        counted = (False,) * len(before) + (True,) * len(ids)
        self._reading = HopeReading(state, before + ids, (False,) * len(counted), score=counted)
        self.chunk = self._reading.chunk

    def _advance(self, output: HopeOutput) -> None:
        self._reading.accept(output)
        self.chunk = self._reading.chunk
        if self.chunk is None:
            self._finish(ReadOutcome(self._reading.nats, self._reading.scored))


def _beginning(model: HopeModel, state: HopeState) -> HopeState:
    """The same memories at the beginning of a conversation."""
    fresh = fresh_context(model.config, model.weights, 1)
    layers = tuple(
        replace(new, fast=new.fast and old.fast and replace(new.fast, banks=old.fast.banks))
        for new, old in zip(fresh.layers, state.context.layers, strict=True)
    )
    context = replace(fresh, written_B=state.context.written_B, layers=layers)
    return replace(state, context=context)


def _learnable(record: Record) -> tuple[bool, ...]:
    return tuple(segment.learnable for segment in record.segments for _ in segment.tokens)
