"""Replies in the shapes of OpenAI's API: chunks of a stream, or one object.

The bytes of a stream are fixed by what clients parse: one chunk with the role, `choices[0]` always
there, a last one with the reason, and usage apart where it was asked for.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hope_runtime.engine.reply import FinishReason
from server.app.events import Finished, TextDelta, TokenLogprob, TokenLogprobs, Usage
from server.http_api.errors import HttpError

DONE = b"data: [DONE]\n\n"


def data_event(content: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + _json(content) + b"\n\n"


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class About:
    """Origin of an answer, as it says beside its text."""

    model: str
    fingerprint: str
    # Full name of the session, and its conversation; None without one.
    session: str | None = None
    conversation: str | None = None
    usage_in_stream: bool = False


@dataclass(slots=True)
class Shape:
    """One answer. `begin` comes first, when the version of the memory is known or once waiting has
    taken long."""

    about: About
    kind = ""
    prefix = ""
    id: str = field(init=False)
    created: int = field(init=False)
    version: int | None = None

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())

    # A stream

    def first(self) -> bytes:
        """The chunk that opens a stream."""
        raise NotImplementedError

    def delta(self, delta: TextDelta) -> bytes:
        """A chunk with more text."""
        raise NotImplementedError

    def last(self, finished: Finished) -> bytes:
        """The chunk with the reason, and what follows it."""
        choice = self._chunk_choice(None, reason=finish_reason(finished))
        found = data_event(self._chunk([choice], hope=self._hope(finished)))
        if self.about.usage_in_stream:
            found += data_event(self._chunk([], usage=usage_of(finished.usage)))
        return found + DONE

    def failed(self, refusal: HttpError) -> bytes:
        """The end of a stream whose turn has failed."""
        return data_event(refusal.body)

    def _chunk_choice(
        self, delta: TextDelta | None, *, reason: str | None = None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def _head(self, kind: str) -> dict[str, Any]:
        version = "" if self.version is None else f"-m{self.version}"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.about.model,
            "system_fingerprint": f"hope-{self.about.fingerprint[:8]}{version}",
        }

    def _chunk(
        self, choices: list[dict[str, Any]], usage: Any = None, **more: Any
    ) -> dict[str, Any]:
        chunk = self._head(f"{self.kind}{'.chunk' if self.prefix == 'chatcmpl' else ''}")
        chunk["choices"] = choices
        if self.about.usage_in_stream:
            chunk["usage"] = usage
        return chunk | more

    # One object

    def whole(self, delta: TextDelta, finished: Finished) -> bytes:
        """The answer at once; `delta` is all of its text."""
        choice = self._whole_choice(delta, finish_reason(finished))
        head = self._head(self.kind)
        return _json(
            head
            | {
                "choices": [choice],
                "usage": usage_of(finished.usage),
                "hope": self._hope(finished),
            }
        )

    def _whole_choice(self, delta: TextDelta, reason: str) -> dict[str, Any]:
        raise NotImplementedError

    def _hope(self, finished: Finished) -> dict[str, Any]:
        return {
            "session": self.about.session,
            "conversation": self.about.conversation,
            "memory_version": finished.usage.memory_version,
            "learnable_tokens": finished.usage.learnable_tokens,
            "surprise_nats": finished.usage.surprise_nats,
            "replayed": finished.replayed,
            "learning": finished.learning,
        }


class ChatShape(Shape):
    """Answers of /v1/chat/completions."""

    kind = "chat.completion"
    prefix = "chatcmpl"

    def first(self) -> bytes:
        role = {"role": "assistant", "content": ""}
        return data_event(self._chunk([self._choice(role, None, None)]))

    def delta(self, delta: TextDelta) -> bytes:
        return data_event(self._chunk([self._chunk_choice(delta)]))

    def _chunk_choice(
        self, delta: TextDelta | None, *, reason: str | None = None
    ) -> dict[str, Any]:
        content = {} if delta is None else {"content": delta.text}
        return self._choice(content, delta, reason)

    def _choice(
        self, content: dict[str, str], delta: TextDelta | None, reason: str | None
    ) -> dict[str, Any]:
        logprobs = _chat_logprobs(delta.logprobs) if delta else None
        return {"index": 0, "delta": content, "logprobs": logprobs, "finish_reason": reason}

    def _whole_choice(self, delta: TextDelta, reason: str) -> dict[str, Any]:
        return {
            "index": 0,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": _chat_logprobs(delta.logprobs),
            "finish_reason": reason,
        }


@dataclass(slots=True)
class CompletionShape(Shape):
    """Answers of /v1/completions. `echo` is the prompt where it is asked for again."""

    kind = "text_completion"
    prefix = "cmpl"
    echo: str = ""
    # Characters before the next token, which its log-probabilities name.
    _offset: int = 0

    def first(self) -> bytes:
        return data_event(self._chunk([self._choice(self.echo, (), None)])) if self.echo else b""

    def delta(self, delta: TextDelta) -> bytes:
        return data_event(self._chunk([self._chunk_choice(delta)]))

    def _chunk_choice(
        self, delta: TextDelta | None, *, reason: str | None = None
    ) -> dict[str, Any]:
        return self._choice(delta.text if delta else "", delta.logprobs if delta else (), reason)

    def _whole_choice(self, delta: TextDelta, reason: str) -> dict[str, Any]:
        return self._choice(self.echo + delta.text, delta.logprobs, reason)

    def _choice(
        self, text: str, logprobs: Sequence[TokenLogprobs], reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": 0,
            "text": text,
            "logprobs": self._logprobs(logprobs),
            "finish_reason": reason,
        }

    def _logprobs(self, found: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if not found:
            return None
        texts = [_text(each.chosen) for each in found]
        offsets = []
        for text in texts:
            offsets.append(len(self.echo) + self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [each.chosen.logprob for each in found],
            "top_logprobs": [{_text(top): top.logprob for top in each.top} for each in found],
            "text_offset": offsets,
        }


def finish_reason(finished: Finished) -> str:
    """Why a reply ended, as OpenAI's API says it."""
    return "length" if finished.reason is FinishReason.LENGTH else "stop"


def usage_of(usage: Usage) -> dict[str, Any]:
    """The cost of a turn; a prompt's tokens include those that the window held already."""
    prompt = usage.input_tokens + usage.cached_input_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
    }


def _chat_logprobs(found: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
    if not found:
        return None
    content = [
        _one(each.chosen) | {"top_logprobs": [_one(top) for top in each.top]} for each in found
    ]
    return {"content": content, "refusal": None}


def _one(token: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.text)}


def _text(token: TokenLogprob) -> str:
    return token.text.decode(errors="replace")
