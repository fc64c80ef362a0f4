"""Files that make documents, and the checks of one before it is sent.

Knows paths, folders, kinds of files and encodings; nothing of sessions.
"""

from __future__ import annotations

import asyncio
import codecs
import fnmatch
import glob
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from hope_client import content
from hope_client.cli.streams import NotTextError, not_utf8
from hope_documents import HEAD_BYTES, DocumentError, Kind, foreign, kind_of, text_of

_LEAST_HEAD_BYTES = 16  # enough to tell every kind
_PIECE_BYTES = 64 * 1024

# In this order: that of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True, slots=True)
class Item:
    """A file, or `-`, and the name that its document gets."""

    file: str
    document: str
    # Whether it was found in a folder, not named by anybody.
    found: bool = False


def choose(files: Sequence[str], include: Sequence[str]) -> list[Item]:
    """The documents that the words of a command line mean: files as they are, patterns with what
    they match, folders with every file in them whose name or path fits one of `include`."""
    items = [item for word in files for item in _meant(word, include)]
    counts = Counter(item.document for item in items)
    return [
        item if counts[item.document] == 1 else Item(item.file, Path(item.file).as_posix())
        for item in items
    ]


def _meant(word: str, include: Sequence[str]) -> list[Item]:
    path = Path(word)
    if path.is_dir():
        return [
            Item(str(path / name), name, found=True)
            for name in _files_in(path)
            if not include or any(_fits(name, pattern) for pattern in include)
        ]
    if glob.has_magic(word) and not path.exists():
        # Path.glob takes no pattern that begins at the root.
        found = glob.glob(word, recursive=True)  # noqa: PTH207
        # A link may lead to a folder again and again: of such paths the shortest counts.
        shortest: dict[str, str] = {}
        for each in sorted(found, key=lambda each: (len(Path(each).parts), each)):
            if Path(each).is_file():
                shortest.setdefault(os.path.realpath(each), each)
        if shortest:
            return [Item(each, Path(each).name, found=True) for each in sorted(shortest.values())]
    return [Item(word, path.name)]


def _files_in(folder: Path) -> list[str]:
    """Paths within a folder, sorted; without what is hidden, and without following links to
    folders, which may lead in circles."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(Path(name).name, pattern)


class Text:
    """An opened document: `file` where it can be read from its beginning again, else `pieces`.

    A byte order mark is not part of it.
    """

    def __init__(self, item: Item, *, as_text: bool) -> None:
        self.name = "standard input" if item.file == "-" else item.file
        self._item = item
        self._as_text = as_text
        self._open = ExitStack()
        self.file: BinaryIO | None = None
        self.pieces: AsyncIterator[bytes] | None = None
        self.total: int | None = None
        self._begin = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def open(self, standard_input: AsyncIterator[bytes]) -> None:
        """Opens and checks it. `standard_input` is read where that is a pipe.

        Raises:
            NotTextError: it is of another kind, or not UTF-8.
            OSError: it cannot be read.
        """
        if self._item.file == "-":
            if not sys.stdin.seekable():
                self.pieces = self._checked(standard_input)
                return
            file: BinaryIO = sys.stdin.buffer
        else:
            from hope_client.sources import pieces_of

            path = Path(self._item.file)
            if path.exists() and not path.is_file():
                self.pieces = self._checked(pieces_of(path))
                return
            file = self._open.enter_context(path.open("rb"))
        self._check(file)

    async def keep(self, limit: int | None = None) -> None:
        """Puts what comes in pieces into a file, at most `limit` bytes of it."""
        if self.pieces is None:
            return
        file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        async for piece in self.pieces:
            file.write(piece)
            if limit is not None and file.tell() >= limit:
                break
        self.pieces = None
        self.file, self._begin, self.total = file, 0, file.tell()
        file.seek(0)

    def digest(self, size: int | None = None) -> bytes:
        """Of the first `size` bytes, or of all."""
        assert self.file is not None
        self.file.seek(self._begin)
        state, left = content.EMPTY, size
        while piece := self.file.read(_PIECE_BYTES if left is None else min(_PIECE_BYTES, left)):
            state = content.extend(state, piece)
            left = None if left is None else left - len(piece)
        self.file.seek(self._begin)
        return content.digest(state)

    def _check(self, file: BinaryIO) -> None:
        text = self._text_of(file)
        as_text = self._as_text or text is not file  # what was read from a page may show markup
        file, begin = text, text.tell()
        check = _Check(self.name, as_text=as_text)
        first = check.begin(file.read(_PIECE_BYTES))
        mark = check.offset
        check.feed(first)
        while piece := file.read(_PIECE_BYTES):
            check.feed(piece)
        check.feed(b"", final=True)
        file.seek(begin + mark)
        self.file, self._begin, self.total = file, begin + mark, check.offset - mark

    def _text_of(self, file: BinaryIO) -> BinaryIO:
        """The file, or its text where it is a PDF or the like."""
        begin = file.tell()
        head = file.read(HEAD_BYTES)
        file.seek(begin)
        kind = kind_of(head, Path(self.name).suffix.lower())
        if kind is Kind.TEXT or (kind is Kind.HTML and self._as_text):
            return file
        try:
            text = text_of(file.read(), kind)
        except DocumentError as error:
            raise NotTextError(f"{self.name}: {error}") from None
        found = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        found.write(text.encode())
        found.seek(0)
        return found

    async def _checked(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        check = _Check(self.name, as_text=self._as_text)
        head = b""
        begun = False
        async for piece in pieces:
            if not begun:
                head += piece
                if len(head) < _LEAST_HEAD_BYTES:
                    continue
                piece, begun = check.begin(head), True
            check.feed(piece)
            yield piece
        if not begun and head:
            piece = check.begin(head)
            check.feed(piece)
            yield piece
        check.feed(b"", final=True)


class _Check:
    """Sees to it that bytes are text, from the first to the last."""

    def __init__(self, name: str, *, as_text: bool) -> None:
        self._name = name
        self._as_text = as_text
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.offset = 0

    def begin(self, head: bytes) -> bytes:
        """The first bytes without their byte order mark.

        Raises:
            NotTextError: this is another kind of file.
        """
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                raise NotTextError(
                    f"{self._name}: byte 0 begins {encoding} text; "
                    f"convert it with `iconv -f {encoding} -t UTF-8`"
                )
        start, suffix = head[:HEAD_BYTES], Path(self._name).suffix.lower()
        name, remedy = foreign(start, suffix)
        kind = kind_of(start, suffix)
        if not name and kind is not Kind.TEXT and not (self._as_text and kind is Kind.HTML):
            name, remedy = f"a {kind}", "pass the name of its file instead of piping it"
        if name:
            raise NotTextError(f"{self._name}: byte 0 begins {name}, not text; {remedy}")
        if (zero := start.find(0)) >= 0:
            raise NotTextError(
                f"{self._name}: byte {zero} is zero, so this is not UTF-8 text; if it is UTF-16, "
                "convert it with `iconv -f UTF-16LE -t UTF-8`"
            )
        rest = head.removeprefix(codecs.BOM_UTF8)
        self.offset = len(head) - len(rest)
        return rest

    def feed(self, piece: bytes, *, final: bool = False) -> None:
        """Counts the next bytes.

        Raises:
            NotTextError: they are not UTF-8.
        """
        waiting = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            at = self.offset - waiting + error.start
            raise NotTextError(not_utf8(self._name, at)) from None
        self.offset += len(piece)


async def stdin_pieces() -> AsyncIterator[bytes]:
    """Standard input as it comes."""
    # Not in a thread: one that waits for a silent pipe would hold up Ctrl-C.
    descriptor = sys.stdin.fileno()
    while True:
        await _readable(descriptor)
        piece = os.read(descriptor, _PIECE_BYTES)
        if not piece:
            return
        yield piece


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # Watched only while waited for: a full pipe would keep the loop spinning.
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
