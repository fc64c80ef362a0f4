"""deploy/envoy.yaml in a real Envoy before two real servers, gRPC and HTTP, with secrets from
deploy/ as well.

Only addresses and directories are replaced. The servers have a store each, so a call that went
astray would find no session.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx2 as httpx
import pytest
from hope_client import NotFoundError, SyncHopeClient, UnauthenticatedError

ROOT = Path(__file__).resolve().parents[2]
QUICK_SERVER = ROOT / "tests" / "server" / "quick_server.py"
ENVOY = Path(sys.executable).with_name("envoy")
API_KEY = "a-key-of-ada"
SESSIONS = [f"session-{number}" for number in range(12)]


@dataclass
class Deployment:
    """Two servers and a proxy; `ports` are the servers' own for gRPC."""

    secrets: Path
    port: int
    http_port: int
    ports: list[int]
    servers: list[subprocess.Popen[str]]

    def token(self, user: str = "ada", seconds: int = 600) -> str:
        return run("token.sh", user, str(seconds), str(self.secrets)).strip()

    def http(self, credential: str) -> httpx.Client:
        trusted = ssl.create_default_context(cafile=self.secrets / "ca.pem")
        return httpx.Client(
            base_url=f"https://localhost:{self.http_port}",
            verify=trusted,
            headers={"Authorization": f"Bearer {credential}"},
            timeout=60,
            trust_env=False,
        )

    def client(
        self, port: int | None = None, *, user: str = "ada", named: str = "ada", token: str = ""
    ) -> SyncHopeClient:
        return SyncHopeClient(
            f"localhost:{port or self.port}",
            user=named,
            timeout_seconds=30,
            credentials=grpc.ssl_channel_credentials((self.secrets / "ca.pem").read_bytes()),
            token=token or self.token(user),
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
    keys = directory / "api-keys"
    keys.write_text(f"{hashlib.sha256(API_KEY.encode()).hexdigest()} ada\n")
    with contextlib.ExitStack() as stack:
        servers, ports, http_ports = [], [], []
        for name in ("hope-1", "hope-2"):
            options = {
                "port": 0,
                "http-port": 0,
                "api-key-file": keys,
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
            line = server.stdout.readline()
            assert line.startswith("HTTP"), line
            http_ports.append(int(line.rpartition(":")[2].removesuffix("/v1\n")))
        port, http_port = free_port(), free_port()
        config = (ROOT / "deploy" / "envoy.yaml").read_text("utf-8")
        for old, new in (
            ("0.0.0.0, port_value: 50051", port),
            ("0.0.0.0, port_value: 8080", http_port),
            ("hope-1, port_value: 50051", ports[0]),
            ("hope-2, port_value: 50051", ports[1]),
            ("hope-1, port_value: 8080", http_ports[0]),
            ("hope-2, port_value: 8080", http_ports[1]),
        ):
            assert config.count(f"address: {old}") == 1
            config = config.replace(f"address: {old}", f"address: 127.0.0.1, port_value: {new}")
        path = directory / "envoy.yaml"
        path.write_text(config.replace("/run/secrets", str(secrets)))
        with (directory / "envoy.log").open("w") as log:
            command = [str(ENVOY), "-c", str(path), "--concurrency", "1", "--log-level", "warn"]
            envoy = subprocess.Popen([*command, "--disable-hot-restart"], stdout=log, stderr=log)
        stack.callback(envoy.kill)
        made = Deployment(secrets, port, http_port, ports, servers)
        wait(lambda: serving(made), (directory / "envoy.log"))
        yield made


def serving(deployment: Deployment) -> bool:
    with (
        deployment.client() as client,
        deployment.http(API_KEY) as http,
        contextlib.suppress(Exception),
    ):
        return client.serving() and http.get("/health").status_code == 200
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


def test_http_calls_go_where_grpc_calls_go(deployment: Deployment) -> None:
    """By whatever name the session is called, and with a new token of the same user."""
    owned = [deployment.held_by(port) for port in deployment.ports]
    with deployment.http(deployment.token(seconds=500)) as http:
        for name in SESSIONS:
            assert http.get(f"/v1/sessions/{name}").status_code == 200
            body = {
                "model": "hope",
                "messages": [{"role": "user", "content": f"I call it {name}."}],
                "max_tokens": 2,
            }
            reply = http.post("/v1/chat/completions", json=body, headers={"Hope-Session": name})
            assert reply.json()["hope"]["session"] == f"users/ada/sessions/{name}"
    with deployment.client(named="@me", token=deployment.token(seconds=400)) as client:
        taught = [client.sessions.get(name).learnable_tokens for name in SESSIONS]
    assert all(taught)
    # Nothing was made on the other server, as HTTP would have done.
    assert [deployment.held_by(port) for port in deployment.ports] == owned


def test_sessions_of_an_api_key_stay_together_too(deployment: Deployment) -> None:
    names = [f"key-{number}" for number in range(8)]
    with deployment.client(token=API_KEY) as client, deployment.http(API_KEY) as http:
        for name in names:
            client.sessions.create(name)
            assert http.get(f"/v1/sessions/{name}").status_code == 200
            assert client.sessions.get(name).name.endswith(name)
        parts = [deployment.held_by(port) & set(names) for port in deployment.ports]
        assert all(parts)
        for name in names:
            client.sessions.delete(name)


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
    with deployment.http("of nobody") as http:
        refused = http.get(f"/v1/sessions/{SESSIONS[0]}")
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"


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
    with deployment.http(deployment.token()) as http:
        wait(lambda: http.get(f"/v1/sessions/{min(theirs)}").status_code == 404)
        for name in others:
            assert http.get(f"/v1/sessions/{name}").status_code == 200
    assert deployment.servers[0].wait(30) == 0
