"""The engine's work, written as generators that yield what they want computed next.

A generator runs on the engine's thread only, reads an immutable memory, and returns what its turn
found out. It changes nothing but its row, which is a cache; dropping a generator anywhere leaves
no trace, and that is all that cancelling a turn takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from enum import Enum

from hope_runtime.engine.arena import Row
from hope_runtime.engine.detokenizer import TextStream
from hope_runtime.engine.prompt import Message, check_messages, encode_spans, turn_end, turn_record
from hope_runtime.engine.reader import Reader
from hope_runtime.engine.runner import Output, Pass
from hope_runtime.engine.sampling import Sampler, Sampling, TokenLogprobs, token_logprobs
from hope_runtime.errors import InvalidRequestError
from hope_runtime.fold import observe
from hope_runtime.log import Record, Segment, Speaker
from hope_runtime.memory.state import Conversation, SessionMemory
from hope_runtime.memory.window import Window
from hope_runtime.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text of a reply that became certain, the number of tokens behind it, and their
    log-probabilities where they were asked for."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()


OnText = Callable[[TextPiece], None]


class FinishReason(Enum):
    """Why a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    STOP_STRING = "stop_string"


@dataclass(frozen=True, slots=True)
class GenerateTurn:
    """A request for a reply. Raises InvalidRequestError when it cannot be one."""

    conversation: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    learn: bool = True

    def __post_init__(self) -> None:
        check_messages(self.messages)


@dataclass(frozen=True, slots=True)
class GenerateOutcome:
    """A finished reply. `record` is the whole turn for the log; times are in seconds."""

    record: Record
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
    """A piece of a document was read: summed nats of the `scored` tokens of it."""

    nats: float
    scored: int


def place(
    tokenizer: Tokenizer, memory: SessionMemory, turn: GenerateTurn, window_tokens: int
) -> tuple[Record, Window]:
    """The turn's record up to where the model answers, and its window there.

    Raises InvalidRequestError when the turn cannot be read whole.
    """
    record = turn_record(tokenizer, memory, turn.conversation, turn.messages, learn=turn.learn)
    prompt = record.tokens
    known = memory.conversations.get(turn.conversation, Conversation(Window(window_tokens)))
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
    reading = yield from reader.read(row, window.tokens, score=_learnable_indices(window, record))
    prefilled = time.monotonic()
    input_tokens = len(record.tokens)

    stream = TextStream(tokenizer.token_bytes, turn.sampling.stop)
    sampler = Sampler(turn.sampling)
    limit = turn.sampling.max_tokens or max(1, min(DEFAULT_MAX_TOKENS, window.room))
    logits_V = reading.logits
    reply: list[int] = []
    reason = FinishReason.LENGTH
    asked = turn.sampling.logprobs
    told: list[TextPiece] = []
    held: list[TokenLogprobs | None] = []  # of the tokens whose text was not handed out yet

    def hand_out(text: str) -> None:
        logprobs = tuple(each for each in held if each is not None)
        told.append(TextPiece(text, len(held), logprobs))
        on_text(told[-1])
        held.clear()

    while len(reply) < limit:
        token = sampler.choose(logits_V, reply)
        reply.append(token)
        if token in tokenizer.eos_ids:
            reason = FinishReason.STOP
            break
        held.append(None if asked is None else token_logprobs(logits_V, token, asked))
        if text := stream.push(token):
            hand_out(text)
        if stream.stopped:
            reason = FinishReason.STOP_STRING
            break
        if len(reply) < limit:
            longer = window.append((token,))
            if longer.dropped == window.dropped:
                logits_V = yield from reader.extend(row, token)
            else:  # the window hopped: its keys and values are those of another text now
                logits_V = (yield from reader.read(row, longer.tokens)).logits
            window = longer
    if text := stream.finish():
        hand_out(text)
    return GenerateOutcome(
        record=_with_reply(record, tokenizer, reply),
        reply=TextPiece(
            "".join(piece.text for piece in told),
            sum(piece.tokens for piece in told),
            tuple(each for piece in told for each in piece.logprobs),
        ),
        finish_reason=reason,
        input_tokens=input_tokens,
        output_tokens=len(reply),
        surprise_nats=reading.nats / reading.scored if reading.scored else None,
        prefill_seconds=prefilled - started,
        decode_seconds=time.monotonic() - prefilled,
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
        return ReadOutcome(0.0, 0)
    reading = yield from reader.read(row, window.tokens, score=_indices(window, len(record.tokens)))
    return ReadOutcome(reading.nats, reading.scored)


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
    if not text:
        raise InvalidRequestError("There is no text to score.", field="text")
    before = tuple(t for span in encode_spans(tokenizer, context) for t in span)
    ids = tuple(t for span in encode_spans(tokenizer, text) for t in span)
    if not before and tokenizer.bos_id is not None:
        before = (tokenizer.bos_id,)
    if len(before) + len(ids) > window_tokens:
        raise InvalidRequestError(
            f"Context and text take {len(before) + len(ids)} tokens; "
            f"the window holds {window_tokens}.",
            field="text",
        )
    reader.bind(row, memory)
    reading = yield from reader.read(row, before + ids, score=range(len(before), len(before + ids)))
    return ReadOutcome(reading.nats, reading.scored)


def _indices(window: Window, count: int) -> range:
    """Where the last `count` tokens of the stream stand in the window, as far as they are there."""
    size = len(window.tokens)
    return range(max(0, size - count), size)


def _learnable_indices(window: Window, record: Record) -> list[int]:
    """Where the learnable tokens of the record that was appended last stand in the window."""
    flags = [segment.learnable for segment in record.segments for _ in segment.tokens]
    return [index for index in _indices(window, len(flags)) if flags[index - len(window.tokens)]]


def _with_reply(record: Record, tokenizer: Tokenizer, reply: list[int]) -> Record:
    """The turn's record with the reply, closed as the template would even if it was cut."""
    closed = reply and reply[-1] in tokenizer.eos_ids
    ids = reply if closed else [*reply, *turn_end(tokenizer)]
    answer = Segment(Speaker.ASSISTANT, (tuple(ids),))
    return replace(record, segments=(*record.segments, answer))
