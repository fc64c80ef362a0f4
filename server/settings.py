"""Settings of the server: environment (HOPE_*) and command line, checked once at the edge."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _state_directory() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "hope-server"


class Settings(BaseSettings):
    """Each field is `HOPE_<NAME>` in the environment and `--<name>` on the command line."""

    model_config = SettingsConfigDict(
        env_prefix="HOPE_",
        cli_kebab_case=True,
        cli_prog_name="hope serve",
        cli_implicit_flags=True,
        extra="forbid",
    )

    host: str = Field("127.0.0.1", description="Address to listen on; loopback only for now.")
    port: int = Field(50051, ge=0, le=65535, description="Port; 0 picks a free one.")
    model: str = Field(
        "default",
        description='"default", a .gguf file, a directory of a model or a run, or a hub id.',
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of weights and activations; auto looks at the hardware."
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        ge=1,
        description="Compute threads. Their number changes no memory.",
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
    keep_versions: int = Field(8, ge=1, description="Recent versions of a memory that are kept.")
    session_quota_bytes: int = Field(
        0, ge=0, description="Bytes of a session in the store before it takes no more; 0: any."
    )
    user_quota_bytes: int = Field(
        0, ge=0, description="Bytes of all sessions of a user together, likewise."
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
        description="Loopback port that Prometheus scrapes; 0 picks a free one, unset: none.",
    )
    drain_seconds: float = Field(30, ge=0, description="Time for running turns at shutdown.")

    @model_validator(mode="after")
    def _loopback_only(self) -> Self:
        # Nobody proves who they are yet, so nobody from elsewhere may come in.
        if self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError("host must be a loopback address while there is no authentication")
        return self

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
