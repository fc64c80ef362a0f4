"""Dockerfile and compose file, as far as a machine without a container engine can tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from server.auth.tokens import TokenVerifier
from server.crypto.keys import parse_master_keys
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
# What the client and the cache look at in the environment.
OTHER_VARIABLES = {"HOPE_CA_FILE", "HOPE_CACHE_DIR", "HOPE_KERNELS_DIR", "HOPE_TOKEN"}


def check(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    check(BIN / "hadolint", "Dockerfile")


@pytest.mark.parametrize("name", ["compose.yaml", "watch.yaml"])
def test_a_compose_file_fits_its_specification(name: str) -> None:
    check(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / name)


def test_what_watching_mounts_and_scrapes_is_there() -> None:
    watch = yaml.safe_load((DEPLOY / "watch.yaml").read_text("utf-8"))
    serving = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    mounts = [
        mount for service in watch["services"].values() for mount in service.get("volumes", ())
    ]
    sources = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(sources) == 3
    assert all((DEPLOY / source).is_dir() for source in sources)
    scraped = {name for name, service in watch["services"].items() if "image" not in service}
    assert scraped == {name for name in serving["services"] if name.startswith("hope-")}
    config = (DEPLOY / "prometheus/prometheus.yaml").read_text("utf-8")
    port = watch["services"]["hope-1"]["environment"]["HOPE_METRICS_PORT"]
    assert all(f'"{name}:{port}"' in config for name in scraped)


def test_every_setting_in_them_is_one() -> None:
    files = (DEPLOY / "compose.yaml", DEPLOY / "watch.yaml", ROOT / "Dockerfile")
    text = "".join(path.read_text("utf-8") for path in files)
    named = set(re.findall(r"\bHOPE_[A-Z_]+", text)) - OTHER_VARIABLES
    assert len(named) > 5
    assert named <= {f"HOPE_{name.upper()}" for name in Settings.model_fields}


def test_the_image_copies_what_is_there_and_nothing_is_kept_from_it() -> None:
    sources = {
        source
        for line in re.findall(r"^COPY (?!--)(.+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.M)
        for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == sources


def test_the_gateway_is_published_where_envoy_and_the_replicas_have_it() -> None:
    serving = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text("utf-8"))["static_resources"]
    listening = {each["address"]["socket_address"]["port_value"] for each in envoy["listeners"]}
    assert {f"{port}:{port}" for port in listening} == set(serving["envoy"]["ports"])
    replicas = {name: each for name, each in serving.items() if name.startswith("hope-")}
    addresses = {
        (address["address"], str(address["port_value"]))
        for cluster in envoy["clusters"]
        for host in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        for address in [host["endpoint"]["address"]["socket_address"]]
    }
    assert addresses == {
        (name, port)
        for name, each in replicas.items()
        for port in (str(Settings().port), each["environment"]["HOPE_HTTP_PORT"])
    }
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r'\*\.whl\)\[([a-z,]+)\]"', dockerfile)) == {"redis,http,documents"}


def test_secrets_are_made_once_and_fit_the_server(tmp_path: Path) -> None:
    check(DEPLOY / "secrets.sh", tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    check(DEPLOY / "secrets.sh", tmp_path)
    assert made == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    parse_master_keys((tmp_path / "master.key").read_text(), "master.key")
    command = [DEPLOY / "token.sh", "ada", "60", tmp_path]
    token = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    verifier = TokenVerifier.shared(tmp_path / "token.key", audience="hope-server")
    assert verifier.user(token) == "ada"
    compose = (DEPLOY / "compose.yaml").read_text("utf-8")
    wanted = set(re.findall(r"file: \./secrets/([a-z.]+)", compose))
    assert wanted <= made.keys()


def test_the_wheel_has_all_that_a_server_needs(tmp_path: Path) -> None:
    """The image's own steps, with the dependencies that are here already."""
    wheel, installed = tmp_path / "wheel", tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    check(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheel, ".")
    (built,) = wheel.glob("*.whl")
    check(*pip, "install", "--no-deps", "--target", installed, built)
    here = {path.relative_to(ROOT) for path in ROOT.glob("hope_runtime/**/*") if path.is_file()}
    data = {path for path in here if path.suffix in {".py", ".txt", ".safetensors", ".cpp", ".h"}}
    assert data
    assert all((installed / path).exists() for path in data)
    environment = os.environ | {"PYTHONPATH": str(installed)}
    for module in ("server.main", "hope_client.cli"):
        code = f"import {module}; print({module}.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith(str(installed)), done.stderr


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_each_target_ends_in_the_same_server(target: str) -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert re.search(rf"^FROM base AS {target}$", text, re.M)
    assert f"COPY --from=venv-{target} /opt/hope /opt/hope" in text
    steps = {
        name: re.sub(r"TORCH_\w+", "TORCH", text.split(f"AS venv-{name}\n")[1].split("\nFROM")[0])
        for name in ("cpu", "cuda")
    }
    assert steps["cpu"].strip() == steps["cuda"].strip()
