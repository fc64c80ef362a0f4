"""Disks that are small, for tests of what happens when they are full."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes meanwhile, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def disk_of(directory: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes in memory; skips the test where none may be mounted."""
    place = directory / "disk"
    place.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    made = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leaving: int = 0) -> Path:
    """Fills a file system up to so many bytes; returns the file that does."""
    ballast = place / "ballast"
    status = os.statvfs(place)
    wanted = status.f_bavail * status.f_frsize - leaving
    with ballast.open("ab") as file:
        if wanted > 0:
            os.posix_fallocate(file.fileno(), file.tell(), wanted)
    return ballast
