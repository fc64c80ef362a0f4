"""Settings to the store that keeps the sessions."""

from __future__ import annotations

import os
from pathlib import Path

from server.crypto.files import KeyFileError, read_key_file
from server.crypto.keys import KeyStore, parse_master_keys
from server.store.base import SessionStore
from server.store.encrypted import EncryptedStore
from server.store.errors import StoreUnavailableError
from server.store.settings import StoreSettings
from server.store.sqlite import SQLiteStore
from server.store.sqlite.disk import KEY_RESERVE_BYTES, Disk

MASTER_KEYS_VARIABLE = "HOPE_MASTER_KEYS"
"""Holds what `master_key_file` would; not a setting, since everybody can read a command line."""


def make_store(settings: StoreSettings) -> SessionStore:
    """The store, not yet opened; with master keys, everything in it is sealed.

    Raises KeyFileError for a file that cannot be read, or keys that are said twice,
    MasterKeyError for keys in another form, and StoreUnavailableError without the package that
    the store needs.
    """
    store = _sqlite(settings) if settings.store is None else _redis(settings, settings.store)
    keys = _master_keys(settings)
    return EncryptedStore(store, key_store(settings.key_database, keys)) if keys else store


def key_store(path: Path, master_keys: tuple[bytes, ...]) -> KeyStore:
    """The users' keys in the SQLite file at `path`, whose disk is watched like that of a store."""
    return KeyStore(path, master_keys, Disk(path, KEY_RESERVE_BYTES))


def _sqlite(settings: StoreSettings) -> SessionStore:
    settings.database.parent.mkdir(parents=True, exist_ok=True)
    return SQLiteStore(settings.database)


def _redis(settings: StoreSettings, address: str) -> SessionStore:
    try:
        from server.store.redis import Durability, RedisStore
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise StoreUnavailableError(
            "a Redis store requires an extra package; run: pip install 'hope-server[redis]'"
        ) from None
    path = settings.store_password_file
    return RedisStore(
        address,
        password=read_key_file(path).decode().strip() if path else None,
        durability=Durability(fsync=settings.store_fsync, replicas=settings.store_replicas),
        idle_seconds=settings.store_idle_seconds,
    )


def _master_keys(settings: StoreSettings) -> tuple[bytes, ...]:
    path, text = settings.master_key_file, os.environ.get(MASTER_KEYS_VARIABLE)
    if path is None:
        return parse_master_keys(text, MASTER_KEYS_VARIABLE) if text is not None else ()
    if text is not None:
        raise KeyFileError(
            f"master_key_file and {MASTER_KEYS_VARIABLE} are mutually exclusive; set one of them"
        )
    return parse_master_keys(read_key_file(path).decode("utf-8", "replace"), str(path))
