"""Reasons why a document gives no text. Messages are sentences about "the PDF", and say what to do.

The child process that reads a document says by its exit status which of them it met.
"""

from __future__ import annotations


class DocumentError(Exception):
    """A document whose text cannot be had. `status` is the exit status that stands for it."""

    status = 2


class BrokenDocumentError(DocumentError):
    """It is damaged, or of another kind than its name says."""

    status = 3


class LockedDocumentError(DocumentError):
    """It is encrypted."""

    status = 4


class NoTextError(DocumentError):
    """It holds no text, as scanned pages do."""

    status = 5


class LargeDocumentError(DocumentError):
    """Reading it takes more memory or time than is allowed."""

    status = 6


class MissingReaderError(DocumentError):
    """The packages that read it are not installed."""

    status = 7


def problem(status: int, kind: str) -> DocumentError:
    """The error that an exit status stands for. What a limit ended was too large."""
    match status:
        case LockedDocumentError.status:
            return LockedDocumentError(
                f"the {kind} is encrypted; save a copy without a password first"
            )
        case NoTextError.status:
            return NoTextError(
                f"the {kind} holds no text; scanned pages need text recognition (OCR) first"
            )
        case MissingReaderError.status:
            return MissingReaderError(
                f"reading a {kind} needs more packages; install them with "
                "pip install 'hope-server[documents]'"
            )
        case BrokenDocumentError.status:
            return BrokenDocumentError(
                f"the {kind} cannot be read; it may be damaged, or of another kind than its name"
            )
        case _:
            return LargeDocumentError(
                f"the {kind} takes too much memory or time to read; save its text first"
            )
