"""Cache files of texts that the frozen base wrote: each is written once on a machine.

Samples of the base's own (rehearsal.py) are a function of the model and a seed. They take as long
to write as a few facts to learn, and would otherwise be written again whenever a process starts.
Only token ids are kept; what the base thinks of them is computed from them. A file that cannot be
read or written costs the time that it would have saved, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hope_runtime.learning.decoding import decode
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel

Texts = list[tuple[int, ...]]


class SampleCache:
    """Continuations by one base model, read from `directory` where it wrote them before; None
    keeps nothing."""

    def __init__(self, model: BaseModel, workers: Workers, directory: Path | None = None) -> None:
        self._model = model
        self._workers = workers
        self._directory = directory

    def write(
        self,
        prompts: Sequence[tuple[int, ...]],
        *,
        max_tokens: int,
        stop: frozenset[int],
        prefix: tuple[int, ...] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Texts:
        """As `decode`, for the frozen base."""
        asked = {
            "model": self._model.fingerprint,
            # Rounding decides where two tokens are about equally likely.
            "dtype": str(self._model.dtype),
            "device": str(self._model.device),
            "torch": torch.__version__,
            "prompts": [list(prompt) for prompt in prompts],
            "prefix": list(prefix),
            "max_tokens": max_tokens,
            "stop": sorted(stop),
            "temperature": temperature,
            "seed": seed,
        }
        file = self._file(asked)
        kept = self._read(file, len(prompts), max_tokens) if file else None
        for former in self._model.former:
            if kept is None and (older := self._file(asked | {"model": former})):
                kept = self._read(older, len(prompts), max_tokens)
        if kept is None:
            kept = decode(
                self._model,
                self._workers,
                prompts,
                max_tokens=max_tokens,
                stop=stop,
                prefix=prefix,
                temperature=temperature,
                seed=seed,
            )
            if file:
                _store(file, kept)
        return kept

    def _file(self, asked: dict[str, Any]) -> Path | None:
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return self._directory / f"{digest[:32]}.json" if self._directory else None

    def _read(self, file: Path, count: int, max_tokens: int) -> Texts | None:
        try:
            found = json.loads(file.read_text(encoding="ascii"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, list) or len(found) != count:
            return None
        size = self._model.config.vocab_size
        for text in found:
            if not isinstance(text, list) or len(text) > max_tokens:
                return None
            if not all(type(token) is int and 0 <= token < size for token in text):
                return None
        return [tuple(text) for text in found]


def _store(file: Path, texts: Texts) -> None:
    building = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            building.write_text(json.dumps(texts), encoding="ascii")
            building.replace(file)
        finally:
            building.unlink(missing_ok=True)
