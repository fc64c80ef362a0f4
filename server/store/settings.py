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
        description="SQLite file that keeps the sessions.",
    )
    store: str | None = Field(
        None,
        pattern=r"^(rediss?|unix)://",
        description="Redis or Valkey that keeps the sessions instead, for many servers: "
        "redis://HOST:PORT/DB, or rediss:// over TLS.",
    )
    store_password_file: Path | None = Field(
        None, description="Its password, so that no address needs to hold it."
    )
    store_fsync: bool = Field(
        False, description="A turn is answered when the store's disk has it (WAITAOF)."
    )
    store_replicas: int = Field(
        0, ge=0, description="A turn is answered when so many replicas of the store have it."
    )
    store_idle_seconds: float | None = Field(
        None, gt=0, description="Sessions that nobody changed for so long are erased; unset: none."
    )
    master_key_file: Path | None = Field(
        None,
        description="Everything stored is sealed (AES-256-GCM) with a key of each user, which the "
        "master keys in this file wrap: lines of 64 hexadecimal digits, the newest first. "
        "HOPE_MASTER_KEYS in the environment holds the same.",
    )
    key_database: Path = Field(
        default_factory=lambda: _state_directory() / "keys.db",
        description="SQLite file of the users' wrapped keys; keep it out of the other's backups.",
    )

    @model_validator(mode="after")
    def _says_which_store(self) -> Self:
        of_redis = {"store_password_file", "store_fsync", "store_replicas", "store_idle_seconds"}
        if self.store is None and (alone := of_redis & self.model_fields_set):
            raise ValueError(f"{min(alone)} needs store")
        if self.store is not None and "database" in self.model_fields_set:
            raise ValueError("store and database exclude each other")
        return self
