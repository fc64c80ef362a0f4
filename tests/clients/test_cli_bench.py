"""`hope bench`: loads a server, leaves nothing behind, and counts what fails."""

from __future__ import annotations

import json

import grpc
import pytest
from scripted_server import Failure


@pytest.mark.parametrize("arrivals", [[], ["--rate", "40"]])
async def test_a_load_is_measured_and_leaves_no_session(server, hope, arrivals):
    known = set(server.sessions)
    options = ["--sessions", "2", "--seconds", "0.3", "--json", *arrivals]
    code, out, _ = await hope("bench", *options)
    found = json.loads(out)
    assert code == 0
    assert found["turns"] > 1
    assert found["errors"] == 0
    assert found["tokens_per_second"] > 0
    for kind in ("first_text_ms", "turn_ms"):
        assert 0 < found[kind]["50"] <= found[kind]["90"] <= found[kind]["99"]
    assert set(server.sessions) == known


async def test_people_get_a_table(hope):
    code, out, _ = await hope("bench", "--sessions", "1", "--seconds", "0.1")
    assert code == 0
    assert "tokens per second" in out
    assert "first text" in out
    assert "p99" in out


async def test_turns_that_fail_are_counted(server, hope):
    server.turns.extend([[Failure(grpc.StatusCode.INTERNAL, "broken", "BROKEN")]] * 3)
    code, out, _ = await hope("bench", "--sessions", "1", "--seconds", "0.2", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["errors"] == 3
    assert found["turns"] > 0
