"""Kept versions of a memory, asked: replies and scores with the memory as it was then.

Nothing is learnt or kept. Versions never change, so no lock is needed: whoever asks one waits
neither for turns nor for learning. Knows no transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.memory import SessionMemory
from server.app import generation, versions
from server.app.cancellation import result_of
from server.app.events import GenerateEvent, Scored
from server.app.sessions import Sessions
from server.store.base import SessionKey


def check_alone(
    *,
    learn: bool | None,
    ephemeral: bool | None,
    conversation: str | None,
    request_id: str = "",
    field: str,
) -> None:
    """Refuse a request that names a version in `field` and asks for what only a turn of the present
    memory has. Raises InvalidRequestError."""
    contradicting = {
        "learn": learn,
        "ephemeral = false": ephemeral is False,
        "conversation": conversation,
        "request_id": request_id,
    }
    for name, said in contradicting.items():
        if said:
            raise InvalidRequestError(
                f"the answer of a kept version is neither learnt nor stored, so {field} cannot be "
                f"combined with {name}; leave one of them out",
                field=field,
            )


async def memory_for(
    sessions: Sessions, key: SessionKey, version: int, turn: GenerateTurn, *, field: str
) -> SessionMemory:
    """The memory of a kept version, 0 being the base model, for a turn that leaves nothing behind.

    Raises InvalidRequestError, naming `field` for a version that is not kept, NotFoundError, and
    what the turn would be refused with.
    """
    memory = await versions.memory_at(sessions, key, version, field=field)
    await asyncio.to_thread(sessions.engine.check, memory, turn)
    return memory


async def generate(
    sessions: Sessions,
    key: SessionKey,
    version: int,
    turn: GenerateTurn,
    ended: Callable[[], bool] = lambda: False,
    *,
    field: str,
) -> AsyncGenerator[GenerateEvent, None]:
    """Answer the last message of a turn with the memory of a kept version; it reads the messages of
    the turn alone, whatever conversation that names. `ended` as in generation.generate_planned.

    Raises what `memory_for` does, DrainingError and StalledStreamError.
    """
    sessions.admit()
    turn = replace(turn, learn=False, fresh=True)
    memory = await memory_for(sessions, key, version, turn, field=field)
    answering = generation.generate_stateless(sessions, turn, ended, memory=memory, version=version)
    async with aclosing(answering) as events:
        async for event in events:
            yield event


async def score(
    sessions: Sessions, key: SessionKey, version: int, context: str, text: str, *, field: str
) -> Scored:
    """Measure the surprise of `text` after `context` with the memory of a kept version.

    Raises InvalidRequestError, naming `field` for a version that is not kept, NotFoundError and
    DrainingError.
    """
    sessions.admit()
    memory = await versions.memory_at(sessions, key, version, field=field)
    outcome = await result_of(sessions.engine.score(memory, context, text))
    return Scored(outcome.scored, outcome.nats, version)
