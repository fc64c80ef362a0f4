"""Native routes that ask several versions of a memory the same thing, and leave nothing behind.

POST /v1/sessions/{session}/compare   one prompt, answered by the memory, the base, kept versions
POST /v1/sessions/{session}/origin    the version that learnt a text, and what taught it
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateTurn
from server.app import generation, kept_versions, origins, versions
from server.app.events import Began, Finished, GenerateEvent, TextDelta
from server.app.sessions import Sessions
from server.http_api.errors import http_error, invalid
from server.http_api.named_events import event_stream, named_event
from server.http_api.requests import json_object, read_json
from server.http_api.shapes import finish_reason
from server.http_api.watching import key_of

MEMORY, BASE = "memory", "base"
MOST_COLUMNS = 6
# Events that columns may be ahead of their reader.
_AHEAD = 32
Ask = TypeVar("Ask", bound=BaseModel)


class CompareBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    columns: list[str | int] = Field([MEMORY, BASE], min_length=1, max_length=MOST_COLUMNS)
    max_tokens: int = Field(96, ge=1, le=512)


class OriginBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1)
    context: str = ""


@dataclass(frozen=True, slots=True)
class Comparing:
    """Answers the routes above with `sessions`."""

    sessions: Sessions

    async def compare(self, request: Request, user: str) -> Response:
        """Answer a prompt once for each column, side by side; events bear the columns' names."""
        key = key_of(request, user)
        body = _parsed(CompareBody, await read_json(request))
        known = [info.version for info in await versions.kept(self.sessions, key)]
        columns: dict[str, AsyncGenerator[GenerateEvent, None]] = {}
        for column in body.columns:
            version = known[-1] if column == MEMORY else 0 if column == BASE else column
            if not isinstance(version, int) or isinstance(version, bool) or version < 0:
                raise invalid("columns must be 'memory', 'base' or versions", "columns")
            turn = GenerateTurn(
                "compare",
                (Message("user", body.prompt),),
                Sampling(max_tokens=body.max_tokens, logprobs=0),
                learn=False,
                fresh=True,
            )
            name = column if isinstance(column, str) else f"v{column}"
            memory = await kept_versions.memory_for(
                self.sessions, key, version, turn, field="columns"
            )
            columns[name] = generation.generate_stateless(
                self.sessions, turn, memory=memory, version=version
            )
        return event_stream(_events(columns))

    async def origin(self, request: Request, user: str) -> Response:
        """Find the version in which a text was learnt."""
        key = key_of(request, user)
        body = _parsed(OriginBody, await read_json(request))
        found = await origins.find_origin(self.sessions, key, body.context, body.text)
        return JSONResponse(asdict(found))


def _parsed(kind: type[Ask], data: bytes) -> Ask:
    try:
        return kind.model_validate(json_object(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] else None
        raise invalid(f"{param or 'the body'}: {first['msg']}", param) from None


async def _events(
    columns: Mapping[str, AsyncGenerator[GenerateEvent, None]],
) -> AsyncIterator[bytes]:
    """The events of all columns as they come; a reader that leaves ends them."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)

    async def answer(name: str, events: AsyncGenerator[GenerateEvent, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    if (content := _shown(event)) is not None:
                        await queue.put(named_event(name, content))
        except Exception as error:
            await queue.put(named_event(name, http_error(error).body))
        await queue.put(None)

    tasks = [asyncio.create_task(answer(*column)) for column in columns.items()]
    try:
        running = len(tasks)
        while running:
            if (event := await queue.get()) is None:
                running -= 1
            else:
                yield event
        yield named_event("done", {})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _shown(event: GenerateEvent) -> dict[str, Any] | None:
    match event:
        case Began(version):
            return {"memory_version": version}
        case TextDelta():
            tokens = [
                [each.chosen.text.decode(errors="replace"), round(each.chosen.logprob, 4)]
                for each in event.logprobs
            ]
            return {"text": event.text, "tokens": tokens}
        case Finished():
            return {
                "finish_reason": finish_reason(event),
                "output_tokens": event.usage.output_tokens,
            }
        case _:
            return None
