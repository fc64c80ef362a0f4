"""Settings of the server: environment (HOPE_*) and command line, checked once at the edge."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from server.auth.settings import AccessSettings
from server.store.leases import MAX_LEASE_SECONDS
from server.store.settings import StoreSettings
from server.telemetry.logs import LogFormat


class Settings(StoreSettings, AccessSettings):
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
        description=(
            'Model to serve: "default", a .gguf file, a directory of a model or of a training '
            "run, or a Hugging Face Hub id."
        ),
    )
    chat_template: Path | None = Field(
        None,
        description="Jinja file of a chat template to use in place of the model's own, or for a"
        " model that has none.",
    )
    engine: Literal["torch", "vllm"] = Field(
        "torch",
        description="Decoding engine: torch runs in this process, vllm runs vLLM in a process of"
        " its own (native is the former name of torch).",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of weights and activations; auto chooses by hardware."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Device that computes: auto, cpu, cuda, cuda:N or mps; auto prefers CUDA, then"
        " MPS, then the CPU.",
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)),
        ge=1,
        description="CPU threads. The number does not affect learning.",
    )
    window_tokens: int = Field(1024, ge=64, description="Size of the attention window in tokens.")
    window_cache_bytes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        2 << 30,
        description=(
            "Bytes reserved at start for the KV cache of windows, which limits how many turns "
            "run at a time; auto takes 85 % of the device's free memory."
        ),
    )
    memory_cache_bytes: int = Field(
        1 << 30, ge=0, description="Maximum bytes of memories kept ready for the model."
    )
    keep_versions: int = Field(
        8, ge=1, description="Number of recent versions of a memory to keep."
    )
    session_quota_bytes: int = Field(
        0,
        ge=0,
        description="Stored bytes after which a session refuses turns; 0 means unlimited.",
    )
    user_quota_bytes: int = Field(
        0,
        ge=0,
        description="Stored bytes after which a user's sessions refuse turns; 0 means unlimited.",
    )
    user_quota_sessions: int = Field(
        0, ge=0, description="Maximum number of sessions of a user; 0 means unlimited."
    )
    user_quota_tokens_per_minute: int = Field(
        0,
        ge=0,
        description=(
            "Tokens per minute that all sessions of a user may learn. Beyond it an ingest waits "
            "and a turn is refused unless it has learn=false. 0 means unlimited."
        ),
    )
    lease_seconds: float = Field(
        30,
        gt=0,
        le=MAX_LEASE_SECONDS,
        description="Time after which another server may take over the sessions of a crashed one.",
    )
    idle_learning_seconds: float = Field(
        300, gt=0, description="Learn a conversation after it was idle for this long."
    )
    learning_wait_seconds: float = Field(
        2,
        ge=0,
        description="Longest wait of a reply for learning under way; then it is made with the"
        " memory as it is.",
    )
    job_checkpoint_seconds: float = Field(
        30, ge=0, description="Interval at which a job that rebuilds a session saves its progress."
    )
    resident_sessions: int = Field(
        64, ge=1, description="Maximum number of sessions kept in memory."
    )
    max_concurrent_rpcs: int = Field(
        256, ge=1, description="Maximum number of concurrent calls; further calls are refused."
    )
    stalled_stream_seconds: float = Field(
        60, gt=0, description="Cancel a reply that the client does not read for this long."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the Prometheus metrics; 0 picks a free port, none if unset.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Address of the metrics port; no metric names a user."
    )
    log_format: LogFormat = Field(
        "text",
        description="Format of the log; json adds a line for each request. No format names a user.",
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="OTLP endpoint of traces, such as http://127.0.0.1:4317; needs the extra otel.",
    )
    drain_seconds: float = Field(
        30, ge=0, description="Time that running turns get to finish at shutdown."
    )

    @field_validator("engine", mode="before")
    @classmethod
    def _current_engine_name(cls, value: object) -> object:
        return "torch" if value == "native" else value
