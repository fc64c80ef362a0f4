"""Results of long runs, kept on disk so that each is computed once.

A result is kept under everything that it depends on: the source of this package, the model, the
policy, what was taught and asked, the seed. The key is stored beside it and compared, so nothing
else is ever taken for it. Knows JSON values and files, and no task.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import hope_runtime
from hope_runtime.errors import HopeError

Result = dict[str, Any]


class CacheError(HopeError):
    """Results cannot be kept where they should be."""


class ResultCache:
    """Results under `directory`; None keeps nothing. Raises CacheError where one cannot write."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CacheError(
                    f"cannot store results in {directory} ({error.strerror}); choose another "
                    "directory with --cache, or use --no-cache"
                ) from error

    def get(self, key: Mapping[str, Any], compute: Callable[[], Result]) -> Result:
        """The result for `key`, computed unless it is there; what JSON makes of it either way.

        The source and the version of torch are part of every key.
        """
        whole = _plain({**key, "source": source_digest(), "torch": torch.__version__})
        if self._directory is None:
            return _plain(compute())
        digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        path = self._directory / f"{digest}.json"
        kept = _read(path)
        if kept is not None and kept.get("key") == whole and isinstance(kept.get("result"), dict):
            return dict(kept["result"])
        result = _plain(compute())
        self._write(path, {"key": whole, "result": result})
        return result

    def _write(self, path: Path, document: Result) -> None:
        # Whole or not at all: a run may be stopped at any time, and two may run side by side.
        beside = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            beside.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise CacheError(f"cannot store a result in {path}: {error.strerror}") from error


@cache
def source_digest() -> str:
    """SHA-256 over the names and contents of this package's files: code and texts."""
    root = Path(next(iter(hope_runtime.__path__)))
    digest = hashlib.sha256()
    for path in sorted((*root.rglob("*.py"), *root.rglob("*.txt"))):
        digest.update(f"{os.fspath(path.relative_to(root))}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read(path: Path) -> Result | None:
    """The stored result; None if there is none or the file is not one of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _plain(value: Result) -> Result:
    """The value as it comes back from JSON, so that hit and miss look the same."""
    return dict(json.loads(json.dumps(value)))
