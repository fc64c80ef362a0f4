"""The public surface: what is generated is fresh, and methods come and go on purpose only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from hope.v1 import admin_pb2, inference_pb2, sessions_pb2

PROTOS = Path(__file__).resolve().parents[2] / "protos"

METHODS = {
    "hope.v1.InferenceService": ["Generate >", "Ingest <>", "Score"],
    "hope.v1.SessionService": [
        "CreateSession",
        "GetSession",
        "ListSessions",
        "UpdateSession",
        "DeleteSession",
        "ForkSession",
        "CreateSnapshot",
        "ListSnapshots",
        "DeleteSnapshot",
        "RollbackSession",
        "ResetLevels",
        "Consolidate",
        "ListConsolidations",
        "EndConversation",
        "ForgetDocument >",
        "ListStatements",
        "ForgetStatements >",
        "DiffVersions",
        "ExportSession >",
        "ImportSession <",
        "MigrateSession >",
        "CancelJob",
        "DeleteUser",
    ],
    "hope.v1.AdminService": ["GetServerInfo", "GetLoad", "ListTopDrift", "SetFrozen", "Drain"],
}


def methods(service: ServiceDescriptor) -> list[str]:
    """Names in order; < and > say that requests or responses are streams."""
    return [
        f"{method.name} {'<' * method.client_streaming}{'>' * method.server_streaming}".rstrip()
        for method in service.methods
    ]


def test_services_and_methods_are_the_published_ones() -> None:
    modules = (inference_pb2, sessions_pb2, admin_pb2)
    services = [s for module in modules for s in module.DESCRIPTOR.services_by_name.values()]
    assert {service.full_name: methods(service) for service in services} == METHODS


def test_what_is_generated_is_fresh(tmp_path: Path) -> None:
    plugins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, PROTOS / "generate.py", tmp_path]
    subprocess.run(command, check=True, env=os.environ | {"PATH": plugins})
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py*"))
    kept = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*_pb2*.py*"))
    kept = [path for path in kept if path.suffix in (".py", ".pyi")]
    assert made == kept
    assert len(made) == 3 * 4
    for path in made:
        assert (tmp_path / path).read_bytes() == (PROTOS / path).read_bytes(), (
            f"{path} is stale: run `make protos`"
        )


@pytest.mark.parametrize("module", [inference_pb2, sessions_pb2, admin_pb2])
def test_every_method_has_messages_of_its_own(module: object) -> None:
    for service in module.DESCRIPTOR.services_by_name.values():  # type: ignore[attr-defined]
        for method in service.methods:
            assert method.input_type.name == f"{method.name}Request"
            assert method.output_type.name == f"{method.name}Response"


@pytest.mark.parametrize("module", [inference_pb2, sessions_pb2, admin_pb2])
def test_enums_begin_with_unspecified(module: object) -> None:
    for enum in module.DESCRIPTOR.enum_types_by_name.values():  # type: ignore[attr-defined]
        assert enum.values[0].name.endswith("_UNSPECIFIED")
        assert enum.values[0].number == 0
