"""Forgetting and folding again with a native model: the memory is as if it had never been told."""

from __future__ import annotations

import grpc
import pytest
from api import refused
from native_sessions import BOOK, begin, chat
from serving import Serve
from told import TEXT

from hope_runtime.models.hope.served import HopeModel

SECRET = b"The password is sesame. It opens every door of the house by the river."


async def test_a_forgotten_document_was_never_read(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api, other = served.api, served.api.on("innocent")
        scores = []
        for each in (api, other):
            await each.create(policy="")
            await each.ingest([BOOK.encode()], document="book")
            if each is api:
                await each.ingest([SECRET], document="secret", conversation="elsewhere")
            await each.say(TEXT)
        knowing = (await api.score(SECRET.decode())).total_nats
        forgotten = await api.forget("secret")
        innocent = await other.learnt()
        for each in (api, other):
            scores.append((await each.score(SECRET.decode())).total_nats)
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)
        assert abs(knowing - scores[1]) > 10 * abs(scores[0] - scores[1])
        assert forgotten.levels == innocent.levels
        assert list(forgotten.conversations) == ["default"]
        assert (await api.say("And?")).text == (await other.say("And?")).text
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "document"):
            await api.forget("secret")


async def test_a_forgotten_statement_was_never_told(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api, other = served.api, served.api.on("innocent")
        for each in (api, other):
            await each.create(policy="")
            await each.ingest([BOOK.encode()], document="book")
            if each is api:
                await each.say(SECRET.decode(), conversation="elsewhere")
            await each.say(TEXT)
        ids = [each.id for each in await api.statements() if each.conversation == "elsewhere"]
        assert ids
        forgotten = await api.forget_statements(*ids)
        innocent = await other.learnt()
        assert forgotten.levels == innocent.levels
        assert forgotten.learnable_tokens == innocent.learnable_tokens
        assert not forgotten.conversations
        scores = [(await each.score(SECRET.decode())).total_nats for each in (api, other)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)
        assert (await api.migrate()).memory_hash == forgotten.memory_hash


async def test_a_migration_folds_to_the_same_memory(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api = await begin(served)
        await api.ingest([BOOK.encode()])
        await chat(api)
        await api.end_conversation(conversation="b")
        before = await api.learnt()
        after = await api.migrate()
        assert after.memory_hash == before.memory_hash
        assert after.levels == before.levels
        assert after.memory_version == before.memory_version + 1
