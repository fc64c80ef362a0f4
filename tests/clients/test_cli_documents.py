"""`hope ingest` of folders, and of what is no text."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import documents
import grpc
import pytest
from documents_to_read import ADA, IDA, REX, words
from processes import in_a_thread, soon
from scripted_server import UNAVAILABLE, Failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "docs"
    for name, data in {
        "a/notes.txt": ADA,
        "b/notes.txt": REX,
        "b/deep/er.md": IDA,
        "top.md": b"\xef\xbb\xbfTop.\n",
        ".hidden/x.txt": b"Hidden.",
        "b/.hidden": b"Hidden.",
        "paper.pdf": b"%PDF-1.7 ...",
    }.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (place / "b" / "again").symlink_to(place)
    return place


async def test_a_folder(server, hope, folder):
    code, out, err = await hope(*words(folder))
    assert code == 0, err
    assert {name: bytes(data) for name, data in server.documents.items()} == {
        "a/notes.txt": ADA,
        "b/deep/er.md": IDA,
        "b/notes.txt": REX,
        "top.md": b"Top.\n",
    }
    lines = out.splitlines()
    assert lines[0].startswith("[1/5] Read a/notes.txt: 22 B")
    assert lines[-1] == "5 documents: 4 read, 1 skipped."
    assert "paper.pdf: the PDF cannot be read" in err
    code, out, _ = await hope(*words(folder))
    assert code == 0
    assert out.splitlines()[-1] == "5 documents: 4 read before, 1 skipped."


@pytest.mark.parametrize(
    ("include", "read"),
    [
        (["*.md"], {"b/deep/er.md", "top.md"}),
        (["a/*", "top.*"], {"a/notes.txt", "top.md"}),
        (["notes.txt"], {"a/notes.txt", "b/notes.txt"}),
        (["*.none"], set()),
    ],
)
async def test_files_of_a_folder(server, hope, folder, include, read):
    more = [word for pattern in include for word in ("--include", pattern)]
    code, _, err = await hope(*words(folder, more=more))
    assert set(server.documents) == read
    assert code == (0 if read else 1), err


async def test_patterns_and_files_side_by_side(server, hope, folder, monkeypatch):
    monkeypatch.chdir(folder)
    code, out, err = await hope(*words("**/*.txt", "top.md"))
    assert code == 0, err
    # Two files of one name are told apart by their paths.
    assert set(server.documents) == {"a/notes.txt", "b/notes.txt", "top.md"}
    assert out.splitlines()[-1] == "3 documents: 3 read."
    assert (await hope(*words(".", more=["--include", "*.md"])))[0] == 0


async def test_one_bad_file_does_not_keep_the_others_from_being_read(server, hope, folder):
    server.documents["b/notes.txt"] += ADA
    server.ended.add("b/notes.txt")
    code, out, err = await hope(*words(folder, folder / "missing.txt"))
    assert code == 1
    assert out.splitlines()[-1] == "6 documents: 3 read, 1 skipped, 2 failed."
    assert "has a different document b/notes.txt" in err
    assert "missing.txt: No such file" in err


async def test_an_interrupted_folder_goes_on(server, spawn, hope, tmp_path):
    place = tmp_path / "docs"
    place.mkdir()
    for name in "abc":
        (place / f"{name}.txt").write_bytes(name.encode() * 3_000)
    os.mkfifo(place / "b.fifo")  # no file, so not read
    (place / "d.txt").write_bytes(b"d" * 3_000)
    failure = Failure(grpc.StatusCode.INTERNAL, when_all_is_sent=True)
    server.ingest_breaks.extend([(1 << 60, None), (2_000, failure)])
    assert (await hope(*words(place)))[0] == 1
    assert {name: len(data) for name, data in server.documents.items()} == {
        "a.txt": 3_000,
        "b.txt": 2_000,
    }
    code, out, err = await hope(*words(place))
    assert code == 0, err
    assert out.splitlines()[-1] == "4 documents: 3 read, 1 read before."
    assert "Resuming b.txt at byte 2,000 of 3,000." in err


async def test_more_documents_than_places(server, hope, tmp_path):
    for number in range(65):
        (tmp_path / f"{number:02}.txt").write_bytes(b"x")
    code, out, err = await hope(*words(tmp_path))
    assert code == 0
    assert err.startswith("A session keeps the offsets of the last 64 documents, and these are 65")
    assert out.splitlines()[-1] == "65 documents: 65 read."


async def test_json_of_a_folder(server, hope, folder):
    code, out, _ = await hope(*words(folder, more=["--json"]))
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert next(each["document"] for each in events if each["event"] == "start") == "a/notes.txt"
    counts = {"read": 4, "queued": 0, "known": 0, "skipped": 1, "failed": 0}
    assert events[-1] == {"event": "end", **counts}


async def test_a_folder_has_no_single_name(server, hope, folder):
    for files in ([folder], [folder / "top.md", folder / "a/notes.txt"]):
        code, _, err = await hope(*words(*files, more=["--document", "d"]))
        assert code == 2
        assert err.count("\n") == 1


UTF16 = "Grüße aus Köln, und noch mehr".encode("utf-16")
NOT_TEXT = {
    "utf16.txt": (UTF16, "byte 0 begins UTF-16 text; convert it with `iconv -f UTF-16 -t UTF-8`"),
    "utf32.txt": ("Grüße".encode("utf-32"), "byte 0 begins UTF-32 text"),
    "unmarked.txt": ("Hallo".encode("utf-16-le"), "byte 1 is zero"),
    "latin.txt": ("Grüße aus Köln".encode("latin-1"), "byte 2 (counted from 0) is not UTF-8 text"),
    "late.txt": (b"a" * 99_999 + b"\xe9", "byte 99,999 (counted from 0) is not UTF-8 text"),
    "marked.txt": (b"\xef\xbb\xbfabc\xff", "byte 6 (counted from 0) is not UTF-8 text"),
    "cut.txt": ("Gr\u00fc".encode()[:-1], "byte 2 (counted from 0) is not UTF-8 text"),
    "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "the PDF cannot be read"),
    "letter.docx": (b"PK\x03\x04\x14\x00\x06\x00", "the Word document cannot be read"),
    "book.epub": (b"PK\x03\x04\x14\x00\x06\x00", "byte 0 begins an EPUB book"),
    "files.zip": (b"PK\x03\x04\x14\x00\x06\x00", "byte 0 begins a ZIP archive"),
    "letter.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\x00", "byte 0 begins an old Office document"),
    "page.html": (b"\n<!DOCTYPE html>", "the HTML page holds no text"),
    "book.txt.gz": (b"\x1f\x8b\x08\x00", "byte 0 begins gzip-compressed data"),
    "cat.png": (b"\x89PNG\r\n\x1a\n", "byte 0 begins a PNG image"),
    "empty.txt": (b"", "the document is empty"),
    "mark.txt": (b"\xef\xbb\xbf", "the document is empty"),
}


@pytest.mark.parametrize("name", NOT_TEXT)
async def test_what_is_no_text_is_named(server, hope, tmp_path, name):
    data, says = NOT_TEXT[name]
    path = tmp_path / name
    path.write_bytes(data)
    code, out, err = await hope(*words(path))
    assert (code, out) == (1, "")
    assert err.startswith(f"hope: {path}: {says}")
    assert err.count("\n") == 1
    assert not server.documents


@pytest.mark.parametrize(
    "name", ["utf16.txt", "latin.txt", "late.txt", "cut.txt", "cat.png", "a.pdf"]
)
async def test_what_is_no_text_in_a_pipe(server, spawn, name):
    pdf = (documents.pdf(["x"]), "byte 0 begins a PDF, not text; pass the name of its file")
    data, says = pdf if name == "a.pdf" else NOT_TEXT[name]
    process = await spawn(*words("-", more=["--document", "d"]))
    _, err = await soon(process.communicate(data))
    assert process.returncode == 1
    assert err.decode().splitlines()[-1].startswith(f"hope: standard input: {says}")
    assert "Traceback" not in err.decode()
    assert "d" not in server.ended


async def test_a_pipe_may_have_a_byte_order_mark(server, spawn):
    process = await spawn(*words("-", more=["--document", "d"]))
    for piece in (b"\xef", b"\xbb\xbf", "Grüße ".encode() * 400, "ü".encode()[:1]):
        process.stdin.write(piece)
        await process.stdin.drain()
    _, err = await soon(process.communicate("ü".encode()[1:]))
    assert process.returncode == 0, err
    assert bytes(server.documents["d"]).decode() == "Grüße " * 400 + "ü"


async def test_documents_that_are_not_text_are_read(server, hope, tmp_path):
    """Their text, by the code that reads uploads."""
    for name, data in {
        "a.pdf": documents.pdf(["Aldmoor lies on", "the Tern."]),
        "b.docx": documents.word("Dr. Vale keeps bees."),
        "c.html": documents.html("Tobias Wren is the mayor of the town. " * 5),
    }.items():
        (tmp_path / name).write_bytes(data)
    code, out, err = await hope(*words(tmp_path))
    assert code == 0, err
    read = {name: bytes(data).decode() for name, data in server.documents.items()}
    assert read["a.pdf"] == "Aldmoor lies on the Tern.\n"
    assert read["b.docx"] == "Dr. Vale keeps bees.\n"
    assert "Tobias Wren is the mayor" in read["c.html"]
    assert "Contact" not in read["c.html"]
    # The same file is the same document.
    code, out, _ = await hope(*words(tmp_path))
    assert out.splitlines()[-1] == "3 documents: 3 read before."


async def test_html_is_read_with_its_markup_when_that_is_meant(server, hope, tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(b"<html><p>Hi</p></html>")
    assert (await hope(*words(path, more=["--as-text"])))[0] == 0
    assert server.documents["page.html"] == b"<html><p>Hi</p></html>"


async def test_a_named_pipe(server, spawn, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = await spawn(*words(fifo))
    await in_a_thread(lambda: fifo.write_bytes(ADA))  # waits for its reader
    _, err = await soon(process.communicate())
    assert process.returncode == 0, err
    assert server.documents["fifo"] == ADA


async def test_ctrl_c_in_a_folder_says_how_to_go_on(server, spawn, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a" * 2_000)
    (tmp_path / "b.txt").write_bytes(b"b" * 2_000)
    server.failures["GetSession"].append(UNAVAILABLE)
    os.mkfifo(tmp_path / "pipe")
    process = await spawn(*words(tmp_path / "a.txt", tmp_path / "pipe", tmp_path / "b.txt"))
    await soon(server.until_committed("a.txt", 2_000))
    await soon(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    err = await soon(process.stderr.read())
    assert await soon(process.wait()) == 130
    assert "run the same command to resume" in err.decode()
