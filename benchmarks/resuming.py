"""Benchmarks of the first turn on a session that only the store holds."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable

from grpc import aio
from hope.v1 import inference_pb2, inference_pb2_grpc

from benchmarks.common import (
    PAIRS,
    WINDOW_TOKENS,
    Entry,
    observed_all,
    some_memory,
    text_spans,
)
from benchmarks.storage import LEASE_SECONDS, USER, Times, place_of
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.codec import encode_memory
from hope_runtime.session.policy import DEFAULT_POLICY
from server.app.summary import encode_summary
from server.running import running_server
from server.settings import Settings
from server.store.base import SessionKey

CONVERSATION = "reading"
# A short window flatters nobody: the more there is to read again, the less does loading matter.
RESUMED_TOKENS = 250


def resume(kind: str) -> Callable[[BaseModel], Entry]:
    """Milliseconds to the first token of a session that only the store holds, against one whose
    memory is here and whose window has left the cache. Both read a window of 250 tokens again; the
    difference is lease, load and check."""

    def run(model: BaseModel) -> Entry:
        with place_of(kind) as place:
            settings = Settings(
                port=0, window_tokens=WINDOW_TOKENS, lease_seconds=LEASE_SECONDS, **place
            )
            return asyncio.run(_resume(f"resume.{kind}", model, settings))

    return run


async def _resume(name: str, model: BaseModel, settings: Settings) -> Entry:
    memory = observed_all(some_memory(model), text_spans(model, RESUMED_TOKENS), learnable=False)
    key = SessionKey(USER, "notes")
    resident, resumed = Times(), Times()
    async with (
        running_server(settings, model) as running,
        aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
    ):
        sessions = running.sessions
        await sessions.store.create(
            key,
            fingerprint=model.fingerprint,
            policy=DEFAULT_POLICY.name,
            blobs=encode_memory(memory),
            summary=encode_summary(memory, sessions.engine.change(None, memory)),
        )
        for _ in range(PAIRS + 1):
            await sessions.residency.evict(0)
            assert not sessions.residency.resident_count
            await resumed.of(_first_token(channel, key))
            sessions.engine.drop((key, CONVERSATION))
            await resident.of(_first_token(channel, key))
    for times in (resident, resumed):
        del times.seconds[0]  # to warm up
    pairs = zip(resumed.seconds, resident.seconds, strict=True)
    return {
        "name": name,
        "value": resumed.median * 1000,
        "unit": "ms to the first token",
        "against": resident.median * 1000,
        "ratio": statistics.median(a / b for a, b in pairs),
    }


async def _first_token(channel: aio.Channel, key: SessionKey) -> None:
    """Asks for one token; nothing is kept of it."""
    request = inference_pb2.GenerateRequest(
        session=f"users/{key.user}/sessions/{key.session}",
        conversation=CONVERSATION,
        messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, content="And then?")],
        sampling=inference_pb2.Sampling(max_tokens=1),
        learn_options=inference_pb2.LearnOptions(learn=False, ephemeral=True),
    )
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    async for event in stub.Generate(request):
        last = event
    assert last.WhichOneof("event") == "result"
