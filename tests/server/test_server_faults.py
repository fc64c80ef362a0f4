"""Failures that are not the client's fault: what callers see, and what is left whole."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import Api, refused
from serving import Serve, Served

from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.policy import POLICIES, LearningPolicy
from server.store.base import StoreError, StoreFullError


async def test_learning_that_fails_is_done_later_and_turns_go_on(
    served: Served, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "My dog Rolf is nine years old. He likes cheese and long walks by the river Tern. "
    commit = served.running.sessions.store.commit
    failing = True

    async def no_room_for_versions(lease: Any, change: Any) -> Any:
        if failing and any(name.startswith("level") for name in change.put_blobs):
            raise StoreFullError("no room.")
        return await commit(lease, change)

    monkeypatch.setattr(served.running.sessions.store, "commit", no_room_for_versions)
    await api.say(text * 2)
    assert (await api.say("And?")).usage.memory_version == 0
    failing = False
    other = api.on("other")
    await other.create()
    await other.say(text * 2)
    await other.say("And?")
    learnt = await api.learnt()
    assert learnt.memory_version == 1
    assert learnt.levels == (await other.learnt()).levels


async def test_a_session_of_another_base_model(serve: Serve, chat_model: BaseModel) -> None:
    async with serve() as first:
        await first.api.create()
        await first.api.say("Hello.")
        before = await first.api.get()
    async with serve(model=replace(chat_model, fingerprint="another")) as second:
        for call in (second.api.say("Hello."), second.api.score("x"), second.api.consolidate()):
            async with refused(grpc.StatusCode.FAILED_PRECONDITION, "OTHER_BASE_MODEL"):
                await call
        before.other_base = True
        assert await second.api.get() == before


async def test_a_policy_that_has_changed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as first:
        await first.api.create()
    other: LearningPolicy = replace(POLICIES["quick"], seed=1)
    monkeypatch.setitem(POLICIES, "quick", other)
    changed = refused(grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_STATE_FORMAT")
    async with serve() as second, changed:
        await second.api.say("Hello.")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE blobs SET data = zeroblob(size)",
        "UPDATE blobs SET data = substr(data, 1, 20)",
    ],
)
async def test_a_damaged_blob(serve: Serve, tmp_path: Path, damage: str) -> None:
    async with serve() as first:
        await first.api.create()
    with sqlite3.connect(tmp_path / "sessions.db") as database:
        database.execute(damage)
    async with serve() as second:
        async with refused(grpc.StatusCode.DATA_LOSS, "CORRUPT_STATE"):
            await second.api.say("Hello.")
        assert (await second.api.get()).memory_version == 0  # its summary is still there


async def test_a_file_that_is_no_database(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "sessions.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"sessions\.db"):
        async with serve():
            raise AssertionError("it must not start")
