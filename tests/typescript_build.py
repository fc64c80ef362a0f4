"""The TypeScript client as tests find it: installed and compiled once, by whoever comes first.

npm installs what package-lock.json names into clients/typescript/node_modules, and tsc compiles
into clients/typescript/dist. Both stay until what they were made from changes.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "clients" / "typescript"
MODULES = PACKAGE / "node_modules"
OLDEST_NODE = 20


def require_node() -> None:
    """Skips the test where Node is missing or too old."""
    reason = _unusable()
    if reason:
        pytest.skip(reason)


@functools.cache
def _unusable() -> str:
    """Reason why Node cannot run the client; empty when it can."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (apt-get install nodejs npm)"
    version = subprocess.run(
        ["node", "--version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        return f"Node {version} is older than {OLDEST_NODE}"
    return ""


def installed() -> Path:
    """Directory of the package, in which everything of package-lock.json is installed."""
    require_node()
    with _locked():
        digest = _digest(PACKAGE / "package.json", PACKAGE / "package-lock.json")
        if _stale(MODULES, digest):
            _check("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            (MODULES / ".made-from").write_text(digest)
    return PACKAGE


def compiled() -> Path:
    """The compiled client's main module."""
    package = installed()
    with _locked():
        digest = _digest(package / "tsconfig.json", *package.glob("src/**/*.ts"))
        if _stale(package / "dist", digest):
            shutil.rmtree(package / "dist", ignore_errors=True)
            _check("npx", "--no-install", "tsc")
            (package / "dist" / ".made-from").write_text(digest)
    return package / "dist" / "index.js"


def _check(*command: str) -> None:
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _stale(directory: Path, digest: str) -> bool:
    mark = directory / ".made-from"
    return not mark.exists() or mark.read_text() != digest


def _digest(*files: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()


@contextmanager
def _locked() -> Iterator[None]:
    """Keeps out other processes of the same run."""
    handle = os.open(PACKAGE / "package.json", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
