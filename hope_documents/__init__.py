"""Text of documents: plain text and Markdown as they are, HTML, PDF and Word by reading them.

Knows files and text; nothing of models, servers or clients, both of which import it.
"""

from hope_documents.extract import text_of
from hope_documents.kinds import HEAD_BYTES, Kind, foreign, kind_of
from hope_documents.problems import (
    BrokenDocumentError,
    DocumentError,
    LargeDocumentError,
    LockedDocumentError,
    MissingReaderError,
    NoTextError,
)

__all__ = [
    "HEAD_BYTES",
    "BrokenDocumentError",
    "DocumentError",
    "Kind",
    "LargeDocumentError",
    "LockedDocumentError",
    "MissingReaderError",
    "NoTextError",
    "foreign",
    "kind_of",
    "text_of",
]
