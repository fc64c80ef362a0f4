"""Chats with a native model over HTTP, whose clients send again what was said."""

from __future__ import annotations

from typing import Any

import httpx2
from serving import Serve

from hope_runtime.models.hope.served import HopeModel
from hope_runtime.session.fold import due
from hope_runtime.session.log import RecordKind
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import result_of
from server.app.session_log import read_log
from server.store.base import SessionKey


async def test_chats_that_are_sent_again(serve: Serve, hope: HopeModel) -> None:
    """A window that begins anew is a fresh context over the same memories, and part of the fold."""
    async with serve(hope, http_port=0) as served:
        port = served.running.http
        assert port is not None
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port.port}") as client:

            async def say(*texts: str) -> dict[str, Any]:
                messages = [
                    {"role": "assistant" if at % 2 else "user", "content": text}
                    for at, text in enumerate(texts)
                ]
                body = {"model": "hope", "messages": messages, "max_tokens": 4}
                answer = await client.post(
                    "/v1/chat/completions", json=body | {"hope": {"session": "diary"}}
                )
                assert answer.status_code == 200, answer.text
                found: dict[str, Any] = answer.json()["hope"]
                return found

            assert (await say("Rolf."))["learnable_tokens"] == len("Rolf.")
            assert (await say("Rolf.", "x", "Ok?"))["learnable_tokens"] == len("Ok?")
            assert (await say("Rolf.", "x", "Ok?"))["learnable_tokens"] == 0
            assert (await say("Rolf.", "x", "No!"))["learnable_tokens"] == len("No!")
        sessions, key = served.running.sessions, SessionKey("local", "diary")
        async with sessions.exclusive(key) as resident:
            served_memory = resident.memory
        records = await read_log(sessions, key)
        assert [record.fresh for record in records if record.kind is RecordKind.TURN] == (
            [False, False, True, True]
        )
        memory = SessionMemory.fresh(sessions.fingerprint, sessions.policy("default"))
        for record in records:
            if record.kind is not RecordKind.CONSOLIDATION:
                memory = await result_of(sessions.engine.observe(memory, record))
                while (boundary := due(memory)) is not None:
                    memory, _ = await result_of(sessions.engine.consolidate(memory, boundary))
        assert memory.hash() == served_memory.hash()
        assert memory.taught == served_memory.taught
        names = list(memory.conversations)
        assert names == list(served_memory.conversations)
