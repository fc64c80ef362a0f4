"""Dependencies point one way, between packages and within them.

clients -> protos <- server -> hope_runtime <- hope_lab; hope_documents lies below clients and
server. Seen twice: by the imports in the files, which name the line that breaks the rule, and from
outside, by what a fresh interpreter has loaded.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each package of hope_runtime, and those that it may import, from the lowest upwards.
RUNTIME = ("layers", "session", "models", "optim", "learning", "checkpoints", "engine")
MAY_IMPORT = {
    "layers": set(),
    "session": {"layers"},
    "models": {"layers", "session"},
    "optim": set(),
    "learning": {"layers", "session", "models", "optim"},
    "checkpoints": {"layers", "session", "models"},
    "engine": {"layers", "session", "models", "learning", "checkpoints"},
}
# The same for the server. Its modules above all packages put them together.
SERVER = ("crypto", "auth", "store", "telemetry", "app", "grpc_api", "http_api")
SERVER_MAY_IMPORT = {
    "crypto": set(),
    "auth": {"crypto"},
    "store": {"crypto"},
    "telemetry": {"store"},
    "app": {"crypto", "auth", "store", "telemetry"},
    "grpc_api": {"auth", "store", "telemetry", "app"},
    "http_api": {"auth", "store", "telemetry", "app"},
}
COMPOSITION = ("main", "running", "gateway", "settings")
FAMILIES = ("decoder", "fast_memory", "hope")
MAY_IMPORT_OF_MODELS = {"decoder": set(), "fast_memory": {"decoder"}, "hope": {"decoder"}}


def imports(folder: Path) -> Iterator[tuple[str, str]]:
    """(place, imported module) for every import in the files under `folder`."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                yield from ((place, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((place, f"{node.module}.{alias.name}") for alias in node.names)


def offences(folder: Path, prefix: str, allowed: set[str], all_of: tuple[str, ...]) -> list[str]:
    """Imports of siblings under `prefix` that `folder` may not have."""
    own = folder.name
    found = []
    for place, module in imports(folder):
        if not module.startswith(prefix + "."):
            continue
        sibling = module.removeprefix(prefix + ".").split(".")[0]
        if sibling in all_of and sibling != own and sibling not in allowed:
            found.append(f"{place} imports {module}")
    return found


@pytest.mark.parametrize("package", RUNTIME)
def test_packages_of_the_runtime_need_none_above_them(package: str) -> None:
    folder = ROOT / "hope_runtime" / package
    assert not offences(folder, "hope_runtime", MAY_IMPORT[package], RUNTIME)


@pytest.mark.parametrize("package", SERVER)
def test_packages_of_the_server_need_none_above_them(package: str) -> None:
    folder = ROOT / "server" / package
    everything = (*SERVER, *COMPOSITION)
    assert not offences(folder, "server", SERVER_MAY_IMPORT[package], everything)


@pytest.mark.parametrize(
    ("order", "allowed"),
    [
        (RUNTIME, MAY_IMPORT),
        (SERVER, SERVER_MAY_IMPORT),
        (FAMILIES, MAY_IMPORT_OF_MODELS),
    ],
)
def test_what_is_allowed_has_no_cycle(order: tuple[str, ...], allowed: dict[str, set[str]]) -> None:
    """Each package may import packages before it only, so no path leads back."""
    assert {
        package: allowed[package] - set(order[: order.index(package)]) for package in order
    } == {package: set() for package in order}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_models(family: str) -> None:
    folder = ROOT / "hope_runtime" / "models" / family
    allowed = MAY_IMPORT_OF_MODELS[family]
    assert not offences(folder, "hope_runtime.models", allowed, FAMILIES)


def test_every_package_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "hope_runtime").glob("*/__init__.py")}
    assert folders == set(RUNTIME)
    server = {path.parent.name for path in (ROOT / "server").glob("*/__init__.py")}
    assert server == set(SERVER)
    modules = {path.stem for path in (ROOT / "server").glob("*.py")} - {"__init__"}
    assert modules == set(COMPOSITION)
    families = {path.parent.name for path in (ROOT / "hope_runtime/models").glob("*/__init__.py")}
    assert families == set(FAMILIES)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("hope_runtime", ("hope_lab", "server", "hope_client", "grpc", "redis", "starlette")),
        ("hope_runtime/layers", ("hope_runtime.session", "hope_runtime.tokenizer")),
        ("hope_lab", ("server", "hope_client", "grpc")),
        ("server", ("hope_client", "hope_lab")),
        ("server/app", ("grpc", "starlette", "hope.v1")),
        ("server/grpc_api", ("starlette", "uvicorn")),
        ("server/http_api", ("grpc", "hope.v1")),
        ("server/crypto", ("torch", "hope_runtime", "grpc")),
        ("server/store", ("torch", "numpy", "hope_runtime", "grpc")),
        ("clients/python", ("server", "hope_runtime", "hope_lab", "torch")),
        (
            "hope_documents",
            ("server", "hope_runtime", "hope_lab", "hope_client", "hope.v1", "grpc", "torch"),
        ),
    ],
)
def test_a_folder_names_nothing_foreign(folder: str, forbidden: tuple[str, ...]) -> None:
    found = [
        f"{place} imports {module}"
        for place, module in imports(ROOT / folder)
        if any(module == name or module.startswith(name + ".") for name in forbidden)
    ]
    assert not found


def test_a_forbidden_import_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above look at what they say they look at."""
    monkeypatch.setattr("test_layers.ROOT", tmp_path)
    layers = tmp_path / "hope_runtime" / "layers"
    layers.mkdir(parents=True)
    (layers / "bad.py").write_text("def f():\n    from hope_runtime.session import memory\n")
    assert offences(layers, "hope_runtime", MAY_IMPORT["layers"], RUNTIME) == [
        "hope_runtime/layers/bad.py:2 imports hope_runtime.session.memory"
    ]
    store = tmp_path / "server" / "store"
    store.mkdir(parents=True)
    (store / "bad.py").write_text("from server.settings import Settings\n")
    everything = (*SERVER, *COMPOSITION)
    assert offences(store, "server", SERVER_MAY_IMPORT["store"], everything) == [
        "server/store/bad.py:1 imports server.settings.Settings"
    ]


def reached(folder: Path) -> Iterator[str]:
    """Places that go through Sessions to its store or its engine."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("store", "engine"):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in ("sessions", "_sessions"):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} reaches .{node.attr}"


def test_only_the_application_knows_store_and_engine_of_sessions() -> None:
    assert list(reached(ROOT / "server" / "app")), "what this looks for is there"
    found = [place for place in reached(ROOT / "server") if not place.startswith("server/app/")]
    assert not found


IMPORT_ALL = """
import importlib, json, pkgutil, sys
# What runs inside vLLM's process imports vLLM, and kernels for GPUs Triton: neither is needed here.
ELSEWHERE = (".vllm.worker.", ".triton_kernels", ".in_place_step")
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__") and not any(e in module.name for e in ELSEWHERE):
            importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*packages: str) -> set[str]:
    command = [sys.executable, "-c", IMPORT_ALL, *packages]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        (
            "hope_runtime",
            {"grpc", "redis", "prometheus_client", "server", "hope", "hope_client", "hope_lab"},
        ),
        ("hope_client", {"server", "hope_runtime", "hope_lab", "torch"}),
        ("server.store", {"torch", "numpy", "hope_runtime", "grpc", "hope"}),
        (
            "hope_documents",
            {"server", "hope_runtime", "hope_client", "grpc", "torch", "pypdf", "trafilatura"},
        ),
        ("hope.v1", {"server", "hope_runtime", "hope_client", "torch"}),
    ],
)
def test_a_package_loads_nothing_above_it(package: str, forbidden: set[str]) -> None:
    assert not loaded_by(package) & forbidden


def test_the_server_knows_no_client() -> None:
    assert "hope_client" not in loaded_by("server")
