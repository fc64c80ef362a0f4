"""Readers of one kind each: bytes to text. They run in a process of their own (child.py)."""

from __future__ import annotations

import io
import zipfile

from hope_documents.clean import joined
from hope_documents.problems import BrokenDocumentError, LargeDocumentError, LockedDocumentError

# Of a Word document, which is an archive: a small one may unpack to anything.
MOST_UNPACKED_BYTES = 256 << 20


def pdf(data: bytes) -> str:
    """The text of a PDF's pages."""
    import pypdf
    from pypdf.errors import LimitReachedError

    reader = pypdf.PdfReader(io.BytesIO(data))
    # Many are encrypted with an empty password, which everybody may use.
    if reader.is_encrypted and not reader.decrypt(""):
        raise LockedDocumentError
    try:
        return joined([page.extract_text() for page in reader.pages])
    except LimitReachedError:
        raise LargeDocumentError from None


def word(data: bytes) -> str:
    """The text of a Word document (.docx), a paragraph a line."""
    import mammoth

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MOST_UNPACKED_BYTES:
            raise LargeDocumentError
        if "word/document.xml" not in archive.namelist():
            raise BrokenDocumentError
    text: str = mammoth.extract_raw_text(io.BytesIO(data)).value
    return text


def html(data: bytes) -> str:
    """The text that an HTML page is about, without navigation, footers and the like."""
    import trafilatura

    found = trafilatura.extract(data, include_comments=False, include_tables=True)
    # Of short pages it cannot tell what they are about: then all of the text counts.
    return found or trafilatura.html2txt(data)
