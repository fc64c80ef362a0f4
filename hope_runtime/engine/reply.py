"""Writes a reply: chooses tokens, hands out text as it becomes certain, and knows when to stop.

Where the scores of the next token come from is the engine's business. Changes nothing but what it
tells `on_text`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from torch import Tensor

from hope_runtime.engine.detokenizer import TextStream
from hope_runtime.engine.prompt import turn_end
from hope_runtime.engine.sampling import Sampler, Sampling, TokenLogprobs, token_logprobs
from hope_runtime.log import Record, Segment, Speaker
from hope_runtime.tokenizer import Tokenizer

_Wanted = TypeVar("_Wanted")
_Given = TypeVar("_Given")


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
class Reply:
    """A finished reply. `piece` is all that was handed out, as one. Of `tokens` the model has read
    all but the last."""

    tokens: tuple[int, ...]
    piece: TextPiece
    reason: FinishReason

    def ends(self, record: Record, tokenizer: Tokenizer) -> Record:
        """The turn's record with the reply, closed as the template would even if it was cut."""
        closed = self.tokens and self.tokens[-1] in tokenizer.eos_ids
        ids = self.tokens if closed else (*self.tokens, *turn_end(tokenizer))
        answer = Segment(Speaker.ASSISTANT, (ids,))
        return replace(record, segments=(*record.segments, answer))


def write(
    tokenizer: Tokenizer,
    sampling: Sampling,
    limit: int,
    logits_V: Tensor,
    extend: Callable[[int], Generator[_Wanted, _Given, Tensor]],
    on_text: OnText,
) -> Generator[_Wanted, _Given, Reply]:
    """At most `limit` tokens, the first of them from `logits_V`, (V,).

    `extend` reads one token and returns the scores of the one after it.
    """
    stream = TextStream(tokenizer.token_bytes, sampling.stop)
    sampler = Sampler(sampling)
    asked = sampling.logprobs
    reply: list[int] = []
    reason = FinishReason.LENGTH
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
            logits_V = yield from extend(token)
    if text := stream.finish():
        hand_out(text)
    whole = TextPiece(
        "".join(piece.text for piece in told),
        sum(piece.tokens for piece in told),
        tuple(each for piece in told for each in piece.logprobs),
    )
    return Reply(tuple(reply), whole, reason)
