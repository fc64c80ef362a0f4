"""The README's examples of the HTTP gateway run as they stand, but for the port."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest
from gateway import Gateway

README = (Path(__file__).parents[3] / "README.md").read_text("utf-8")


def example(language: str, word: str) -> str:
    """The one block of code in a language that has the word."""
    (found,) = (
        block for block in re.findall(rf"```{language}\n(.*?)```", README, re.S) if word in block
    )
    return str(found)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_examples(gateway: Gateway) -> None:
    curl = example("sh", "curl").replace("http://127.0.0.1:8080", gateway.url)
    assert '"learnable_tokens":6' in await run("sh", "-c", curl)
    python = example("python", "OpenAI").replace("http://127.0.0.1:8080", gateway.url)
    assert await run(sys.executable, "-c", python)
    session = await gateway.api.get()
    assert session.conversations[-1] == "tomorrow"
