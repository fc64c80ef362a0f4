"""Jobs across drains, power cuts and restarts of the server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from api import Api, refusal_of, refused
from grpc import aio
from hope.v1 import sessions_pb2 as pb
from hope_client import HopeClient
from job_calls import UNAVAILABLE, Gate, forgetting, last_of, seen, teach, undisturbed
from serving import Serve, Spawn


async def test_a_drain_saves_a_job_and_the_next_server_goes_on(serve: Serve) -> None:
    async with serve() as first:
        await teach(first.api)
        expected = await undisturbed(first.api)
        whole = Gate(first.running)
        await undisturbed(first.api, "counted")
        gate = Gate(first.running, allowed=4)
        call = forgetting(first.api)
        await seen(call, 4)
        stopping = asyncio.create_task(first.running.stop())
        async with refused(UNAVAILABLE, "DRAINING"):
            await last_of(call)
        await stopping
    async with serve() as second:
        rest = Gate(second.running)
        session = await last_of(forgetting(second.api))
        assert session.memory_hash == expected.memory_hash
        # Nothing was learnt twice, and nothing left out.
        assert gate.begun + rest.begun == whole.begun - gate.begun
        assert rest.begun > 0


async def test_power_cuts_cost_a_job_only_what_was_not_saved(
    serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    async with serve(database=tmp_path / "undisturbed.db") as served:
        await teach(served.api)
        jobs: list[pb.Job] = []
        expected = await served.api.forget("gossip", jobs.append)
    async with spawn() as server:
        await teach(server.api)
    reached, cuts = 0, 0
    while True:
        async with spawn(job_checkpoint_seconds=0) as server:
            if not cuts:
                call = forgetting(server.api)
            else:
                # Nobody asks again: it goes on by itself. This only joins.
                call = await joined(server.api)
            first = last = (await call.read()).job
            # What was saved is what was seen, or one consolidation less.
            assert first.consolidations >= reached - 1
            session = None
            while session is None and not (cuts < 2 and last.consolidations >= reached + 2):
                event = await call.read()
                if event.WhichOneof("event") == "session":
                    session = event.session
                else:
                    last = event.job
            if session is not None:
                break
            reached, cuts = last.consolidations, cuts + 1
            await server.kill()
    assert cuts == 2
    assert session.memory_hash == expected.memory_hash
    assert session.levels == expected.levels
    assert (last.consolidations, last.folded_records) == (
        jobs[-1].consolidations,
        jobs[-1].total_records,
    )


async def joined(api: Api) -> aio.UnaryStreamCall[Any, Any]:
    """The job as its new server runs it, once the dead one's lease is over."""
    async with asyncio.timeout(30):
        while True:
            call = forgetting(api)
            try:
                await call.wait_for_connection()
                return call
            except aio.AioRpcError as error:
                if refusal_of(error).reason != "SESSION_OWNED_ELSEWHERE":
                    raise
                await asyncio.sleep(0.05)


async def test_a_client_finds_its_job_again_after_a_restart(serve: Serve) -> None:
    async with serve() as first:
        port = first.running.port
        await teach(first.api)
        expected = await undisturbed(first.api)
        Gate(first.running, allowed=3)
        shown: list[int] = []
        held = asyncio.Event()

        def on_progress(job: pb.Job) -> None:
            shown.append(job.consolidations)
            if job.consolidations == 3:
                held.set()

        client = HopeClient(f"127.0.0.1:{port}", user="ada")
        forgotten = asyncio.create_task(
            client.sessions.forget_document("diary", "gossip", on_progress=on_progress)
        )
        await held.wait()
    before = len(shown)
    async with serve(port=port):
        assert (await forgotten).memory_hash == expected.memory_hash
        assert all(consolidations >= 3 for consolidations in shown[before:])
        await client.close()
