"""The README's examples of the clients, run as they stand against a real server."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path

import hope_client
import pytest
from hope_client import SyncHopeClient
from real_server import RealServer

README = Path(__file__).resolve().parents[2] / "README.md"
EXAMPLES = [
    example
    for example in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    if "hope_client" in example
]


def test_both_clients_are_shown() -> None:
    assert [re.search(r"(\w*HopeClient)\(\)", example)[1] for example in EXAMPLES] == [
        "HopeClient",
        "SyncHopeClient",
    ]


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_an_example_runs(
    real_server: RealServer,
    index: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with SyncHopeClient(real_server.target, user=f"reader{index}") as client:
        client.sessions.create("diary", policy="quick")
    # The only thing that is not as a reader has it: where the server listens, and whose it is.
    for name in ("HopeClient", "SyncHopeClient"):
        original = getattr(hope_client, name)
        monkeypatch.setattr(
            hope_client,
            name,
            lambda kind=original: kind(real_server.target, user=f"reader{index}"),
        )
    code = compile(EXAMPLES[index], str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, {})
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    with SyncHopeClient(real_server.target, user=f"reader{index}") as client:
        assert client.sessions.get("diary").learnable_tokens > 0
    assert capsys.readouterr().out.strip()
