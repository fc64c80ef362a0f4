"""A native checkpoint is served like any other model: every call, over the wire, on a real one."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from api import Api, refusal_of, refused
from hope.v1 import admin_pb2, sessions_pb2
from serving import Serve, Served, Spawn
from test_durability import say_until_heard
from told import TEXT

from hope_lab.train.cli import main as train
from hope_runtime.checkpoints import load_model
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import result_of
from server.app.session_log import read_log
from server.app.status import describe_levels
from server.main import main as serve_command
from server.store.base import SessionKey

BOOK = "Aldmoor lies on the Tern. Dr. Vale, who keeps bees there, is 61! “Naïve?” 日本語。\n" * 4
SECRET = b"The password is sesame. It opens every door of the house by the river."
SMALL = ("model.d_model=16", "model.n_heads=2", "model.periods=[16,64]", "model.window=32")
PRESETS = ("hope", "hope_attention", "titans")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of runs, each of a few steps on bytes of text."""
    place = tmp_path_factory.mktemp("runs")
    (place / "text.txt").write_text(BOOK * 6, "utf-8")
    options = [*SMALL, f'task.files=["{place}/text.txt"]', "task.window=32", "batch_rows=2"]
    options += ["test_rows=2", "warmup_steps=1"]
    for name in PRESETS:
        settings = [part for option in options for part in ("--set", option)]
        words = ["--task", "text", "--model", name, "--steps", "3", "--out", str(place / name)]
        assert train([*words, *settings]) == 0
    return {name: place / name for name in PRESETS}


@pytest.fixture(scope="module", params=PRESETS)
def model(request: pytest.FixtureRequest, runs: dict[str, Path]) -> HopeModel:
    found = load_model(runs[request.param])
    assert isinstance(found, HopeModel)
    return found


@pytest.fixture(scope="module")
def hope(runs: dict[str, Path]) -> HopeModel:
    found = load_model(runs["hope"])
    assert isinstance(found, HopeModel)
    return found


async def begin(served: Served) -> Api:
    await served.api.create(policy="")
    return served.api


async def chat(api: Api) -> list[str]:
    told = [("My dog is Rolf.", "a"), ("Hello?", "b"), (TEXT, "a"), ("What?", "b")]
    return [(await api.say(text, conversation=name)).text for text, name in told]


async def test_the_server_says_what_it_runs(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        info = await served.api.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
        assert list(info.policies) == ["default"]
        assert info.base_fingerprint == model.fingerprint
        assert info.dtype == "float32"
        assert info.window_tokens == 32
        levels, size = len(model.policy.levels), info.max_state_bytes / 1e6
        assert describe_levels(served.running.sessions) == (
            f"the {levels} levels of a session take at most {size:.1f} MB"
        )
        session = await served.api.create(policy="")
        assert session.memory_version == 0
        assert [level.period_tokens for level in session.levels] == (
            [16, 64] if model.policy.levels else []
        )
        assert all(level.relative_norm == 0 for level in session.levels)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "policy"):
            await served.api.on("other").create(policy="replay")


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


async def test_versions_forks_and_exports(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api = await begin(served)
        await api.say(TEXT)
        first = await api.learnt()
        fork = api.on("fork")
        await api.fork("fork")
        await api.say("Another text altogether, of no great length.", conversation="b")
        second = await api.learnt()
        assert second.memory_version > first.memory_version
        assert (await fork.get()).memory_hash == first.memory_hash
        # What is only context makes no version.
        await api.say("Quiet, please.", learn=False, conversation="b")
        assert (await api.learnt()).memory_version == second.memory_version
        data = [
            each.chunk
            async for each in api.sessions.ExportSession(
                sessions_pb2.ExportSessionRequest(name=api.name)
            )
        ]
        parts = [sessions_pb2.ImportSessionRequest(name=api.on("copy").name)]
        parts += [sessions_pb2.ImportSessionRequest(chunk=chunk) for chunk in data]
        await api.sessions.ImportSession(iter(parts))
        said = [(await each.say("So?", conversation="b")).text for each in (api, api.on("copy"))]
        assert said[0] == said[1]
        norms = await api.diff(first.memory_version, second.memory_version)
        assert len(norms) == len(first.levels)
        back = await api.rollback(version=first.memory_version)
        assert back.memory_hash == first.memory_hash
        assert (await api.say("So?")).text == (await fork.say("So?")).text


async def test_levels_are_flushed_reset_and_compared(serve: Serve, hope: HopeModel) -> None:
    async with serve(hope) as served:
        api = await begin(served)
        await api.say("Twenty bytes of text")
        session = await api.get()
        assert [level.updates for level in session.levels] == [1, 0]
        assert session.pending_tokens == 4
        done = await api.consolidate()
        assert [(each.level, each.tokens) for each in done.consolidations] == [(0, 4)]
        assert done.consolidations[0].surprise_after_nats > 0
        assert [level.updates for level in done.session.levels] == [2, 1]
        assert done.session.pending_tokens == 0
        assert not (await api.consolidate()).consolidations
        await api.say("More")
        ended = await api.end_conversation(conversation="default")
        assert [each.tokens for each in ended.consolidations] == [4]
        assert not ended.session.conversations
        reset = await api.reset()
        assert all(level.relative_norm == 0 for level in reset.levels)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "levels"):
            await api.reset(2)


async def test_what_is_ephemeral_leaves_no_trace(serve: Serve, model: HopeModel) -> None:
    async with serve(model) as served:
        api = await begin(served)
        await api.say(TEXT)
        before = await api.learnt()
        said = [(await api.say("Who?", ephemeral=True)).text for _ in range(2)]
        assert said[0] == said[1]
        assert await api.get() == before
        frozen = (await api.score(TEXT, frozen=True)).total_nats
        assert frozen != (await api.score(TEXT)).total_nats
        assert frozen == (await api.score(TEXT, at_version=0)).total_nats
        answer = await api.say("Who?", at_version=before.memory_version)
        assert answer.usage.memory_version == before.memory_version
        assert await api.get() == before


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


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert serve_command(["--port", "0", *arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "hope serve: " in line]
    assert len(lines) == 1
    return lines[0]


def test_checkpoints_that_cannot_be_served_say_why(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, whatever is wrong with the files."""
    small = ["--set", "batch_rows=2", "--set", "test_rows=2", "--set", "model.d_model=16"]
    small += ["--set", "task.longest=12", "--set", "task.longest_tested=26"]
    words = ["--task", "parity", "--steps", "1", "--out", str(tmp_path / "parity"), *small]
    assert train(words) == 0
    assert "trained on parity" in _refusal(capsys, "--model", str(tmp_path / "parity"))
    assert "float32" in _refusal(capsys, "--model", str(runs["hope"]), "--dtype", "bfloat16")

    def broken(name: str) -> Path:
        shutil.copytree(runs["hope"], tmp_path / name)
        (place,) = (tmp_path / name).glob("step-*")
        return place

    weights = broken("truncated") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be read" in _refusal(capsys, "--model", str(tmp_path / "truncated"))
    data = bytearray((weights := broken("changed") / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    assert "do not belong to one checkpoint" in _refusal(
        capsys, "--model", str(tmp_path / "changed")
    )
    run = broken("newer") / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"version": 99}))
    assert "version 99" in _refusal(capsys, "--model", str(tmp_path / "newer"))
    (broken("missing") / "weights.safetensors").unlink()
    assert "cannot be read" in _refusal(capsys, "--model", str(tmp_path / "missing"))
    (broken("tokenizer") / "tokenizer.json").write_text("{}")
    assert "cannot be read" in _refusal(capsys, "--model", str(tmp_path / "tokenizer"))


async def test_sessions_of_another_model_are_refused(
    serve: Serve, runs: dict[str, Path], hope: HopeModel
) -> None:
    async with serve(hope) as served:
        await begin(served)
    async with serve(load_model(runs["titans"])) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.api.say("Hello?")
        assert refusal_of(caught.value).reason == "OTHER_BASE_MODEL"


async def test_its_history_has_no_drift(serve: Serve, hope: HopeModel) -> None:
    async with serve(hope) as served:
        api = await begin(served)
        await api.say(TEXT)
        assert (await api.end_conversation()).consolidations
        request = sessions_pb2.ListConsolidationsRequest(parent=api.name)
        found = (await api.sessions.ListConsolidations(request)).consolidations
    assert found
    assert not any(each.HasField("drift") or each.HasField("probes") for each in found)
    assert all(each.memory_version for each in found)


def test_vllm_does_not_serve_a_native_model(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes its memories while it reads."""
    assert serve_command(["--model", str(runs["hope"]), "--engine", "vllm", "--port", "0"]) == 1
    assert "--engine torch" in capsys.readouterr().err


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
