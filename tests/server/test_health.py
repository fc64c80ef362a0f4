"""Health: what the server says of itself when its store is lost or full, and what it refuses."""

# The loop is these tests' own: they may block it.

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import Api, refused
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hope.v1 import sessions_pb2 as pb
from prometheus_client.parser import text_string_to_metric_families
from serving import Serve, Served
from small_disk import disk_of, files_up_to, fill
from told import TEXT

from server.grpc_api.health import STORE_SERVICE
from server.grpc_api.server import SERVICES

# Less than a turn asks for, more than the log of a small one takes.
FULL_BYTES = 600_000


async def status(served: Served, service: str = "") -> str:
    health = health_pb2_grpc.HealthStub(served.api.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def hope_health(served: Served) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and text of `hope health`."""

    async def run(*options: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from hope_client.cli import main; raise SystemExit(main())",
            *("--server", f"127.0.0.1:{served.running.port}", "health", *options),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    code, said = await run("--json")
    again, text = await run()
    assert code == again
    return code, json.loads(said), text


async def metric(served: Served, name: str, **labels: str) -> float:
    def get() -> str:
        url = f"http://127.0.0.1:{served.running.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            return str(response.read(), "utf-8")

    families = text_string_to_metric_families(await asyncio.to_thread(get))
    (found,) = [
        sample.value
        for family in families
        for sample in family.samples
        if (sample.name, sample.labels) == (name, labels)
    ]
    return found


class Work:
    """Counts what an engine is asked to compute."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        engine = served.running.sessions.engine
        for name in ("generate", "read", "consolidate"):
            monkeypatch.setattr(engine, name, self._counted(name, getattr(engine, name)))

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.asked.append(name)
            return call(*args, **options)

        return counted


async def test_a_server_that_can_keep_what_it_is_told_is_serving(serve: Serve) -> None:
    async with serve(metrics_port=0) as served:
        for name in ("", STORE_SERVICE, *SERVICES):
            assert await status(served, name) == "SERVING"
        assert await metric(served, "hope_store_writable") == 1
        code, answer, text = await hope_health(served)
        assert (code, text) == (0, "serving\n")
        assert answer == {"serving": True, "store_writable": True}


def removed(database: Path) -> None:
    database.unlink()


def replaced(database: Path) -> None:
    shutil.copy(database, database.with_name("backup"))
    database.with_name("backup").rename(database)


def with_its_folder(database: Path) -> None:
    shutil.rmtree(database.parent)


@pytest.mark.parametrize("lose", [removed, replaced, with_its_folder])
async def test_a_lost_database_takes_no_turn_and_health_says_so(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], None]
) -> None:
    database = tmp_path / "folder" / "sessions.db"
    async with serve(database=database, metrics_port=0) as served:
        api = served.api
        await api.create()
        await api.say(TEXT)
        await api.learnt()
        work = Work(served, monkeypatch)
        lose(database)
        # The first that writes, whatever it is, and nothing was computed for it.
        async with refused(grpc.StatusCode.UNAVAILABLE, "STORE_LOST"):
            await api.say(TEXT)
        async with refused(grpc.StatusCode.UNAVAILABLE, "STORE_LOST"):
            await api.on("another").create()
        async with refused(grpc.StatusCode.UNAVAILABLE, "STORE_LOST"):
            await api.delete()
        assert work.asked == []
        for name in ("", STORE_SERVICE, *SERVICES):
            assert await status(served, name) == "NOT_SERVING"
        code, answer, text = await hope_health(served)
        assert code == 1
        assert answer == {"serving": False, "store_writable": False}
        assert text.startswith("not serving; the store does not accept writes")
        assert await metric(served, "hope_store_writable") == 0
        assert await metric(served, "hope_store_errors_total", error="lost") >= 1


async def test_health_finds_a_lost_database_by_itself(serve: Serve, tmp_path: Path) -> None:
    database = tmp_path / "folder" / "sessions.db"
    async with serve(database=database) as served:
        database.rename(tmp_path / "elsewhere")
        assert await status(served) == "NOT_SERVING"
        (tmp_path / "elsewhere").rename(database)
        assert await status(served) == "SERVING"
        assert await status(served, STORE_SERVICE) == "SERVING"


async def told(api: Api) -> None:
    """Turns of every kind that would be kept are refused."""
    for call in (
        lambda: api.say(TEXT),
        lambda: api.say(TEXT, conversation="another"),
        lambda: api.ingest([TEXT.encode() * 9]),
    ):
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"):
            await call()


async def test_a_full_disk_refuses_turns_before_anything_is_computed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(metrics_port=0) as served:
        api = served.api
        await api.create()
        await api.say(TEXT)
        await api.on("old").create()
        before = await api.learnt()
        work = Work(served, monkeypatch)
        with files_up_to(FULL_BYTES):
            await told(api)
            assert work.asked == []
            # Whoever keeps nothing is answered, and so is who only looks.
            assert (await api.say("Hello?", ephemeral=True)).text
            assert (await api.get()).memory_hash == before.memory_hash
            assert await status(served) == "SERVING"
            assert await status(served, STORE_SERVICE) == "NOT_SERVING"
            code, answer, text = await hope_health(served)
            assert (code, answer) == (0, {"serving": True, "store_writable": False})
            assert text.startswith("serving; the store does not accept writes")
            assert await metric(served, "hope_store_writable") == 0
            assert await metric(served, "hope_store_errors_total", error="full") >= 3
            await api.on("old").delete()
        assert (await api.say(TEXT)).text
        assert await status(served, STORE_SERVICE) == "SERVING"
        assert await metric(served, "hope_store_writable") == 1


async def test_what_is_due_waits_for_room_and_is_not_learnt_in_vain(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def talk(api: Api) -> None:
        await api.create()
        await api.say(TEXT * 2)  # crosses a boundary

    async with serve(database=tmp_path / "undisturbed.db") as served:
        await talk(served.api)
        expected = (await served.api.learnt()).memory_hash
    async with serve() as served:
        api, sessions = served.api, served.running.sessions
        # Full between the two commits of a turn.
        store, commit = sessions.store, sessions.store.commit
        work = Work(served, monkeypatch)
        limit = files_up_to(FULL_BYTES)

        async def full_after(*args: Any) -> Any:
            monkeypatch.setattr(store, "commit", commit)
            head = await commit(*args)
            limit.__enter__()
            return head

        monkeypatch.setattr(store, "commit", full_after)
        await talk(api)
        try:
            for _ in range(3):
                async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"):
                    await api.say(TEXT)
            for call in (api.consolidate, api.end_conversation):
                async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"):
                    await call()
            assert work.asked == ["generate"]
        finally:
            limit.__exit__(None, None, None)
        assert (await api.learnt()).memory_hash == expected
        assert work.asked.count("consolidate") >= 1


async def test_a_full_file_system(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with disk_of(tmp_path, 32 << 20) as place:
        async with serve(database=place / "sessions.db") as served:
            api = served.api
            await api.create()
            await api.on("old").create()
            await api.say(TEXT)
            await api.learnt()
            work = Work(served, monkeypatch)
            ballast = fill(place)
            await told(api)
            assert work.asked == []
            await api.on("old").delete()
            await api.sessions.DeleteUser(pb.DeleteUserRequest(name="users/bob"))
            listed = await api.sessions.ListSessions(pb.ListSessionsRequest(parent="users/ada"))
            assert [each.name for each in listed.sessions] == [api.name]
            ballast.unlink()
            assert (await api.say(TEXT)).text
