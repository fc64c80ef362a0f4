"""Kinds of documents, told by how a file begins and by its name."""

from __future__ import annotations

import codecs
from enum import StrEnum

# Bytes of a file that are enough to tell its kind.
HEAD_BYTES = 1024

_PANDOC = "save its text first, for example with `pandoc -t plain`"
_UNPACK = "unpack it first"
_AS_TEXT = "read what is in it some other way first"
_PDF = b"%PDF-"
_ZIP = b"PK\x03\x04"
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", _PANDOC),
    (b"{\\rtf", "an RTF document", _PANDOC),
    (b"\x1f\x8b", "gzip-compressed data", _UNPACK),
    (b"BZh", "bzip2-compressed data", _UNPACK),
    (b"\xfd7zXZ\x00", "xz-compressed data", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"\x89PNG\r\n", "a PNG image", _AS_TEXT),
    (b"\xff\xd8\xff", "a JPEG image", _AS_TEXT),
    (b"GIF8", "a GIF image", _AS_TEXT),
    (b"\x7fELF", "a program", _AS_TEXT),
    (b"SQLite format 3\x00", "an SQLite database", _AS_TEXT),
    (b"GGUF", "a GGUF model", _AS_TEXT),
)
_ZIPPED = {
    ".odt": "an OpenDocument text",
    ".epub": "an EPUB book",
    ".xlsx": "an Excel workbook",
    ".pptx": "a PowerPoint presentation",
}


class Kind(StrEnum):
    """A kind of document whose text can be had."""

    TEXT = "text"
    HTML = "HTML page"
    PDF = "PDF"
    WORD = "Word document"


def kind_of(head: bytes, suffix: str) -> Kind:
    """The kind of a file that begins with `head` and has this suffix (".pdf", lower case). What is
    nothing else is text, or `foreign`."""
    if head.startswith(_PDF):
        return Kind.PDF
    if head.startswith(_ZIP) and suffix == ".docx":
        return Kind.WORD
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")) or (
        suffix in (".html", ".htm") and start.startswith(b"<")
    ):
        return Kind.HTML
    return Kind.TEXT


def foreign(head: bytes, suffix: str) -> tuple[str, str]:
    """The name of a kind that is not read, and what to do instead; both empty for other files."""
    if head.startswith(_ZIP) and suffix != ".docx":
        named = _ZIPPED.get(suffix)
        return (named, _PANDOC) if named else ("a ZIP archive", _UNPACK)
    for magic, name, remedy in _FOREIGN:
        if head.startswith(magic):
            return name, remedy
    return "", ""
