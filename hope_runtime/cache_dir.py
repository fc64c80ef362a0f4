"""Directory of what can be made again: converted models, compiled kernels, texts of base models."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """The directory for what can be made again: given, else HOPE_CACHE_DIR, else the user's."""
    given = cache_dir or os.environ.get("HOPE_CACHE_DIR")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "hope-server"
