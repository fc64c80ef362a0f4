"""The engine's work, written as generators that yield what they want computed next.

A generator runs on the engine's thread only, reads an immutable memory, and returns what its turn
found out. It changes nothing but its row, which is a cache; dropping a generator anywhere leaves
no trace, and that is all that cancelling a turn takes.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace

from torch import Tensor

from hope_runtime.engine.kv_slots import Row
from hope_runtime.engine.prompt import (
    Message,
    check_messages,
    encode_spans,
    text_record,
    turn_record,
)
from hope_runtime.engine.reply import FinishReason, OnText, Reply, TextPiece, write
from hope_runtime.engine.runner import Output, Pass
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.window_reader import Reader
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.fold import continued, observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import Conversation, SessionMemory
from hope_runtime.session.window import Window
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
    """A finished reply. `record` is the whole turn for the log, `memory` what the session knows
    after it, with nothing learnt that it made due; times are in seconds."""

    record: Record
    memory: SessionMemory
    # All the text that was handed out, as one piece.
    reply: TextPiece
    finish_reason: FinishReason
    input_tokens: int
    output_tokens: int
    surprise_nats: float | None
    prefill_seconds: float
    decode_seconds: float

    @property
    def text(self) -> str:
        return self.reply.text


@dataclass(frozen=True, slots=True)
class ReadOutcome:
    """A text was read: summed nats of the `scored` tokens of it. `memory` is what the session knows
    after it, with nothing learnt that it made due; None when nothing was meant to stay."""

    nats: float
    scored: int
    memory: SessionMemory | None = None


def prompt_record(tokenizer: Tokenizer, memory: SessionMemory, turn: GenerateTurn) -> Record:
    """The turn's record up to where the model answers. Raises InvalidRequestError."""
    name = turn.conversation
    if turn.plain:
        (message,) = turn.messages
        fresh = turn.fresh and name in memory.conversations
        record = text_record(tokenizer, name, message.content, learn=turn.learn, fresh=fresh)
    else:
        record = turn_record(
            tokenizer, memory, name, turn.messages, learn=turn.learn, fresh=turn.fresh
        )
    return replace(record, taught=turn.taught, resume=turn.resume)


def place(
    tokenizer: Tokenizer, memory: SessionMemory, turn: GenerateTurn, window_tokens: int
) -> tuple[Record, Window]:
    """The turn's record up to where the model answers, and its window there.

    Raises InvalidRequestError when the turn cannot be read whole.
    """
    record = prompt_record(tokenizer, memory, turn)
    prompt = record.tokens
    known = continued(memory, record).conversations.get(
        turn.conversation, Conversation(Window(window_tokens))
    )
    pinned = known.window.pin(prompt[: record.pinned])
    pinned.check_fits(len(prompt) - record.pinned)
    return record, pinned.append(prompt[record.pinned :])


def generate(
    reader: Reader,
    tokenizer: Tokenizer,
    row: Row,
    memory: SessionMemory,
    turn: GenerateTurn,
    window_tokens: int,
    on_text: OnText,
) -> Generator[Pass, Output, GenerateOutcome]:
    """Reads the prompt and decodes a reply, handing out text as it becomes certain."""
    started = time.monotonic()
    record, window = place(tokenizer, memory, turn, window_tokens)
    reader.bind(row, memory)
    reading = yield from reader.read(row, window.tokens, score=learnable_indices(window, record))
    prefilled = time.monotonic()

    def extend(token: int) -> Generator[Pass, Output, Tensor]:
        nonlocal window
        longer = window.append((token,))
        hopped, window = longer.dropped != window.dropped, longer
        if hopped:  # its keys and values are those of another text now
            return (yield from reader.read(row, longer.tokens)).logits
        return (yield from reader.extend(row, token))

    limit = reply_limit(turn, window)
    reply = yield from write(tokenizer, turn.sampling, limit, reading.logits, extend, on_text)
    return outcome_of(
        memory,
        record,
        reply,
        tokenizer,
        window_tokens,
        surprise_nats=reading.nats / reading.scored if reading.scored else None,
        prefill_seconds=prefilled - started,
        decode_seconds=time.monotonic() - prefilled,
    )


def reply_limit(turn: GenerateTurn, window: Window) -> int:
    """The most tokens that the turn's reply may have; `window` is the one it begins behind."""
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
    """What became of a turn whose record ended where the model answered."""
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


def read_record(
    reader: Reader, row: Row, memory: SessionMemory, record: Record, window_tokens: int
) -> Generator[Pass, Output, ReadOutcome]:
    """Reads a document's record into its conversation's window, scoring its tokens.

    The row then holds the window as it is after the record was observed. A record longer than
    half a window is scored from where the window begins.
    """
    reader.bind(row, memory)
    after = observe(memory, record, window_tokens=window_tokens)
    window = after.conversations[record.conversation].window
    if not window.tokens:
        return ReadOutcome(0.0, 0, after)
    reading = yield from reader.read(
        row, window.tokens, score=last_indices(window, len(record.tokens))
    )
    return ReadOutcome(reading.nats, reading.scored, after)


def score(
    reader: Reader,
    tokenizer: Tokenizer,
    row: Row,
    memory: SessionMemory | None,
    context: str,
    text: str,
    window_tokens: int,
) -> Generator[Pass, Output, ReadOutcome]:
    """Summed nats of `text` after `context`; a memory of None is the frozen base model.

    Every token of the text is scored. Without a context, the first is predicted from the
    beginning-of-text token; where a model has none, it is left out.
    """
    before, ids = score_tokens(tokenizer, context, text, window_tokens)
    reader.bind(row, memory)
    reading = yield from reader.read(row, before + ids, score=range(len(before), len(before + ids)))
    return ReadOutcome(reading.nats, reading.scored)


def score_tokens(
    tokenizer: Tokenizer, context: str, text: str, window_tokens: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens of the context, or what stands for none, and of the text that is scored.

    Raises InvalidRequestError when there is no text, or when the window does not hold both.
    """
    if not text:
        raise InvalidRequestError(
            "there is no text to score: text must have at least one token after its context",
            field="text",
        )
    before = tuple(t for span in encode_spans(tokenizer, context) for t in span)
    ids = tuple(t for span in encode_spans(tokenizer, text) for t in span)
    if not before and tokenizer.bos_id is not None:
        before = (tokenizer.bos_id,)
    if len(before) + len(ids) > window_tokens:
        raise InvalidRequestError(
            f"context and text have {len(before) + len(ids)} tokens together, but the window has "
            f"only {window_tokens}; score a shorter text",
            field="text",
        )
    return before, ids


def last_indices(window: Window, count: int) -> range:
    """Where the last `count` tokens of the stream stand in the window, as far as they are there."""
    size = len(window.tokens)
    return range(max(0, size - count), size)


def learnable_indices(window: Window, record: Record) -> list[int]:
    """Where the learnable tokens of the record that was appended last stand in the window."""
    flags = [segment.learnable for segment in record.segments for _ in segment.tokens]
    return [
        index for index in last_indices(window, len(flags)) if flags[index - len(window.tokens)]
    ]
