"""Settings of the server: environment (HOPE_*) and command line, checked once at the edge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from server.auth.settings import AccessSettings
from server.telemetry.logs import LogFormat


def _state_directory() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "hope-server"


class Settings(AccessSettings):
    """Each field is `HOPE_<NAME>` in the environment and `--<name>` on the command line."""

    model_config = SettingsConfigDict(
        env_prefix="HOPE_",
        cli_kebab_case=True,
        cli_prog_name="hope serve",
        cli_implicit_flags=True,
        extra="forbid",
    )

    model: str = Field(
        "default",
        description='"default", a .gguf file, a directory of a model or a run, or a hub id.',
    )
    engine: Literal["torch", "vllm"] = Field(
        "torch",
        description="Engine that decodes: torch, or vLLM in a process of its own."
        " (`native` is the former name of torch.)",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of weights and activations; auto looks at the hardware."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Hardware that computes: auto, cpu, cuda, cuda:N or mps. auto is CUDA, else "
        "MPS, else the CPU.",
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        ge=1,
        description="CPU threads. Their number changes no memory.",
    )
    window_tokens: int = Field(1024, ge=64, description="Tokens that attention sees.")
    window_cache_bytes: int = Field(
        2 << 30,
        ge=1,
        description="Taken at start for windows; as many turns as fit in run at a time.",
    )
    memory_cache_bytes: int = Field(
        1 << 30, ge=0, description="Memories that are kept ready for the model, at most."
    )
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
    keep_versions: int = Field(8, ge=1, description="Recent versions of a memory that are kept.")
    session_quota_bytes: int = Field(
        0, ge=0, description="Bytes of a session in the store before it takes no more; 0: any."
    )
    user_quota_bytes: int = Field(
        0, ge=0, description="Bytes of all sessions of a user together, likewise."
    )
    user_quota_sessions: int = Field(0, ge=0, description="Sessions of a user; 0: any number.")
    user_quota_tokens_per_minute: int = Field(
        0,
        ge=0,
        description="Tokens that all sessions of a user may learn in a minute; an ingest waits, a "
        "turn beyond it is refused unless it teaches nothing. 0: any number.",
    )
    lease_seconds: float = Field(30, gt=0, description="How long a crashed server holds sessions.")
    idle_learning_seconds: float = Field(
        300, gt=0, description="A chat that was quiet for so long is learnt."
    )
    job_checkpoint_seconds: float = Field(
        30, ge=0, description="A job that folds a log again is saved so often."
    )
    resident_sessions: int = Field(64, ge=1, description="Memories kept ready, at most.")
    max_concurrent_rpcs: int = Field(256, ge=1, description="More are refused.")
    stalled_stream_seconds: float = Field(
        60, gt=0, description="A reply that nobody reads for so long is given up."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port that Prometheus scrapes; 0 picks a free one, unset: none.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Interface of the metrics port; metrics name no user."
    )
    log_format: LogFormat = Field(
        "text", description="json also has a line for each request. No form names a user."
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where traces go, such as http://127.0.0.1:4317 (the extra otel).",
    )
    drain_seconds: float = Field(30, ge=0, description="Time for running turns at shutdown.")

    @field_validator("engine", mode="before")
    @classmethod
    def _current_engine_name(cls, value: object) -> object:
        return "torch" if value == "native" else value

    @model_validator(mode="after")
    def _says_which_store(self) -> Self:
        of_redis = {"store_password_file", "store_fsync", "store_replicas", "store_idle_seconds"}
        if self.store is None and (alone := of_redis & self.model_fields_set):
            raise ValueError(f"{min(alone)} needs store")
        if self.store is not None and "database" in self.model_fields_set:
            raise ValueError("store and database exclude each other")
        return self
