"""Files of keys, tokens and certificates: read once, at start, with errors that name the file."""

from __future__ import annotations

from pathlib import Path


class KeyFileError(ValueError):
    """A file of keys that cannot be used; the message says which and why."""


def read_key_file(path: Path) -> bytes:
    """All of a file. Raises KeyFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
