"""Turns of a native model, written as generators that yield what they want read next.

As in turn.py a generator reads an immutable memory and returns what its turn found out; dropping it
leaves no trace. Here reading is learning: the state that a pass returns holds what was written.
Every token of a record is read exactly once, in order, so the state after a turn is a function of
the record, and folding the log again gives the same one.

Shape suffixes: T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.engine.prompt import encode_spans
from hope_runtime.engine.reply import OnText, write
from hope_runtime.engine.turn import (
    DEFAULT_MAX_TOKENS,
    GenerateOutcome,
    GenerateTurn,
    ReadOutcome,
    prompt_record,
)
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.hope.batch import Batch
from hope_runtime.models.hope.model import fresh_context
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.session import enter, remember, restore
from hope_runtime.models.hope.state import HopeState, fresh_state, has_room
from hope_runtime.models.hope.stream import observe as stream
from hope_runtime.session.fold import continued, observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory

_Result = TypeVar("_Result")

# Tokens of one pass; a reply waits for one pass of somebody else's text at most.
CHUNK_TOKENS = 64


@dataclass(frozen=True, slots=True, eq=False)
class HopeForwardChunk:
    """Tokens that a state reads next, and which of them it may learn from."""

    state: HopeState
    ids: tuple[int, ...]
    learn: tuple[bool, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HopeOutput:
    """Scores of the token after each, (T, V), and the state after the last one."""

    logits_TV: Tensor
    state: HopeState


Work = Generator[HopeForwardChunk, HopeOutput, _Result]


def run(model: HopeModel, wanted: HopeForwardChunk) -> HopeOutput:
    """Computes one pass, its row alone: so levels do not depend on what else is served, in no bit.
    Raises DivergedStateError when learning would make the memory unusable."""
    logits_BTV, state = stream(
        model.config,
        model.weights,
        torch.tensor([wanted.ids], device=model.device),
        wanted.state,
        learn_BT=torch.tensor([wanted.learn]),
    )
    return HopeOutput(logits_BTV[0], state)


def is_reply(model: HopeModel, wanted: HopeForwardChunk) -> bool:
    """Whether a pass reads a token of a reply and nothing is learnt at it."""
    return wanted.learn == (False,) and has_room(model.config, wanted.state)


def run_together(batch: Batch, passes: Sequence[HopeForwardChunk]) -> list[HopeOutput]:
    """Computes passes for which `is_reply` holds as one batch."""
    states = [one.state for one in passes]
    logits_BV, after = batch.read(states, [one.ids[0] for one in passes])
    rows = zip(logits_BV[:, None], after, strict=True)
    return [HopeOutput(logits_1V, state) for logits_1V, state in rows]


@dataclass(frozen=True, slots=True)
class _Reading:
    """The state after tokens, the scores (V,) of the next one, and summed nats of those scored."""

    state: HopeState
    logits_V: Tensor
    nats: float
    scored: int


def prompt(model: HopeModel, memory: SessionMemory, turn: GenerateTurn) -> Record:
    """The turn's record up to where the model answers. Raises InvalidRequestError."""
    return prompt_record(model.tokenizer, memory, turn)


def generate(
    model: HopeModel, memory: SessionMemory, turn: GenerateTurn, on_text: OnText
) -> Work[GenerateOutcome]:
    """Reads the prompt, learning from what the user says, and writes a reply."""
    started = time.monotonic()
    record = prompt(model, memory, turn)
    input_tokens = len(record.tokens)
    memory = enter(model, continued(memory, record), turn.conversation)
    flags = _learnable(record)
    reading = yield from _read(restore(model, memory), record.tokens, flags, score=flags)
    prefilled = time.monotonic()
    state, read = reading.state, 0

    def extend(token: int) -> Work[Tensor]:
        nonlocal state, read
        output = yield HopeForwardChunk(state, (token,), (False,))
        state, read = output.state, read + 1
        return output.logits_TV[-1]

    limit = turn.sampling.max_tokens or DEFAULT_MAX_TOKENS
    reply = yield from write(
        model.tokenizer, turn.sampling, limit, reading.logits_V, extend, on_text
    )
    record = reply.ends(record, model.tokenizer)
    # The reply's last token, and what the template closes it with.
    rest = record.tokens[input_tokens + read :]
    if rest:
        state = (yield from _read(state, rest, (False,) * len(rest))).state
    return GenerateOutcome(
        record=record,
        memory=remember(model, memory, record, state),
        reply=reply.piece,
        finish_reason=reply.reason,
        input_tokens=input_tokens,
        output_tokens=len(reply.tokens),
        surprise_nats=reading.nats / reading.scored if reading.scored else None,
        prefill_seconds=prefilled - started,
        decode_seconds=time.monotonic() - prefilled,
    )


def read_record(
    model: HopeModel, memory: SessionMemory, record: Record, *, scored: bool = True
) -> Work[ReadOutcome]:
    """Reads a record of the log, learning from what it may learn from, and scores its tokens.

    The first one is left out: what predicts it was read before this turn.
    """
    if not record.tokens:
        return ReadOutcome(0.0, 0, observe(memory, record, window_tokens=None))
    memory = enter(model, continued(memory, record), record.conversation)
    flags = _learnable(record)
    state = restore(model, memory)
    reading = yield from _read(state, record.tokens, flags, score=(scored,) * len(flags))
    after = remember(model, memory, record, reading.state)
    return ReadOutcome(reading.nats, reading.scored, after)


def observe_record(model: HopeModel, memory: SessionMemory, record: Record) -> Work[SessionMemory]:
    """The memory after a record of the log."""
    outcome = yield from read_record(model, memory, record, scored=False)
    assert outcome.memory is not None
    return outcome.memory


def score(
    model: HopeModel, memory: SessionMemory | None, context: str, text: str
) -> Work[ReadOutcome]:
    """Summed nats of `text` after `context` in a new conversation; a memory of None is the model
    as it was trained. Nothing is learnt and nothing stays.

    Without a context the first token is predicted from the beginning-of-text token; where a model
    has none, it is left out.
    """
    tokenizer = model.tokenizer
    if not text:
        raise InvalidRequestError(
            "there is no text to score: text must have at least one token after its context",
            field="text",
        )
    before = tuple(t for span in encode_spans(tokenizer, context) for t in span)
    ids = tuple(t for span in encode_spans(tokenizer, text) for t in span)
    if not before and tokenizer.bos_id is not None:
        before = (tokenizer.bos_id,)
    state = fresh_state(model.config, model.weights, 1)
    if memory is not None:
        state = _beginning(model, restore(model, memory))
    # Without a segment nothing is gathered, and no boundary is met.
    state = replace(state, segment=None)
    counted = (False,) * len(before) + (True,) * len(ids)
    reading = yield from _read(state, before + ids, (False,) * len(counted), score=counted)
    return ReadOutcome(reading.nats, reading.scored)


def _beginning(model: HopeModel, state: HopeState) -> HopeState:
    """The same memories at the beginning of a conversation."""
    fresh = fresh_context(model.config, model.weights, 1)
    layers = tuple(
        replace(new, fast=new.fast and old.fast and replace(new.fast, banks=old.fast.banks))
        for new, old in zip(fresh.layers, state.context.layers, strict=True)
    )
    context = replace(fresh, written_B=state.context.written_B, layers=layers)
    return replace(state, context=context)


def _read(
    state: HopeState,
    ids: Sequence[int],
    learn: Sequence[bool],
    *,
    score: Sequence[bool] = (),
) -> Work[_Reading]:
    """Reads tokens pass by pass. Scores those that `score` marks, but never the first."""
    nats, scored = 0.0, 0
    last_V: Tensor | None = None
    for start in range(0, len(ids), CHUNK_TOKENS):
        stop = min(start + CHUNK_TOKENS, len(ids))
        output = yield HopeForwardChunk(state, tuple(ids[start:stop]), tuple(learn[start:stop]))
        state, logits_TV = output.state, output.logits_TV
        if chosen := [at for at in range(max(start, 1), stop) if score and score[at]]:
            # Row i of these predicts the token at index `origin + i`.
            made_TV = logits_TV if last_V is None else torch.cat([last_V[None], logits_TV])
            origin = start + 1 if last_V is None else start
            rows_TV = made_TV[torch.tensor(chosen, dtype=torch.int64) - origin]
            wanted = torch.tensor([ids[at] for at in chosen], dtype=torch.int64)
            nats += float(nnf.cross_entropy(rows_TV.float(), wanted, reduction="sum"))
            scored += len(chosen)
        last_V = logits_TV[-1]
    assert last_V is not None, "there is something to read"
    return _Reading(state, last_V, nats, scored)


def _learnable(record: Record) -> tuple[bool, ...]:
    return tuple(segment.learnable for segment in record.segments for _ in segment.tokens)
