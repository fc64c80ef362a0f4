"""Restarts, pieces and crashes change nothing in what a native model has learnt."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

from api import Api
from native_sessions import BOOK, begin, chat
from serving import Serve, Served, Spawn
from test_durability import say_until_heard
from told import TEXT

from hope_runtime.models.hope.served import HopeModel
from hope_runtime.session.log import Record, RecordKind
from server.store.base import SessionKey


async def test_restarts_and_pieces_change_nothing(
    serve: Serve, model: HopeModel, tmp_path: Path
) -> None:
    data = BOOK.encode()
    cuts = sorted(random.Random(5).sample(range(1, len(data)), 11))
    pieces = [data[i:j] for i, j in itertools.pairwise([0, *cuts, len(data)])]
    async with serve(model, database=tmp_path / "whole.db") as served:
        api = await begin(served)
        await api.ingest([data])
        replies, expected = await chat(api), await api.learnt()
    offset, cut_replies = 0, []
    for number, piece in enumerate(pieces, start=1):
        async with serve(model, database=tmp_path / "pieces.db") as served:
            if number == 1:
                await begin(served)
            await served.api.ingest([piece], offset_bytes=offset, keep_open=number < len(pieces))
            offset += len(piece)
    for text, name in (("My dog is Rolf.", "a"), ("Hello?", "b"), (TEXT, "a"), ("What?", "b")):
        async with serve(model, database=tmp_path / "pieces.db") as served:
            cut_replies.append((await served.api.say(text, conversation=name)).text)
    async with serve(model, database=tmp_path / "pieces.db") as served:
        session = await served.api.learnt()
    assert session.memory_hash == expected.memory_hash
    assert session.levels == expected.levels
    assert cut_replies == replies
    assert session.memory_version > 0
    if model.policy.levels:
        assert session.levels[1].updates > 0
        assert session.levels[0].relative_norm > 0


async def test_what_stopped_between_the_two_commits_is_done_after_it(
    serve: Serve, hope: HopeModel, tmp_path: Path
) -> None:
    async def asked(api: Api, served: Served) -> None:
        """Commit 1 of a flush, and no more."""
        sessions = served.running.sessions
        async with sessions.exclusive(SessionKey("ada", "diary")) as resident:
            await sessions.commits.event(resident, Record(RecordKind.CONSOLIDATE))

    async with serve(hope, database=tmp_path / "undisturbed.db") as served:
        api = await begin(served)
        await api.say("Twenty bytes of text")
        await api.consolidate()
        expected = await api.learnt()
    async with serve(hope) as served:
        api = await begin(served)
        await api.say("Twenty bytes of text")
        await asked(api, served)
        half = await api.get()
        assert half.memory_hash != expected.memory_hash
        assert half.pending_tokens == 4
    async with serve(hope) as served:
        session = await served.api.learnt()
    assert session.memory_hash == expected.memory_hash
    assert session.levels == expected.levels


async def test_a_server_process_is_killed_and_another_goes_on(
    serve: Serve, spawn: Spawn, runs: dict[str, Path], hope: HopeModel, tmp_path: Path
) -> None:
    async with spawn(model=runs["hope"]) as server:
        await server.api.create(policy="")
        said = (await server.api.say(TEXT, request_id="t0")).text
        await server.kill()
    # One checkpoint of a run is a model as well as the run's directory.
    (place,) = runs["hope"].glob("step-*")
    async with spawn(model=place, lease_seconds=5) as server:
        again = await say_until_heard(server.api, TEXT, "t0")
        assert again == said
        await server.api.ingest([BOOK.encode()])
        session = await server.api.learnt()
    async with serve(hope, database=tmp_path / "undisturbed.db") as served:
        api = await begin(served)
        assert (await api.say(TEXT)).text == said
        await api.ingest([BOOK.encode()])
        assert (await api.learnt()).memory_hash == session.memory_hash
