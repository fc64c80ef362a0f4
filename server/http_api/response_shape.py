"""Replies in the shape of OpenAI's Responses API: named events, or one object.

Its first event has the response's id, which is known when the turn is planned. So a turn that waits
for long sends comments alone until then.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from server.app.events import Finished, TextDelta, Usage
from server.http_api.errors import HttpError
from server.http_api.named_events import named_event
from server.http_api.response_bodies import ResponseBody
from server.http_api.response_ids import ResponseId, passing_id
from server.http_api.shapes import Shape, finish_reason


@dataclass(slots=True)
class ResponseShape(Shape):
    """Answers of /v1/responses to the request `body`."""

    body: ResponseBody = field(kw_only=True)
    _item: str = field(init=False)
    _text: str = ""
    _events: int = 0

    def __post_init__(self) -> None:
        self.id, self._item = passing_id(), f"msg_{secrets.token_hex(12)}"
        self.created = int(time.time())

    def planned(self, number: bytes) -> None:
        """Take the number of the turn, which is kept, for the id."""
        about = self.about
        assert about.session is not None, "what is kept has a session"
        assert about.conversation is not None, "what is kept has a conversation"
        session = about.session.rpartition("/")[2]
        self.id = str(ResponseId(session, about.conversation, number))

    def first(self) -> bytes:
        return b"" if self.version is None else self._opening()

    def delta(self, delta: TextDelta) -> bytes:
        found = self._opening()
        self._text += delta.text
        return found + self._part_event("output_text.delta", delta=delta.text, logprobs=[])

    def last(self, finished: Finished) -> bytes:
        found, status = self._opening(), _status(finished)
        item = self._message(self._text, status)
        return (
            found
            + self._part_event("output_text.done", text=self._text, logprobs=[])
            + self._part_event("content_part.done", part=_part(self._text))
            + self._event("output_item.done", output_index=0, item=item)
            + self._event(status, response=self._response(self._text, finished))
        )

    def failed(self, refusal: HttpError) -> bytes:
        found, error = self._opening(), refusal.body["error"]
        response = self._object(
            "failed", error={"code": error["code"], "message": error["message"]}
        )
        return found + self._event("failed", response=response)

    def whole(self, delta: TextDelta, finished: Finished) -> bytes:
        return json.dumps(
            self._response(delta.text, finished), ensure_ascii=False, separators=(",", ":")
        ).encode()

    def _opening(self) -> bytes:
        """The events before any text, once."""
        if self._events:
            return b""
        response = self._object("in_progress")
        return (
            self._event("created", response=response)
            + self._event("in_progress", response=response)
            + self._event("output_item.added", output_index=0, item=self._item_begun())
            + self._part_event("content_part.added", part=_part(""))
        )

    def _event(self, name: str, **content: Any) -> bytes:
        kind = f"response.{name}"
        head: dict[str, Any] = {"type": kind, "sequence_number": self._events}
        self._events += 1
        return named_event(kind, head | content)

    def _part_event(self, name: str, **content: Any) -> bytes:
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        return self._event(name, **place, **content)

    def _item_begun(self) -> dict[str, Any]:
        return self._message("", "in_progress") | {"content": []}

    def _message(self, text: str, status: str) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [_part(text)],
        }

    def _response(self, text: str, finished: Finished) -> dict[str, Any]:
        """The response at its end."""
        status = _status(finished)
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._object(
            status,
            incomplete_details=cut,
            output=[self._message(text, status)],
            usage=_usage(finished.usage),
            hope=self._hope(finished),
        )

    def _object(self, status: str, **more: Any) -> dict[str, Any]:
        body, conversation = self.body, self.about.conversation
        head: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "conversation": None if conversation is None else {"id": conversation},
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.about.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": body.previous_response_id,
            "store": conversation is not None,
            "temperature": body.temperature or 0,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [],
            "top_p": 1 if body.top_p is None else body.top_p,
            # Windows roll.
            "truncation": "auto",
            "usage": None,
        }
        return head | more


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(finished: Finished) -> str:
    return "incomplete" if finish_reason(finished) == "length" else "completed"


def _usage(usage: Usage) -> dict[str, Any]:
    read = usage.input_tokens + usage.cached_input_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + usage.output_tokens,
    }
