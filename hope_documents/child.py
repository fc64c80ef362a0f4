"""The child process that reads one document: python -m hope_documents.child KIND

The document is the standard input, its text the standard output. The exit status says what went
wrong (problems.py); a limit ends the process by a signal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from hope_documents import readers
from hope_documents.kinds import Kind
from hope_documents.problems import (
    BrokenDocumentError,
    DocumentError,
    LargeDocumentError,
    MissingReaderError,
    NoTextError,
)

MOST_MEMORY_BYTES = 1 << 30
MOST_SECONDS = 60
MOST_TEXT_BYTES = 64 << 20
_READERS: dict[Kind, Callable[[bytes], str]] = {
    Kind.HTML: readers.html,
    Kind.PDF: readers.pdf,
    Kind.WORD: readers.word,
}


def main(name: str) -> int:
    """Read the document; returns the exit status."""
    _limit()
    try:
        text = _READERS[Kind[name]](sys.stdin.buffer.read()).strip()
        encoded = f"{text}\n".encode(errors="replace") if text else b""
    except DocumentError as error:
        return error.status
    except ImportError:
        return MissingReaderError.status
    except (MemoryError, RecursionError):
        return LargeDocumentError.status
    except Exception:  # whatever a damaged file does to its reader
        return BrokenDocumentError.status
    if not encoded:
        return NoTextError.status
    if len(encoded) > MOST_TEXT_BYTES:
        return LargeDocumentError.status
    sys.stdout.buffer.write(encoded)
    return 0


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on every system
        return
    for what, most in (
        (resource.RLIMIT_AS, MOST_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MOST_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a system may refuse one of them
            resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(status)  # a reader's memory is not tidied up
