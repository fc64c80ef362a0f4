"""Calls that begin jobs and watch them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import grpc
from api import Api
from grpc import aio
from hope.v1 import sessions_pb2 as pb
from told import TEXT

from hope_runtime.session.fold import Boundary
from hope_runtime.session.memory import SessionMemory
from server.running import RunningServer

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Gate:
    """Lets a server's learner begin so many consolidations, and counts them."""

    def __init__(self, running: RunningServer, allowed: int | None = None) -> None:
        self.begun = 0
        self.allowed = allowed
        self._opened = threading.Event()
        learner = running.sessions.engine.learner
        consolidate = learner.consolidate

        def gated(memory: SessionMemory, boundary: Boundary) -> Generator[None, None, Any]:
            while self.allowed is not None and self.begun >= self.allowed:
                self._opened.wait(0.005)
                yield
            self.begun += 1
            return (yield from consolidate(memory, boundary))

        learner.consolidate = gated  # type: ignore[method-assign]

    def open(self) -> None:
        self.allowed = None
        self._opened.set()


async def teach(api: Api) -> pb.Session:
    """A session whose log has something to forget, and something to learn again."""
    await api.create()
    await api.ingest([TEXT.encode() * 3], document="kept")
    await api.ingest([b"Rolf bit the postman twice. " * 5], document="gossip")
    await api.say("Hello, my name is Ada.")
    await api.end_conversation()
    await api.ingest([TEXT.encode() * 3], document="more")
    return await api.learnt()


async def undisturbed(api: Api, session_id: str = "undisturbed") -> pb.Session:
    """What the job comes to, found on a fork."""
    await api.fork(session_id)
    return await api.on(session_id).forget("gossip")


def forgetting(api: Api) -> aio.UnaryStreamCall[Any, Any]:
    return api.sessions.ForgetDocument(pb.ForgetDocumentRequest(name=api.name, document="gossip"))


async def seen(call: aio.UnaryStreamCall[Any, Any], consolidations: int) -> pb.Job:
    """The job once so many consolidations are done."""
    while (job := (await call.read()).job).consolidations < consolidations:
        pass
    return job


async def last_of(call: aio.UnaryStreamCall[Any, Any]) -> pb.Session:
    while (event := await call.read()).WhichOneof("event") != "session":
        pass
    return event.session
