"""deploy/envoy.yaml in a real Envoy before two real servers, with secrets from deploy/ as well.

Only addresses and directories are replaced. The servers have a store each, so a call that went
astray would find no session.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from hope_client import NotFoundError, SyncHopeClient, UnauthenticatedError

ROOT = Path(__file__).resolve().parents[2]
QUICK_SERVER = ROOT / "tests" / "server" / "quick_server.py"
ENVOY = Path(sys.executable).with_name("envoy")
SESSIONS = [f"session-{number}" for number in range(12)]


@dataclass
class Deployment:
    """Two servers and a proxy; `ports` are the servers' own."""

    secrets: Path
    port: int
    ports: list[int]
    servers: list[subprocess.Popen[str]]

    def client(self, port: int | None = None, *, user: str = "ada") -> SyncHopeClient:
        token = run("token.sh", user, "600", str(self.secrets)).strip()
        return SyncHopeClient(
            f"localhost:{port or self.port}",
            user="ada",
            timeout_seconds=30,
            credentials=grpc.ssl_channel_credentials((self.secrets / "ca.pem").read_bytes()),
            token=token,
        )

    def held_by(self, port: int) -> set[str]:
        with self.client(port) as client:
            return {each.name.rpartition("/")[2] for each in client.sessions.list()}


def run(script: str, *arguments: str) -> str:
    command = [str(ROOT / "deploy" / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def deployment(
    chat_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("deployment")
    secrets = directory / "secrets"
    run("secrets.sh", str(secrets))
    with contextlib.ExitStack() as stack:
        servers, ports = [], []
        for name in ("hope-1", "hope-2"):
            options = {
                "port": 0,
                "database": directory / f"{name}.db",
                "key-database": directory / f"{name}-keys.db",
                "model": chat_model_dir,
                "dtype": "float32",
                "threads": 1,
                "window-tokens": 256,
                "drain-seconds": 5,
                "tls-cert-file": secrets / "server.pem",
                "tls-key-file": secrets / "server.key",
                "token-key-file": secrets / "token.key",
                "master-key-file": secrets / "master.key",
            }
            arguments = [f"--{option}={value}" for option, value in options.items()]
            server = subprocess.Popen(
                [sys.executable, str(QUICK_SERVER), *arguments], stdout=subprocess.PIPE, text=True
            )
            stack.callback(server.kill)
            assert server.stdout
            line = server.stdout.readline()
            assert "listens on" in line, line
            servers.append(server)
            ports.append(int(line.rpartition(":")[2]))
        port = free_port()
        config = (ROOT / "deploy" / "envoy.yaml").read_text("utf-8")
        for old, new in (
            ("address: 0.0.0.0, port_value: 50051", f"address: 127.0.0.1, port_value: {port}"),
            ("address: hope-1, port_value: 50051", f"address: 127.0.0.1, port_value: {ports[0]}"),
            ("address: hope-2, port_value: 50051", f"address: 127.0.0.1, port_value: {ports[1]}"),
        ):
            assert config.count(old) == 1
            config = config.replace(old, new)
        path = directory / "envoy.yaml"
        path.write_text(config.replace("/run/secrets", str(secrets)))
        with (directory / "envoy.log").open("w") as log:
            command = [str(ENVOY), "-c", str(path), "--concurrency", "1", "--log-level", "warn"]
            envoy = subprocess.Popen([*command, "--disable-hot-restart"], stdout=log, stderr=log)
        stack.callback(envoy.kill)
        made = Deployment(secrets, port, ports, servers)
        wait(lambda: serving(made), (directory / "envoy.log"))
        yield made


def serving(deployment: Deployment) -> bool:
    with deployment.client() as client, contextlib.suppress(Exception):
        return client.serving()
    return False


def wait(done: object, log: Path | None = None, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    assert callable(done)
    while not done():
        assert time.monotonic() < deadline, log.read_text() if log else "it took too long"
        time.sleep(0.1)


def test_a_sessions_calls_go_to_one_server(deployment: Deployment) -> None:
    with deployment.client() as client:
        for name in SESSIONS:
            client.sessions.create(name, policy="quick")
    parts = [deployment.held_by(port) for port in deployment.ports]
    assert all(parts)
    assert sorted(parts[0] | parts[1]) == sorted(SESSIONS)
    assert not parts[0] & parts[1]
    for _ in range(2):
        with deployment.client() as client:  # by a connection of its own
            for name in SESSIONS:
                assert client.sessions.get(name).name.endswith(name)
    name = SESSIONS[0]
    with deployment.client() as client:
        assert client.say(name, "Hello.").usage.output_tokens
        assert client.ingest(name, "A text about ships.", document="book").ended


def test_credentials_pass_through(deployment: Deployment) -> None:
    with deployment.client(user="bob") as client, pytest.raises(NotFoundError):
        client.sessions.get(SESSIONS[0])
    channel = grpc.ssl_channel_credentials((deployment.secrets / "ca.pem").read_bytes())
    target = f"localhost:{deployment.port}"
    with (
        SyncHopeClient(target, user="ada", credentials=channel) as client,
        pytest.raises(UnauthenticatedError),
    ):
        client.sessions.get(SESSIONS[0])


def test_a_server_that_leaves_gets_nothing_new(deployment: Deployment) -> None:
    leaving, staying = deployment.ports
    theirs, others = deployment.held_by(leaving), deployment.held_by(staying)
    deployment.servers[0].send_signal(signal.SIGTERM)
    with deployment.client() as client:

        def gone() -> bool:
            # Routed to the other server, whose store has none of these.
            try:
                return not [client.sessions.get(name) for name in theirs]
            except NotFoundError:
                return True

        wait(gone)
        for name in others:  # as before
            assert client.sessions.get(name).name.endswith(name)
    assert deployment.servers[0].wait(30) == 0
