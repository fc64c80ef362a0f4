"""Text of documents: each kind, and what has none."""

from __future__ import annotations

import signal

import documents
import pytest

from hope_documents import (
    BrokenDocumentError,
    DocumentError,
    Kind,
    LargeDocumentError,
    LockedDocumentError,
    MissingReaderError,
    NoTextError,
    extract,
    foreign,
    kind_of,
    text_of,
)
from hope_documents.clean import joined
from hope_documents.problems import problem

TOWN = (
    "Aldmoor lies on the river Tern, and its bridge was built by Edda Vale in the year 1788. "
    "Dr. Vale kept bees in the old mill, which burned down once and was built again from slate."
)


def test_a_pdf() -> None:
    data = documents.pdf(["Aldmoor lies on", "the river Tern."], ["Dr. Vale keeps bees (here)."])
    assert kind_of(data[:1024], ".pdf") is Kind.PDF
    text = text_of(data, Kind.PDF)
    assert text.split("\n")[0] == "Aldmoor lies on the river Tern."
    assert "Dr. Vale keeps bees (here)." in text


def test_a_word_document() -> None:
    data = documents.word("Aldmoor lies on the Tern.", "Dr. Vale keeps bees.")
    assert kind_of(data[:1024], ".docx") is Kind.WORD
    lines = [line for line in text_of(data, Kind.WORD).splitlines() if line]
    assert lines == ["Aldmoor lies on the Tern.", "Dr. Vale keeps bees."]


def test_a_page() -> None:
    data = documents.html(TOWN)
    assert kind_of(data[:1024], ".html") is Kind.HTML
    text = text_of(data, Kind.HTML)
    assert TOWN in text
    for noise in ("Contact", "rights", "alert", "<"):
        assert noise not in text


def test_a_page_of_few_words() -> None:
    assert text_of(b"<html><p>Ada is here.</p></html>", Kind.HTML).strip() == "Ada is here."


@pytest.mark.parametrize(
    ("data", "kind", "error"),
    [
        (b"%PDF-1.7 ...", Kind.PDF, BrokenDocumentError),
        (documents.pdf(["x"])[:200], Kind.PDF, BrokenDocumentError),
        (documents.pdf([]), Kind.PDF, NoTextError),
        (documents.locked_pdf(["x"], password="s"), Kind.PDF, LockedDocumentError),
        (b"PK\x03\x04\x14\x00\x06\x00", Kind.WORD, BrokenDocumentError),
        (documents.word(), Kind.WORD, NoTextError),
        (documents.word("x", padding=300 << 20), Kind.WORD, LargeDocumentError),
        (b"<html></html>", Kind.HTML, NoTextError),
    ],
)
def test_what_has_no_text(data: bytes, kind: Kind, error: type[DocumentError]) -> None:
    with pytest.raises(error) as caught:
        text_of(data, kind)
    assert kind.value in str(caught.value)


def test_an_empty_password_is_none() -> None:
    assert "Aldmoor" in text_of(documents.locked_pdf(["Aldmoor"], password=""), Kind.PDF)


def test_a_reader_that_takes_too_much() -> None:
    """A stream of a kilobyte may unpack to anything."""
    bomb = documents.pdf_bomb(256 << 20)
    assert len(bomb) < 1 << 20
    with pytest.raises(LargeDocumentError):
        text_of(bomb, Kind.PDF)


def test_a_reader_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "WALL_SECONDS", 0.01)
    with pytest.raises(LargeDocumentError):
        text_of(documents.pdf(["x"]), Kind.PDF)


def test_a_limit_ends_by_a_signal() -> None:
    assert isinstance(problem(-signal.SIGXCPU, "PDF"), LargeDocumentError)


def test_missing_packages_are_named() -> None:
    error = problem(MissingReaderError.status, Kind.PDF)
    assert "hope-server[documents]" in str(error)


@pytest.mark.parametrize(
    ("head", "suffix", "name"),
    [
        (b"PK\x03\x04", ".zip", "a ZIP archive"),
        (b"PK\x03\x04", ".xlsx", "an Excel workbook"),
        (b"\x89PNG\r\n", ".png", "a PNG image"),
        (b"plain", ".txt", ""),
        (b"%PDF-1.7", ".pdf", ""),
        (b"PK\x03\x04", ".docx", ""),
    ],
)
def test_kinds_that_are_not_read(head: bytes, suffix: str, name: str) -> None:
    assert foreign(head, suffix)[0] == name


@pytest.mark.parametrize(
    ("head", "suffix", "kind"),
    [
        (b"\xef\xbb\xbf  <HTML lang=x>", ".txt", Kind.HTML),
        (b"<p>Hi", ".htm", Kind.HTML),
        (b"<p>Hi", ".md", Kind.TEXT),
        (b"Hello", ".html", Kind.TEXT),
        (b"", "", Kind.TEXT),
    ],
)
def test_kinds(head: bytes, suffix: str, kind: Kind) -> None:
    assert kind_of(head, suffix) is kind


def test_lines_become_paragraphs() -> None:
    page = [
        "The town",
        "Aldmoor lies on the river Tern, and its brid-",
        "ge was built by Edda Vale in the year 1788. It",
        "is long.",
        "Bees",
        "Dr. Vale keeps bees in the old mill, and honey",
        "A. Smith sells it.",
    ]
    assert joined(["\n".join(page)]).split("\n") == [
        "The town",
        "Aldmoor lies on the river Tern, and its bridge was built by Edda Vale in the year 1788. "
        "It is long.",
        "Bees",
        "Dr. Vale keeps bees in the old mill, and honey A. Smith sells it.",
    ]


def test_headers_and_numbers_of_pages_are_dropped() -> None:
    pages = [f"The town, page {n}\nFact {'abc'[n - 1]} is here.\n{n}" for n in (1, 2, 3)]
    assert joined(pages) == "Fact a is here. Fact b is here. Fact c is here."
    assert "page 1" in joined(pages[:2])
