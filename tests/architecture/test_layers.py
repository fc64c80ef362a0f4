"""Dependencies point one way: clients -> protos <- server -> hope_runtime; a store knows no tensor.

Looked at from outside: what a fresh interpreter has loaded once every module of a package is.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, json, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        # What runs inside vLLM's process imports vLLM, which is not here.
        if not module.name.endswith("__main__") and ".vllm.worker." not in module.name:
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
        ("hope_runtime", {"grpc", "redis", "prometheus_client", "server", "hope", "hope_client"}),
        ("hope_client", {"server", "hope_runtime", "torch"}),
        ("server.store", {"torch", "numpy", "hope_runtime", "grpc", "hope"}),
        ("hope.v1", {"server", "hope_runtime", "hope_client", "torch"}),
    ],
)
def test_a_package_loads_nothing_above_it(package: str, forbidden: set[str]) -> None:
    assert not loaded_by(package) & forbidden


def test_the_server_knows_no_client() -> None:
    assert "hope_client" not in loaded_by("server")
