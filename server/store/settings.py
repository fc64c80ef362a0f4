"""Settings of the store that keeps the sessions, and of the keys that seal it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings


def _state_directory() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "hope-server"


class StoreSettings(BaseSettings):
    """The part of the server's settings that says where sessions are kept."""

    database: Path = Field(
        default_factory=lambda: _state_directory() / "sessions.db",
        description="SQLite file that stores the sessions.",
    )
    store: str | None = Field(
        None,
        pattern=r"^(rediss?|unix)://",
        description=(
            "Redis or Valkey server that stores the sessions instead of SQLite, and can be "
            "shared by many servers: redis://HOST:PORT/DB, or rediss:// for TLS."
        ),
    )
    store_password_file: Path | None = Field(
        None, description="File with the password of the store, which need not be part of the URL."
    )
    store_fsync: bool = Field(
        False,
        description="Acknowledge a turn only after the store has written it to disk (WAITAOF).",
    )
    store_replicas: int = Field(
        0,
        ge=0,
        description="Replicas of the store that must have a turn before it is acknowledged.",
    )
    store_idle_seconds: float | None = Field(
        None, gt=0, description="Delete sessions that did not change for this long; never if unset."
    )
    master_key_file: Path | None = Field(
        None,
        description=(
            "File with master keys: lines of 64 hexadecimal digits, the newest first. Everything "
            "stored is encrypted (AES-256-GCM) with a key per user, which the master keys wrap. "
            "The environment variable HOPE_MASTER_KEYS may hold the same text instead."
        ),
    )
    key_database: Path = Field(
        default_factory=lambda: _state_directory() / "keys.db",
        description="SQLite file of the users' wrapped keys; keep it out of session backups.",
    )

    @model_validator(mode="after")
    def _says_which_store(self) -> Self:
        of_redis = {"store_password_file", "store_fsync", "store_replicas", "store_idle_seconds"}
        if self.store is None and (alone := of_redis & self.model_fields_set):
            raise ValueError(f"{min(alone)} requires store")
        if self.store is not None and "database" in self.model_fields_set:
            raise ValueError("store and database are mutually exclusive; set one of them")
        return self
