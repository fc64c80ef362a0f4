"""What mypy --strict says of a user's program, when hope-server is installed as a wheel.

Installed, not found on a path: whether the markers and stubs reach the wheel is half of the matter.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.heavy

RIGHT = """
import asyncio
from pathlib import Path
from typing import assert_type

from hope_client import (
    GenerateResult, HopeClient, HopeClientError, IngestEvent, IngestResult, RetryPolicy, Sampling,
    Session, SyncHopeClient, TextDelta,
)


def show(event: IngestEvent) -> None:
    print(event)


async def read() -> None:
    async with HopeClient(retry=RetryPolicy(attempts=3)) as client:
        session, created = await client.sessions.get_or_create("diary")
        assert_type(session, Session)
        assert_type(created, bool)
        async for event in client.generate("diary", "Hi", sampling=Sampling(temperature=0.5)):
            if isinstance(event, TextDelta):
                assert_type(event.text, str)
        assert_type([each async for each in client.sessions.list()], list[Session])
        assert_type(await client.ingest("diary", Path("novel.txt"), on_progress=show), IngestResult)


def talk() -> None:
    with SyncHopeClient("127.0.0.1:50051", user="ada") as client:
        session, created = client.sessions.get_or_create("diary")
        assert_type(session, Session)
        assert_type(created, bool)
        for event in client.generate("diary", "Hi", learn=False):
            if isinstance(event, TextDelta):
                assert_type(event.text, str)
        assert_type(client.say("diary", "Hi"), GenerateResult)
        assert_type(list(client.sessions.list()), list[Session])
        assert_type(client.ingest("diary", iter([b"x"]), document="d"), IngestResult)
        try:
            client.sessions.delete("diary", etag=session.etag)
        except HopeClientError as error:
            assert_type(error.retry_after_seconds, float | None)


asyncio.run(read())
talk()
"""

WRONG = """
from hope_client import SyncHopeClient

client = SyncHopeClient()
client.say("diary")
client.say("diary", "Hi", temperature=0.5)
client.sessions.rollback("diary", "yesterday")
version: str = client.sessions.get("diary").memory_version
for session in client.sessions.list():
    session.name.lower(1)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose site-packages hold the wheel of this tree, beside what is installed here."""
    directory = tmp_path_factory.mktemp("typing")
    source = directory / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("clients", "protos", "server", "hope_runtime"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, directory], cwd=source, check=True, capture_output=True
    )
    [wheel] = directory.glob("*.whl")
    venv.create(directory / "venv", with_pip=False)
    [packages] = (directory / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return directory / "venv" / "bin" / "python"


def strictly(python: Path, program: str, directory: Path) -> list[str]:
    (directory / "program.py").write_text(program)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file="),
            *("--python-executable", python, "program.py"),
        ],
        cwd=directory,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_right_program_passes(installed: Path, tmp_path: Path) -> None:
    assert strictly(installed, RIGHT, tmp_path) == []


def test_wrong_ones_do_not(installed: Path, tmp_path: Path) -> None:
    found = strictly(installed, WRONG, tmp_path)
    wrong_lines = [line.split(":")[1] for line in found if ": error: " in line]
    assert wrong_lines == ["5", "6", "7", "8", "10"]
