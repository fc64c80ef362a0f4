"""Turns on vLLM, written as generators that yield the requests they want made.

A generator yields `Ask` for a request and gets its pieces one by one, yielding None for the next;
after the last piece of a request it asks for another one or returns. What it leaves unfinished by
returning is ended by whoever runs it. Nothing is kept: a request can begin anywhere in a reply, as
the window's token ids say all.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hope_runtime.engine.reply import OnText, ReplyBuilder
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import (
    GenerateOutcome,
    GenerateTurn,
    ReadOutcome,
    last_indices,
    learnable_indices,
    outcome_of,
    place,
    reply_limit,
    score_tokens,
)
from hope_runtime.engine.vllm.messages import Piece
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.window import Window
from hope_runtime.steps import at_once
from hope_runtime.tokenizer import Tokenizer

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: see messages.Begin. `ids` are the tokens of its window."""

    ids: tuple[int, ...]
    max_tokens: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    reply: tuple[int, ...] = ()
    score: tuple[int, ...] = ()
    afresh: bool = False


Work = Generator[Ask | None, Piece, _Result]


def generate(
    tokenizer: Tokenizer,
    memory: SessionMemory,
    turn: GenerateTurn,
    window_tokens: int,
    on_text: OnText,
) -> Work[GenerateOutcome]:
    """Read the prompt and decodes a reply, handing out text as it becomes certain."""
    started = time.monotonic()
    record, window = place(tokenizer, memory, turn, window_tokens)
    prompt = window.tokens
    score = _predicted(learnable_indices(window, record))
    output = ReplyBuilder(tokenizer, turn.sampling, reply_limit(turn, window), on_text)
    scores: tuple[float | None, ...] | None = None
    prefilled = None
    while not output.ended:
        # The token that no longer fits makes the window hop, and what follows is another text.
        most = min(output.room, window.room + 1)
        first = not output.tokens
        piece = yield Ask(
            window.tokens,
            most,
            turn.sampling,
            tuple(output.tokens),
            score if first and scores is None else (),
        )
        while True:
            scores = scores or piece.scores
            if prefilled is None and piece.tokens:
                prefilled = time.monotonic()
            for index, token in enumerate(piece.tokens):
                output.push(token, piece.logprobs[index] if piece.logprobs else None)
                if output.ended:
                    break
                window = window.append((token,))
            if output.ended or piece.ended:
                break
            piece = yield None
    reply = output.finish()
    finished = time.monotonic()
    nats, scored = yield from _complete(prompt, score, scores)
    prefilled = prefilled or finished
    return outcome_of(
        memory,
        record,
        reply,
        tokenizer,
        window_tokens,
        surprise_nats=nats / scored if scored else None,
        prefill_seconds=prefilled - started,
        decode_seconds=finished - prefilled,
    )


def read_record(memory: SessionMemory, record: Record, window_tokens: int) -> Work[ReadOutcome]:
    """Scores a document's record in its conversation's window."""
    after = observe(memory, record, window_tokens=window_tokens)
    window: Window = after.conversations[record.conversation].window
    if not window.tokens:
        return ReadOutcome(0.0, 0, after)
    indices = last_indices(window, len(record.tokens))
    nats, scored = yield from _score(window.tokens, _predicted(indices))
    return ReadOutcome(nats, scored, after)


def score(tokenizer: Tokenizer, context: str, text: str, window_tokens: int) -> Work[ReadOutcome]:
    """Summed nats of `text` after `context`, as engine/turn.py has it."""
    before, ids = at_once(score_tokens(tokenizer, context, text, window_tokens))
    indices = range(len(before), len(before) + len(ids))
    nats, scored = yield from _score(before + ids, _predicted(indices))
    return ReadOutcome(nats, scored)


def _score(tokens: tuple[int, ...], score: tuple[int, ...]) -> Work[tuple[float, int]]:
    if not score:
        return 0.0, 0
    piece = yield Ask(tokens, score=score)
    scores = piece.scores
    while not piece.ended:
        piece = yield None
        scores = scores or piece.scores
    return (yield from _complete(tokens, score, scores))


def _complete(
    tokens: tuple[int, ...], score: tuple[int, ...], scores: tuple[float | None, ...] | None
) -> Work[tuple[float, int]]:
    """Summed nats and count of what was to be scored.

    A text that was read before, as when a turn is asked again after it was cancelled, has its keys
    and values there already, and what was not computed was not scored.
    """
    if not score:
        return 0.0, 0
    if scores is None or None in scores:
        piece = yield Ask(tokens, score=score, afresh=True)
        scores = piece.scores
        while not piece.ended:
            piece = yield None
            scores = scores or piece.scores
    known = [logprob for logprob in scores or () if logprob is not None]
    assert len(known) == len(score), "everything was computed afresh"
    return -sum(known), len(known)


def _predicted(indices: Sequence[int]) -> tuple[int, ...]:
    """Nothing predicts the first token of a window."""
    return tuple(index for index in indices if index)
