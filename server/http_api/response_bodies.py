"""Bodies of POST /v1/responses, text only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hope_runtime.engine.prompt import Message
from server.http_api.bodies import Body, HopeOptions, MessageBody, history_of
from server.http_api.errors import invalid


class ResponseBody(Body):
    """The body of POST /v1/responses."""

    refused: ClassVar[tuple[str, ...]] = (
        "logit_bias",
        "background",
        "context_management",
        "include",
        "prompt",
        "reasoning",
        "tools",
        "top_logprobs",
    )

    input: str | list[Any]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    text: dict[str, Any] | None = None
    tool_choice: Any = None
    background: Any = None
    context_management: Any = None
    include: Any = None
    prompt: Any = None
    reasoning: Any = None
    tools: Any = None
    top_logprobs: Any = None

    @property
    def options(self) -> HopeOptions:
        """The field `hope`, with what `store` and `conversation` say where it says nothing."""
        options = self.hope or HopeOptions()
        more: dict[str, Any] = {}
        if self.store is False:
            more["ephemeral"] = True
        if options.conversation is None and self.conversation is not None:
            more["conversation"] = self._conversation()
        return options.model_copy(update=more)

    @property
    def most_tokens(self) -> int | None:
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            raise invalid("max_output_tokens must be at least 1", "max_output_tokens")
        return self.max_output_tokens

    @property
    def asked_logprobs(self) -> int | None:
        return None

    def history(self) -> tuple[Message, ...]:
        """Messages of the request, the instructions first. Raises HttpError for what has no
        text."""
        if self.tool_choice not in (None, "auto", "none"):
            raise invalid("this server calls no tools; use 'auto' or 'none'", "tool_choice")
        form = (self.text or {}).get("format") or {}
        if not isinstance(form, Mapping) or form.get("type", "text") != "text":
            raise invalid("this server answers with plain text only", "text.format")
        if (self.text or {}).get("verbosity") not in (None, "medium"):
            raise invalid("this server does not offer verbosity; leave it out", "text.verbosity")
        if isinstance(self.input, str):
            found = history_of([MessageBody(role="user", content=self.input)], "input")
        else:
            found = history_of([_item(each, at) for at, each in enumerate(self.input)], "input")
        instructions = self.instructions or ""
        first = (Message("system", instructions),) if instructions.strip() else ()
        return (*first, *found)

    def _conversation(self) -> str:
        named = self.conversation
        name = named.get("id") if isinstance(named, dict) else named
        if not isinstance(name, str) or not name:
            raise invalid("conversation must be a name, or an object with an id", "conversation")
        return name


def _item(item: Any, at: int) -> MessageBody:
    place = f"input[{at}]"
    if not isinstance(item, Mapping):
        raise invalid(f"{place} must be a message with role and content", place)
    kind = item.get("type", "message")
    if kind != "message":
        raise invalid(
            f"{place} is a {str(kind)[:40]!r}; this server reads items of type message only",
            f"{place}.type",
        )
    role = item.get("role")
    if not isinstance(role, str):
        raise invalid(f"{place} must be a message with role and content", f"{place}.role")
    return MessageBody(role=role, content=item.get("content"))
