"""Kept versions, asked through both clients and the command against a real server."""

from __future__ import annotations

import json

import hope_client as hope
import pytest
from hope_client import HopeClient, SyncHopeClient
from processes import in_a_thread

FACTS = "My cat is called Ada. She is seven years old and she sleeps on the piano all day long. "
SAMPLING = hope.Sampling(max_tokens=12)


async def test_everyone_hears_the_same(real_server, hope_real):
    async with HopeClient(real_server.target) as client:
        await client.sessions.create("diary", policy="quick")
        await client.say("diary", FACTS * 2, sampling=SAMPLING)
        now = (await client.sessions.end_conversation("diary")).session
        last = now.memory_version
        assert last > 0
        for version in (0, last):
            reply = await client.say("diary", "Hi", sampling=SAMPLING, at_version=version)
            score = await client.score("diary", FACTS, at_version=version)
            assert reply.usage.memory_version == score.memory_version == version

            def sync(version: int = version) -> tuple[str, float]:
                with SyncHopeClient(real_server.target) as other:
                    text = other.say("diary", "Hi", sampling=SAMPLING, at_version=version).text
                    return text, other.score("diary", FACTS, at_version=version).total_nats

            assert await in_a_thread(sync) == (reply.text, score.total_nats)
            asked = ("--at-version", str(version), "--json")
            code, out, _ = await hope_real("generate", "diary", "Hi", "--max-tokens", "12", *asked)
            assert (code, json.loads(out)["text"]) == (0, reply.text)
            code, out, _ = await hope_real("score", "diary", "-", *asked, stdin=FACTS)
            assert (code, json.loads(out)["total_nats"]) == (0, score.total_nats)
        first = await client.score("diary", FACTS, at_version=0)
        assert score.total_nats < first.total_nats
        assert await client.sessions.get("diary") == now


async def test_what_cannot_be_asked_is_said_in_a_sentence(real_server, hope_real):
    async with HopeClient(real_server.target) as client:
        await client.sessions.create("diary", policy="quick")
        with pytest.raises(hope.InvalidRequestError, match="Version 7 does not exist") as refused:
            await client.score("diary", FACTS, at_version=7)
        assert refused.value.field == "at_version"
        with pytest.raises(hope.InvalidRequestError, match="cannot be combined with request_id"):
            await client.say("diary", "Hi", at_version=0, request_id="once")
    code, out, err = await hope_real("generate", "diary", "Hi", "--at-version", "7")
    assert (code, out.strip()) == (1, "")
    assert "ersion 7 does not exist; available versions: 0" in err
