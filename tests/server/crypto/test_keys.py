"""Users' keys: made once, wrapped by master keys that change, destroyed for good."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.crypto.cipher import KEY_BYTES, UnsealError
from server.crypto.keys import KeyStore, LostMasterKeyError, MasterKeyError, parse_master_keys
from server.store.factory import key_store

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
PLACE = ("blob", "ada")


async def opened(path: Path, *master_keys: bytes) -> KeyStore:
    keys = key_store(path / "keys.db", master_keys)
    await keys.open()
    return keys


async def test_a_user_keeps_the_key_and_others_have_others(tmp_path: Path) -> None:
    keys = await opened(tmp_path, OLD)
    sealed = (await keys.cipher("ada", make=True)).seal(b"content", PLACE)
    await keys.close()
    keys = await opened(tmp_path, OLD)
    assert (await keys.cipher("ada")).open(sealed, PLACE) == b"content"
    with pytest.raises(UnsealError):
        (await keys.cipher("bob", make=True)).open(sealed, PLACE)
    with pytest.raises(UnsealError, match="no longer exists"):
        await keys.cipher("carl")
    await keys.close()


async def test_the_file_is_its_owners_and_holds_no_key_in_clear(tmp_path: Path) -> None:
    keys = await opened(tmp_path, OLD)
    await keys.cipher("ada", make=True)
    await keys.close()
    file = tmp_path / "keys.db"
    assert file.stat().st_mode & 0o077 == 0
    assert OLD not in file.read_bytes()


async def test_a_new_master_key_wraps_everything_anew(tmp_path: Path) -> None:
    keys = await opened(tmp_path, OLD)
    sealed = (await keys.cipher("ada", make=True)).seal(b"content", PLACE)
    await keys.close()
    await (await opened(tmp_path, NEW, OLD)).close()
    keys = await opened(tmp_path, NEW)  # the old line was taken away
    assert (await keys.cipher("ada")).open(sealed, PLACE) == b"content"
    await keys.close()
    with pytest.raises(LostMasterKeyError, match="a master key that was not given"):
        await opened(tmp_path, OLD)


async def test_a_destroyed_key_is_gone_for_every_process(tmp_path: Path) -> None:
    here, there = await opened(tmp_path, OLD), await opened(tmp_path, OLD)
    sealed = (await here.cipher("ada", make=True)).seal(b"content", PLACE)
    assert (await there.cipher("ada")).open(sealed, PLACE) == b"content"
    await here.destroy("ada")
    with pytest.raises(UnsealError, match="no longer exists"):
        await there.cipher("ada")
    with pytest.raises(UnsealError):  # whoever comes back under that name has another key
        (await there.cipher("ada", make=True)).open(sealed, PLACE)
    await here.close()
    await there.close()


async def test_two_processes_make_one_key(tmp_path: Path) -> None:
    here, there = await opened(tmp_path, OLD), await opened(tmp_path, OLD)
    for user in map(str, range(20)):
        one, other = await asyncio.gather(
            here.cipher(user, make=True), there.cipher(user, make=True)
        )
        assert one.open(other.seal(b"content", PLACE), PLACE) == b"content"
    await here.close()
    await there.close()


@pytest.mark.parametrize(
    "text", ["", "\n", "secret", "0" * 63, "0" * 65, "g" * 64, f"{'0' * 64} x"]
)
def test_a_master_key_in_another_form_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(MasterKeyError, match="64 hexadecimal digits") as caught:
        parse_master_keys(text, "the file")
    assert not text.strip() or text.strip() not in str(caught.value)


def test_the_first_line_wraps() -> None:
    assert parse_master_keys(f"{NEW.hex()}\n{OLD.hex().upper()}\n", "") == (NEW, OLD)
