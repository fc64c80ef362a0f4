"""Turns: requests as callers state them, outcomes as they get them, and the texts between.

Computes nothing; request.py moves a turn along.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace

from hope_runtime.engine.prompt import (
    Message,
    check_messages,
    encode_in_steps,
    text_record_in_steps,
    turn_record_in_steps,
)
from hope_runtime.engine.reply import FinishReason, Reply, TextPiece
from hope_runtime.engine.sampling import Sampling
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import Conversation, SessionMemory
from hope_runtime.session.window import Window
from hope_runtime.steps import at_once
from hope_runtime.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class GenerateTurn:
    """A request for a reply. Raises InvalidRequestError when it cannot be one.

    `fresh` begins the conversation's window anew. `plain` goes on with the text of its one message
    as it stands, without the chat template. `taught` and `resume` become part of the turn's record
    (session/log.py).
    """

    conversation: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    learn: bool = True
    fresh: bool = False
    plain: bool = False
    taught: tuple[bytes, ...] = ()
    resume: bytes = b""

    def __post_init__(self) -> None:
        check_messages(self.messages)


@dataclass(frozen=True, slots=True)
class GenerateOutcome:
    """A finished reply. `record` is the whole turn for the log, `memory` the session after it,
    before any consolidation that it made due; times are in seconds."""

    record: Record
    memory: SessionMemory
    # All the text that was released, as one piece.
    reply: TextPiece
    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int
    surprise_nats: float | None
    prefill_seconds: float
    decode_seconds: float

    @property
    def text(self) -> str:
        """Text of the reply."""
        return self.reply.text


@dataclass(frozen=True, slots=True)
class ReadOutcome:
    """A text that was read: summed nats of its `scored` tokens. `memory` is the session after it,
    before any consolidation that it made due; None when nothing was meant to stay."""

    nats: float
    scored: int
    memory: SessionMemory | None = None


def prompt_in_steps(
    tokenizer: Tokenizer,
    memory: SessionMemory,
    turn: GenerateTurn,
    most_tokens: int | None = None,
) -> Generator[None, None, Record]:
    """The turn's record up to where the model answers; yields between bounded parts of encoding.

    Raises InvalidRequestError, and WindowOverflowError for more than `most_tokens`.
    """
    if turn.plain:
        (message,) = turn.messages
        record = yield from text_record_in_steps(
            tokenizer,
            memory,
            turn.conversation,
            message.content,
            learn=turn.learn,
            fresh=turn.fresh,
            most_tokens=most_tokens,
        )
    else:
        record = yield from turn_record_in_steps(
            tokenizer,
            memory,
            turn.conversation,
            turn.messages,
            learn=turn.learn,
            fresh=turn.fresh,
            most_tokens=most_tokens,
        )
    return replace(record, taught=turn.taught, resume=turn.resume)


def place(
    tokenizer: Tokenizer, memory: SessionMemory, turn: GenerateTurn, window_tokens: int
) -> tuple[Record, Window]:
    """Result of `place_in_steps`, at once."""
    return at_once(place_in_steps(tokenizer, memory, turn, window_tokens))


def place_in_steps(
    tokenizer: Tokenizer, memory: SessionMemory, turn: GenerateTurn, window_tokens: int
) -> Generator[None, None, tuple[Record, Window]]:
    """The turn's record up to where the model answers, and its window there; yields between bounded
    parts of encoding.

    Raises InvalidRequestError when the turn cannot be read whole.
    """
    known = memory.conversations.get(turn.conversation)
    if known is None or turn.fresh:
        known = Conversation(Window(window_tokens))
    record = yield from prompt_in_steps(tokenizer, memory, turn, known.window.capacity)
    prompt = record.tokens
    pinned = known.window.pin(prompt[: record.pinned])
    pinned.check_fits(len(prompt) - record.pinned)
    return record, pinned.append(prompt[record.pinned :])


def reply_limit(turn: GenerateTurn, window: Window) -> int:
    """Limit of the reply's tokens; `window` is the one that the reply begins behind."""
    return turn.sampling.max_tokens or max(1, min(DEFAULT_MAX_TOKENS, window.room))


def outcome_of(
    memory: SessionMemory,
    prompt: Record,
    reply: Reply,
    tokenizer: Tokenizer,
    window_tokens: int,
    *,
    surprise_nats: float | None,
    prefill_seconds: float,
    decode_seconds: float,
) -> GenerateOutcome:
    """Outcome of a turn whose record `prompt` ended where the model answers."""
    record = reply.ends(prompt, tokenizer)
    return GenerateOutcome(
        record=record,
        memory=observe(memory, record, window_tokens=window_tokens),
        reply=reply.piece,
        finish_reason=reply.reason,
        input_tokens=len(prompt.tokens),
        output_tokens=len(reply.tokens),
        surprise_nats=surprise_nats,
        prefill_seconds=prefill_seconds,
        decode_seconds=decode_seconds,
    )


def score_tokens(
    tokenizer: Tokenizer, context: str, text: str, window_tokens: int | None = None
) -> Generator[None, None, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokens of the context and of the text that is scored; without a context, the
    beginning-of-text token stands for it where the model has one. Yields between bounded parts of
    encoding.

    Raises InvalidRequestError when there is no text, or when the window does not hold both.
    """
    if not text:
        raise InvalidRequestError(
            "there is no text to score: text must have at least one token after its context",
            field="text",
        )
    most = math.inf if window_tokens is None else window_tokens

    def encoded(part: str, before: int) -> Generator[None, None, tuple[int, ...]]:
        spans: list[tuple[int, ...]] = []
        for tokens in encode_in_steps(tokenizer, part, spans):
            if before + tokens > most:
                break
            yield
        ids = tuple(token for span in spans for token in span)
        if before + len(ids) > most:
            raise InvalidRequestError(
                f"context and text together exceed the window of {window_tokens} tokens; "
                "score a shorter text",
                field="text",
            )
        return ids

    before = yield from encoded(tokenizer.opening(context), 0)
    if not before and tokenizer.bos_id is not None:
        before = (tokenizer.bos_id,)
    ids = yield from encoded(text if context else tokenizer.opening(text), len(before))
    return before, ids


def last_indices(window: Window, count: int) -> range:
    """Indices in the window of the last `count` tokens of the stream, as far as they are there."""
    size = len(window.tokens)
    return range(max(0, size - count), size)


def learnable_indices(window: Window, record: Record) -> list[int]:
    """Indices in the window of the learnable tokens of `record`, which was appended last."""
    flags = [segment.learnable for segment in record.segments for _ in segment.tokens]
    return [
        index for index in last_indices(window, len(flags)) if flags[index - len(window.tokens)]
    ]
