"""Extraction in a child process, which a document cannot make larger or longer than its limits."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from hope_documents.kinds import Kind
from hope_documents.problems import problem

WALL_SECONDS = 90.0


def text_of(data: bytes, kind: Kind) -> str:
    """The text of a document that is not text already. Blocks for up to WALL_SECONDS.

    Raises DocumentError.
    """
    command = [sys.executable, "-B", "-m", "hope_documents.child", kind.name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            # A child that ends early says why by its status.
            with contextlib.suppress(BrokenPipeError):
                text, _ = child.communicate(data, timeout=WALL_SECONDS)
        except subprocess.TimeoutExpired:
            raise problem(-1, kind) from None
        finally:
            child.kill()
    if child.returncode:
        raise problem(child.returncode, kind)
    return text.decode()
