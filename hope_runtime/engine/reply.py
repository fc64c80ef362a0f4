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
from hope_runtime.session.log import Record, Segment, Speaker
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


OnText = Callable[[TextPiece], bool | None]
"""Takes text as it is handed out. True asks for the reply to end there."""


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


class Writing:
    """A reply on its way: takes tokens one by one, and hands out text as it becomes certain.

    At most `limit` tokens. Where they come from is the engine's business.
    """

    def __init__(
        self, tokenizer: Tokenizer, sampling: Sampling, limit: int, on_text: OnText
    ) -> None:
        self.tokens: list[int] = []
        self._eos_ids = tokenizer.eos_ids
        self._stream = TextStream(tokenizer.token_bytes, sampling.stop)
        self._limit = limit
        self._on_text = on_text
        self._told: list[TextPiece] = []
        # Of the tokens whose text was not handed out yet.
        self._held: list[TokenLogprobs | None] = []
        self._reason: FinishReason | None = None
        self._asked_to_end = False

    @property
    def room(self) -> int:
        """Tokens that it still takes; none once it has ended."""
        return 0 if self._reason else self._limit - len(self.tokens)

    def push(self, token: int, logprobs: TokenLogprobs | None = None) -> bool:
        """Takes the next token; whether it was the last one."""
        assert self.room, "the reply has already ended"
        self.tokens.append(token)
        if token in self._eos_ids:
            self._reason = FinishReason.STOP
            return True
        self._held.append(logprobs)
        if text := self._stream.push(token):
            self._hand_out(text)
        if self._stream.stopped:
            self._reason = FinishReason.STOP_STRING
        elif len(self.tokens) == self._limit:
            self._reason = FinishReason.LENGTH
        elif self._asked_to_end:
            self._reason = FinishReason.STOP
        return self._reason is not None

    def finish(self) -> Reply:
        """The reply, after its last token. Hands out what was held back."""
        assert self._reason is not None
        if text := self._stream.finish():
            self._hand_out(text)
        whole = TextPiece(
            "".join(piece.text for piece in self._told),
            sum(piece.tokens for piece in self._told),
            tuple(each for piece in self._told for each in piece.logprobs),
        )
        return Reply(tuple(self.tokens), whole, self._reason)

    def _hand_out(self, text: str) -> None:
        logprobs = tuple(each for each in self._held if each is not None)
        self._told.append(TextPiece(text, len(self._held), logprobs))
        self._asked_to_end |= self._on_text(self._told[-1]) is True
        self._held.clear()


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
    writing = Writing(tokenizer, sampling, limit, on_text)
    sampler = Sampler(sampling)
    asked = sampling.logprobs
    while True:
        token = sampler.choose(logits_V, writing.tokens)
        if writing.push(token, None if asked is None else token_logprobs(logits_V, token, asked)):
            return writing.finish()
        logits_V = yield from extend(token)
