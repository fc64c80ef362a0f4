"""Files of a model that are not what they are called, and reading JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hope_runtime.errors import CorruptModelError

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(file: Path) -> None:
    """Raises CorruptModelError for a file that only names what Git LFS would put in its place."""
    try:
        with file.open("rb") as opened:
            is_pointer = opened.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return  # whoever reads it says so
    if is_pointer:
        raise CorruptModelError(
            f"{file} is a pointer of Git LFS and not the file itself; "
            "run `git lfs pull` in its repository"
        )


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file. Raises CorruptModelError."""
    if not file.is_file():
        return None
    refuse_pointer(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptModelError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptModelError(f"{file} does not contain a JSON object")
    return value
