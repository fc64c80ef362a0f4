"""Bodies of requests as clients of OpenAI's API send them.

Unknown fields are ignored, since clients send many; a field that would change the answer and cannot
be honoured is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import MAX_LOGPROBS, Sampling
from server.app.kept_versions import check_alone
from server.http_api.errors import invalid

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
AT_VERSION = "hope.at_version"
_TEXT_PARTS = ("text", "input_text", "output_text")


class HopeOptions(BaseModel):
    """The field `hope` of a request, which clients send as `extra_body`."""

    model_config = ConfigDict(extra="forbid")

    session: str | None = None
    conversation: str | None = None
    learn: bool | None = None
    ephemeral: bool | None = None
    at_version: int | None = None


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class MessageBody(BaseModel):
    role: str
    content: Any = None


class Body(BaseModel):
    """Fields that both kinds of completions have."""

    refused: ClassVar[tuple[str, ...]] = ("logit_bias",)

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    logit_bias: Any = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    hope: HopeOptions | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The body of a request. Raises HttpError and InvalidRequestError."""
        try:
            body = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            param = _path(first["loc"])
            raise invalid(f"{param or 'The body'}: {first['msg']}", param) from None
        for name in cls.refused:
            if getattr(body, name):
                raise invalid(f"this server does not offer {name}; leave it out", name)
        for name in ("n", "best_of"):
            if getattr(body, name) not in (None, 1):
                raise invalid(f"{name} must be 1; ask several times for several replies", name)
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(body, name):
                raise invalid(f"{name} must be 0; use repetition_penalty instead", name)
        options = body.options
        if options.at_version is not None:
            check_alone(
                learn=options.learn,
                ephemeral=options.ephemeral,
                conversation=options.conversation,
                field=AT_VERSION,
            )
        return body

    @property
    def options(self) -> HopeOptions:
        """The field `hope`, empty where it is missing."""
        return self.hope or HopeOptions()

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what the reply cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> Sampling:
        """Sampling of the reply. Raises InvalidRequestError."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        given.setdefault("seed", secrets.randbits(63))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            **given, stop=stop, max_tokens=self.most_tokens, logprobs=self.asked_logprobs
        )

    @property
    def most_tokens(self) -> int | None:
        """The most tokens that the reply may have."""
        return self.max_tokens

    @property
    def asked_logprobs(self) -> int | None:
        """The number of likeliest tokens whose log-probabilities are asked for; None: none are."""
        raise NotImplementedError


class ChatBody(Body):
    """The body of POST /v1/chat/completions."""

    refused: ClassVar[tuple[str, ...]] = ("logit_bias", "audio", "prediction")

    messages: list[MessageBody]
    max_completion_tokens: int | None = None
    tool_choice: Any = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    audio: Any = None
    prediction: Any = None

    @property
    def most_tokens(self) -> int | None:
        alias = self.max_completion_tokens
        return self.max_tokens if alias is None else alias

    @property
    def asked_logprobs(self) -> int | None:
        asked = self.top_logprobs
        if asked is not None and not 0 <= asked <= MAX_LOGPROBS:
            raise invalid(f"top_logprobs must be 0 to {MAX_LOGPROBS}", "top_logprobs")
        if asked and not self.logprobs:
            raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
        return asked or 0 if self.logprobs else None

    def history(self) -> tuple[Message, ...]:
        """Messages of the request, without empty ones. Raises HttpError for what has no text."""
        for name in ("tool_choice", "function_call"):
            if getattr(self, name) not in (None, "auto", "none"):
                raise invalid("this server calls no tools; use 'auto' or 'none'", name)
        if (self.response_format or {}).get("type", "text") != "text":
            raise invalid("this server answers with plain text only", "response_format")
        if any(each != "text" for each in self.modalities or ()):
            raise invalid("this server answers with plain text only", "modalities")
        return history_of(self.messages, "messages")


class CompletionBody(Body):
    """The body of POST /v1/completions."""

    refused: ClassVar[tuple[str, ...]] = ("logit_bias", "suffix")

    prompt: str | list[Any]
    echo: bool | None = None
    logprobs: int | None = None
    suffix: Any = None

    @property
    def asked_logprobs(self) -> int | None:
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise invalid(f"logprobs must be 0 to {MAX_LOGPROBS}", "logprobs")
        return self.logprobs

    def text(self) -> str:
        """The one text that is to be continued. Raises HttpError."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1 or not isinstance(prompts[0], str) or not prompts[0].strip():
            raise invalid("prompt must be one text, as a string", "prompt")
        if self.echo and self.logprobs is not None:
            raise invalid(
                "echo with logprobs is not offered; Score measures how likely a text is", "echo"
            )
        return prompts[0]


def history_of(bodies: Sequence[MessageBody], field: str) -> tuple[Message, ...]:
    """The messages of a request's `field`, without empty ones. Raises HttpError for what has no
    text."""
    messages = []
    for at, message in enumerate(bodies):
        place = f"{field}[{at}]"
        if message.role not in _ROLES:
            raise invalid(
                f"the role of {place} is {message.role[:40]!r}; "
                "use system, developer, user or assistant",
                f"{place}.role",
            )
        text = _text(message.content, f"{place}.content")
        if text.strip():
            messages.append(Message(_ROLES[message.role], text))
    said = [message for message in messages if message.role != "system"]
    if not said or said[-1].role != "user":
        raise invalid("the last message with a text must be the user's", field)
    return tuple(messages)


def _text(content: Any, place: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise invalid(f"{place} must be a string or a list of text parts", place)
    texts = []
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise invalid(
                f"{place}[{at}] is not text; this server reads text only", f"{place}[{at}]"
            )
        texts.append(text)
    return "\n".join(texts)


def _path(places: tuple[int | str, ...]) -> str | None:
    """The path of a field, such as messages[0].role. Names of types that a union tries are left
    out."""
    path = ""
    for place in places:
        if isinstance(place, int):
            path += f"[{place}]"
        elif place not in ("str", "list[str]", "list[any]"):
            path += f".{place}" if path else place
    return path or None
