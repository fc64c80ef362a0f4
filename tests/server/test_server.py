"""The server as an operator meets it: settings, health, reflection, load, and how it ends."""

from __future__ import annotations

import signal
import socket
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest
from api import NAME, Api, refused
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hope.v1 import admin_pb2
from processes import soon
from serving import Serve, Served, Spawn, connect

from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.models.decoder.weights import BaseModel
from server.app.status import describe_levels
from server.grpc_api.server import SERVICES
from server.main import main
from server.running import window_bytes
from server.settings import Settings

HOPE_SERVICES = {
    "hope.v1.InferenceService",
    "hope.v1.SessionService",
    "hope.v1.AdminService",
}


async def health_of(channel: aio.Channel, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


async def test_every_service_reports_its_health(served: Served) -> None:
    assert set(SERVICES) == HOPE_SERVICES
    for service in ("", *SERVICES):
        assert await health_of(served.api.channel, service) == "SERVING"


async def test_reflection_lists_what_is_there(served: Served) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(served.api.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in stub.ServerReflectionInfo(iter([request])):
        names = {service.name for service in response.list_services_response.service}
        assert names >= HOPE_SERVICES | {"grpc.health.v1.Health"}


async def test_the_server_says_what_it_is(served: Served, chat_model: BaseModel) -> None:
    info = await served.api.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())
    assert info.version == version("hope-server")
    assert info.base_fingerprint == chat_model.fingerprint
    assert (info.model, info.dtype, info.window_tokens) == ("chat", "float32", 256)
    assert set(info.policies) >= {"default", "summed_gradient", "quick"}
    assert info.max_state_bytes == 2 * chat_model.config.parameters_per_rank * (32 + 16 + 8)
    assert describe_levels(served.running.sessions) == (
        f"the 3 levels of a session take at most {info.max_state_bytes / 1e6:.1f} MB, "
        "of rank 32, 16, 8"
    )


async def test_the_load_is_what_runs_now(served: Served, api: Api) -> None:
    call = api.inference.Generate(api.asking("Hi.", max_tokens=100_000))
    assert (await call.read()).delta.text
    load = await api.admin.GetLoad(admin_pb2.GetLoadRequest())
    assert (load.running_turns, load.resident_sessions) == (1, 1)
    call.cancel()
    await api.score("x")
    load = await api.admin.GetLoad(admin_pb2.GetLoadRequest())
    assert (load.running_turns, load.waiting_turns, load.learning_sessions) == (0, 0, 0)


async def test_more_calls_than_allowed_are_refused(serve: Serve) -> None:
    async with serve(max_concurrent_rpcs=1) as served:
        await served.api.create()
        call = served.api.inference.Generate(served.api.asking("Hi.", max_tokens=100_000))
        assert (await call.read()).delta.text
        with pytest.raises(aio.AioRpcError) as caught:
            await served.api.get()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        call.cancel()


async def test_a_drain_finishes_what_runs_and_takes_nothing_new(spawn: Spawn) -> None:
    async with spawn() as server:
        api = server.api
        await api.create()
        call = api.inference.Generate(api.asking("Tell me everything.", max_tokens=400))
        assert (await call.read()).delta.text
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stdout
        assert await server.process.stdout.readline() == b"draining\n"
        assert await health_of(api.channel, "") == "NOT_SERVING"
        async with connect(server.port) as fresh:
            for client in (api, Api(fresh, NAME)):
                async with refused(grpc.StatusCode.UNAVAILABLE, "DRAINING"):
                    await client.say("Me too?")
        last = None
        while (event := await call.read()) is not aio.EOF:
            last = event
        assert last is not None
        assert last.result.usage.output_tokens == 400
        assert await soon(server.process.wait()) == 0
    async with spawn() as server:
        # The lease was released and the turn is there.
        assert (await server.api.get()).log_records == 1
        assert (await server.api.say("Hello again.")).usage.output_tokens


async def test_a_turn_that_does_not_end_in_time_is_cut_off(spawn: Spawn) -> None:
    async with spawn(drain_seconds=0.1) as server:
        await server.api.create()
        call = server.api.inference.Generate(server.api.asking("Hi.", max_tokens=1_000_000))
        assert (await call.read()).delta.text
        server.process.send_signal(signal.SIGTERM)
        assert await soon(server.process.wait()) == 0
    async with spawn() as server:
        assert (await server.api.get()).log_records == 0


# Settings


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and the one line that says why the server does not start."""
    status = main(arguments)
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.strip().splitlines()
    assert line.startswith("hope serve: ")
    return status, line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "loopback"),
        (["--host", "192.168.1.1"], "loopback"),
        (["--host", "::"], "loopback"),
        (["--host", "example.com"], "example.com"),
        (["--port", "65536"], "port: "),
        (["--port", "many"], "port: "),
        (["--threads", "0"], "threads: "),
        (["--dtype", "float16"], "dtype: "),
        (["--window-tokens", "10"], "window_tokens: "),
        (["--lease-seconds", "0"], "lease_seconds: "),
        (["--lease-seconds", "3600"], "lease_seconds: "),
    ],
)
def test_a_wrong_setting_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = refusal(arguments, capsys)
    assert status == 2
    assert words in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_addresses_are_fine(host: str) -> None:
    address = Settings(host=host, port=1).address
    assert address == (f"[{host}]:1" if ":" in host else f"{host}:1")


def test_the_environment_sets_what_the_command_line_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOPE_WINDOW_TOKENS", "512")
    monkeypatch.setenv("HOPE_PORT", "1")
    settings = Settings(port=2)
    assert (settings.window_tokens, settings.port) == (512, 2)


def test_a_server_that_cannot_start_says_why_in_one_line(
    chat_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(chat_model_dir), "--dtype", "float32", "--threads", "1", "--port", "0"]
    fine = ["--database", str(tmp_path / "sessions.db")]
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database" * 1000)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (["--model", str(tmp_path / "missing.gguf"), *fine], "missing.gguf"),
            ([*model, "--database", str(broken)], "broken.db"),
            ([*model, "--database", str(broken / "below.db")], "broken.db"),
            ([*model, *fine, "--window-tokens", "9000"], "8192 positions"),
            ([*model, *fine, "--port", port], f"cannot listen on 127.0.0.1:{port}"),
        ):
            capsys.readouterr()
            status = main(arguments)
            lines = [
                line
                for line in capsys.readouterr().err.splitlines()
                if line.startswith("hope serve: ")
            ]
            assert status == 1
            assert len(lines) == 1
            assert words in lines[0]


async def test_windows_take_what_is_free_where_their_size_is_left_open(
    serve: Serve, small_model: BaseModel
) -> None:
    settings = Settings(window_cache_bytes="auto")
    assert window_bytes(settings, small_model) > 1 << 20
    assert window_bytes(Settings(window_cache_bytes=7), small_model) == 7
    async with serve(model=small_model, window_cache_bytes="auto") as served:
        engine = served.running.sessions.engine
        assert isinstance(engine, TorchEngine)
        assert engine.slot_pool.slots > 1
