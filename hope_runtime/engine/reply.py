"""Replies: choosing tokens, releasing text as it becomes certain, and knowing when to stop.

Where the logits of the next token come from is the engine's business. Changes nothing but what it
hands to `on_text`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from hope_runtime.engine.detokenizer import TextStream
from hope_runtime.engine.prompt import turn_end
from hope_runtime.engine.sampling import Sampler, Sampling, TokenLogprobs, token_logprobs
from hope_runtime.session.log import Record, Segment, Speaker
from hope_runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text of a reply that became certain, the number of its tokens, and their log-probabilities
    where they were asked for."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()


OnText = Callable[[TextPiece], bool | None]
"""Takes text as it is handed out. True asks for the reply to end there."""


class FinishReason(Enum):
    """Reason for the end of a reply: the model's end token or a reader who asked for it, the limit,
    or a stop string."""

    STOP = "stop"
    LENGTH = "length"
    STOP_STRING = "stop_string"


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply. `piece` is all text that was released, as one. The model has read all of
    `tokens` but the last."""

    tokens: tuple[int, ...]
    piece: TextPiece
    reason: FinishReason

    def ends(self, record: Record, tokenizer: Tokenizer) -> Record:
        """The turn's record with the reply, closed as the template would, even if it was cut."""
        closed = self.tokens and self.tokens[-1] in tokenizer.eos_ids
        ids = self.tokens if closed else (*self.tokens, *turn_end(tokenizer))
        answer = Segment(Speaker.ASSISTANT, (ids,))
        return replace(record, segments=(*record.segments, answer))


class ReplyBuilder:
    """A reply under construction: takes tokens one by one, at most `limit`, and releases text.

    `choose` samples the next token from its logits; an engine that samples elsewhere gives its
    tokens to `push`.
    """

    def __init__(
        self, tokenizer: Tokenizer, sampling: Sampling, limit: int, on_text: OnText
    ) -> None:
        self.tokens: list[int] = []
        self._eos_ids = tokenizer.eos_ids
        self._stream = TextStream(tokenizer.token_bytes, sampling.stop)
        self.sampler = Sampler(sampling)
        self._logprobs = sampling.logprobs
        self._limit = limit
        self._on_text = on_text
        self._released: list[TextPiece] = []
        # Log-probabilities of the tokens whose text was not released yet.
        self._held: list[TokenLogprobs | None] = []
        self._reason: FinishReason | None = None
        self._asked_to_end = False

    @property
    def ended(self) -> bool:
        """Whether the last token was taken."""
        return self._reason is not None

    @property
    def room(self) -> int:
        """Tokens that it still takes; 0 once it has ended."""
        return 0 if self._reason else self._limit - len(self.tokens)

    def choose(self, logits_V: Tensor, token: int | None = None) -> int:
        """Sample the next token from its logits, (V,), and take it; see Sampler.choose."""
        token = self.sampler.choose(logits_V, self.tokens, token)
        asked = self._logprobs
        self.push(token, None if asked is None else token_logprobs(logits_V, token, asked))
        return token

    def push(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Take the next token and release the text that it makes certain."""
        assert self.room, "the reply has already ended"
        self.tokens.append(token)
        if token in self._eos_ids:
            self._reason = FinishReason.STOP
            return
        self._held.append(logprobs)
        if text := self._stream.push(token):
            self._release(text)
        if self._stream.stopped:
            self._reason = FinishReason.STOP_STRING
        elif len(self.tokens) == self._limit:
            self._reason = FinishReason.LENGTH
        elif self._asked_to_end:
            self._reason = FinishReason.STOP

    def finish(self) -> Reply:
        """The reply, once it has ended. Releases the text that was held back."""
        assert self._reason is not None
        if text := self._stream.finish():
            self._release(text)
        whole = TextPiece(
            "".join(piece.text for piece in self._released),
            sum(piece.tokens for piece in self._released),
            tuple(each for piece in self._released for each in piece.logprobs),
        )
        return Reply(tuple(self.tokens), whole, self._reason)

    def _release(self, text: str) -> None:
        asked = self._logprobs is not None
        logprobs = tuple(each for each in self._held if each is not None) if asked else ()
        self._released.append(TextPiece(text, len(self._held), logprobs))
        self._asked_to_end |= self._on_text(self._released[-1]) is True
        self._held.clear()
