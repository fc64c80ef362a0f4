"""A server with master keys: what lies on the disk, and what becomes of it without the keys."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import grpc
import pytest
from api import NAME, USER, refused
from hope.v1 import sessions_pb2 as pb
from serving import Serve
from valkey_process import StoreProcess, binaries

from server.crypto.files import KeyFileError
from server.crypto.keys import MasterKeyError
from server.main import main
from server.settings import Settings
from server.store.errors import CorruptStoreError
from server.store.factory import make_store

SECRET = "zebra-umbrella-4711"
TEXT = f"The code word is {SECRET}. " * 4


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "master.key"
    path.write_text("5a" * 32 + "\n")
    return path


def write(path: Path, text: str) -> None:
    path.write_text(text)


def settings(directory: Path, key_file: Path) -> Settings:
    return Settings(
        master_key_file=key_file,
        key_database=directory / "keys.db",
        database=directory / "sessions.db",
    )


def on_disk(directory: Path) -> bytes:
    """All bytes of a store, its write-ahead log or append-only file included."""
    return b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("kind", ["sqlite", *sorted(binaries())])
async def test_what_users_say_is_on_the_disk_only_without_keys(
    serve: Serve, tmp_path: Path, key_file: Path, kind: str, sealed: bool
) -> None:
    options: dict[str, object] = {}
    if sealed:
        options = {"master_key_file": key_file, "key_database": tmp_path / "keys.db"}
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            options["database"] = data / "sessions.db"
        else:
            process = StoreProcess(binaries()[kind], data, appendfsync="always").start()
            stack.callback(process.kill)
            options["store"] = process.url
        async with serve(**options) as served:
            await served.api.create()
            # Its name is stored as it is; what is said, as tokens.
            await served.api.say(TEXT, conversation=SECRET)
            assert (SECRET.encode() in on_disk(data)) != sealed
        async with serve(**options) as served:
            assert (await served.api.get()).learnable_tokens


async def test_without_its_keys_a_session_is_lost_and_says_so(
    serve: Serve, tmp_path: Path, key_file: Path
) -> None:
    keys = {"master_key_file": key_file, "key_database": tmp_path / "keys.db"}
    async with serve(**keys) as served:
        await served.api.create()
        await served.api.say(TEXT)
        before = await served.api.learnt()
    async with serve() as served, refused(grpc.StatusCode.DATA_LOSS, "CORRUPT_STATE"):
        await served.api.get()
    other = tmp_path / "other.key"
    write(other, "a5" * 32)
    with pytest.raises(CorruptStoreError, match="a master key that was not given"):
        await make_store(settings(tmp_path, other)).open()
    write(other, "a5" * 32 + "\n" + "5a" * 32)  # a new one, before the old
    async with serve(**keys | {"master_key_file": other}) as served:
        assert (await served.api.get()).memory_hash == before.memory_hash
        await served.api.say(TEXT)


async def test_a_session_of_before_the_keys_says_so(
    serve: Serve, tmp_path: Path, key_file: Path
) -> None:
    async with serve() as served:
        await served.api.create()
    keys = {"master_key_file": key_file, "key_database": tmp_path / "keys.db"}
    async with (
        serve(**keys) as served,
        refused(grpc.StatusCode.DATA_LOSS, "CORRUPT_STATE"),
    ):
        await served.api.get()


async def test_an_erased_user_cannot_be_read_from_a_copy_either(
    serve: Serve, tmp_path: Path, key_file: Path
) -> None:
    keys = {"master_key_file": key_file, "key_database": tmp_path / "keys.db"}
    async with serve(**keys) as served:
        await served.api.create()
        await served.api.say(TEXT)
    shutil.copy(tmp_path / "sessions.db", tmp_path / "backup.db")
    async with serve(**keys, database=tmp_path / "backup.db") as served:
        assert (await served.api.get()).learnable_tokens  # the copy is whole
    async with serve(**keys) as served:
        await served.api.sessions.DeleteUser(pb.DeleteUserRequest(name=USER))
    async with (
        serve(**keys, database=tmp_path / "backup.db") as served,
        refused(grpc.StatusCode.DATA_LOSS, "CORRUPT_STATE"),
    ):
        await served.api.get()


async def test_a_blob_of_another_session_is_not_taken(
    serve: Serve, tmp_path: Path, key_file: Path
) -> None:
    keys = {"master_key_file": key_file, "key_database": tmp_path / "keys.db"}
    async with serve(**keys) as served:
        for name in ("one", "two"):
            await served.api.on(name).create()
            await served.api.on(name).say(f"{TEXT} {name}")
    with sqlite3.connect(tmp_path / "sessions.db") as database:
        # Both heads are good ones of the same user, which the other name now has.
        one, two = (
            database.execute("SELECT id FROM sessions WHERE name = ?", (name,)).fetchone()[0]
            for name in ("one", "two")
        )
        for session, name in ((one, "aside"), (two, "one"), (one, "two")):
            database.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, session))
    async with serve(**keys) as served:
        for name in ("one", "two"):
            async with refused(grpc.StatusCode.DATA_LOSS, "CORRUPT_STATE"):
                await served.api.on(name).get()
        await served.api.create()  # others go on
        assert (await served.api.get()).name == NAME


@pytest.mark.parametrize("text", ["", "secret", "ab" * 31])
def test_a_server_without_good_keys_does_not_start(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "master.key"
    path.write_text(text)
    with pytest.raises(MasterKeyError, match="hexadecimal"):
        make_store(Settings(master_key_file=path, database=tmp_path / "sessions.db"))
    path.unlink()
    assert main(["--master-key-file", str(path), "--database", str(tmp_path / "x.db")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_keys_are_said_once(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOPE_MASTER_KEYS", "5a" * 32)
    make_store(Settings(database=tmp_path / "sessions.db"))
    with pytest.raises(KeyFileError, match="mutually exclusive"):
        make_store(Settings(master_key_file=key_file, database=tmp_path / "sessions.db"))
