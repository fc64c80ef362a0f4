"""Sources of a document's bytes that can go back to what was not committed.

Knows bytes, files and streams; knows nothing of the wire. Offsets count bytes of
the document. A source that can seek goes back at will; one that cannot keeps
what it handed out until it is released, and no more than a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, TypeVar, cast

from hope_client import content
from hope_client.errors import DataLossError

DocumentSource: TypeAlias = str | bytes | Path | BinaryIO | Iterator[bytes] | AsyncIterator[bytes]
"""Text, UTF-8 bytes, a file by path or opened in binary mode, or a stream of pieces. An ordinary
iterator is read in threads of the client, one at a time."""

MAX_CHUNK_BYTES = 1024 * 1024
"""The most that one message carries."""

MAX_HELD_BYTES = 8 * 1024 * 1024
"""A stream may run at most this far ahead of what the server has committed."""

_READ_BYTES = 64 * 1024

T = TypeVar("T")


class SourceEndsError(Exception):
    """A source does not reach as far as the document was read; the argument says where it ends."""


class ByteSource(Protocol):
    """Bytes of a document, readable again from the last released offset on."""

    async def read(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset` on; empty at the end. One reader at a time."""

    async def digest(self, offset: int) -> bytes:
        """Digest of all bytes of the document before `offset`, which is at least the last released
        one; empty when the source begins behind the document's first byte.

        Raises:
            SourceEndsError: the source has fewer bytes.
        """

    def release(self, offset: int) -> None:
        """Bytes before `offset` will not be asked for again."""

    async def close(self) -> None:
        """Lets go of what the source opened itself."""


class SeekableSource:
    """A binary file that can seek. `begin` is the document offset of its present position."""

    def __init__(self, file: BinaryIO, begin: int, owned: BinaryIO | None) -> None:
        self._file = file
        self._begin = begin
        self._shift = file.tell() - begin
        self._owned = owned
        # A cancelled read goes on in its thread; the next one must not seek under it.
        self._lock = threading.Lock()

    async def read(self, offset: int, limit: int) -> bytes:
        return await _in_thread(lambda: self._read(offset, limit))

    def _read(self, offset: int, limit: int) -> bytes:
        with self._lock:
            self._file.seek(offset + self._shift)
            return self._file.read(limit)

    async def digest(self, offset: int) -> bytes:
        # Read again every time: the file may have been changed since.
        return b"" if self._begin else await _in_thread(lambda: self._digest(offset))

    def _digest(self, offset: int) -> bytes:
        state, at = content.EMPTY, 0
        while at < offset:
            piece = self._read(at, min(_READ_BYTES, offset - at))
            if not piece:
                raise SourceEndsError(at)
            state = content.extend(state, piece)
            at += len(piece)
        return content.digest(state)

    def release(self, offset: int) -> None:
        pass

    async def close(self) -> None:
        if self._owned is not None:
            self._owned.close()


class StreamSource:
    """Pieces that come once. `begin` is the document offset of the first one."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        begin: int,
        max_held_bytes: int = MAX_HELD_BYTES,
        owned: BinaryIO | None = None,
    ) -> None:
        self._pieces = pieces
        self._begin = begin  # document offset of the first held byte
        # Of what came before that, unless the document did so elsewhere.
        self._content = b"" if begin else content.EMPTY
        self._held = bytearray()
        self._released = begin
        self._max_held_bytes = max_held_bytes
        self._owned = owned
        self._room = asyncio.Event()
        self._pending: asyncio.Future[bytes | None] | None = None
        self._exhausted = False

    async def read(self, offset: int, limit: int) -> bytes:
        if offset < self._begin:
            raise DataLossError(
                f"the server asks for byte {offset} again, but everything before byte "
                f"{self._begin} was already committed and released; start again with a new source"
            )
        while offset >= self._begin + len(self._held) and not self._exhausted:
            self._drop(min(self._released, offset))
            if len(self._held) >= self._max_held_bytes:
                self._room.clear()
                await self._room.wait()
            else:
                await self._pull()
        start = offset - self._begin
        return bytes(self._held[start : start + limit])

    async def digest(self, offset: int) -> bytes:
        if not self._content:
            return b""
        while self._begin + len(self._held) < offset:
            if not await self.read(self._begin + len(self._held), 1):
                raise SourceEndsError(self._begin + len(self._held))
        held = self._held[: offset - self._begin]
        return content.digest(content.extend(self._content, held))

    def release(self, offset: int) -> None:
        self._released = max(self._released, offset)
        self._drop(self._released)
        self._room.set()

    async def close(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
        if self._owned is not None:
            self._owned.close()

    def _drop(self, offset: int) -> None:
        dropped = max(0, min(offset - self._begin, len(self._held)))
        if self._content:
            self._content = content.extend(self._content, self._held[:dropped])
        del self._held[:dropped]
        self._begin += dropped

    async def _pull(self) -> None:
        # Shielded and remembered: a piece on its way when a call breaks must
        # reach the next call, or the document would have a hole.
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._next_piece())
        piece = await asyncio.shield(self._pending)
        self._pending = None
        if piece is None:
            self._exhausted = True
        else:
            self._held += piece

    async def _next_piece(self) -> bytes | None:
        return await anext(self._pieces, None)


async def in_pieces(
    pieces: Iterable[bytes] | AsyncIterable[bytes], limit: int
) -> AsyncIterator[bytes]:
    """`pieces`, cut so that none is longer than `limit`."""
    stream = pieces if isinstance(pieces, AsyncIterable) else _pulled(iter(pieces))
    async for piece in stream:
        for begin in range(0, len(piece), limit):
            yield piece[begin : begin + limit]


async def _pulled(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await _in_thread(lambda: next(pieces, None))) is not None:
        yield piece


async def pieces_of(path: Path) -> AsyncIterator[bytes]:
    """Bytes of a named pipe or a device; opening it may have to wait for a writer."""
    # Unbuffered: a buffered reader that waits for a pipe cannot be closed.
    with await _in_thread(lambda: path.open("rb", buffering=0)) as file:
        async for piece in _pieces_of(file):
            yield piece


async def _pieces_of(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await _in_thread(lambda: file.read(_READ_BYTES)):
        yield piece


async def _in_thread(work: Callable[[], T]) -> T:
    """Result of `work`, from a thread that nobody waits for when the program or the client
    ends: asyncio's own would hold them up as long as a pipe is silent."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error
            settle(lambda: future.set_exception(failure))
        else:
            settle(lambda: future.set_result(result))

    threading.Thread(target=run, name="hope-client-read", daemon=True).start()
    return await future


async def open_source(source: DocumentSource, begin: int) -> ByteSource:
    """The source, whose first byte is byte `begin` of the document.

    Raises:
        OSError: if `source` is a path that cannot be read.
        TypeError: if it is a text file, or none of the above.
    """
    if isinstance(source, str):
        source = source.encode()
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise TypeError(
            "the file must be opened in binary mode, because document offsets count bytes"
        )
    if isinstance(source, AsyncIterator):
        return StreamSource(source, begin)
    owned: BinaryIO | None = None
    if isinstance(source, Path):
        path = source
        # Unbuffered: a buffered reader that waits for a pipe cannot be closed.
        source = owned = await _in_thread(lambda: path.open("rb", buffering=0))
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        file = cast(BinaryIO, source)
        if file.seekable():
            return SeekableSource(file, begin, owned)
        return StreamSource(_pieces_of(file), begin, owned=owned)
    if isinstance(source, Iterator):
        return StreamSource(_pulled(source), begin)
    raise TypeError(
        f"cannot read a document from {type(source).__name__}; pass text, bytes, a path, a "
        "binary file or an iterable"
    )
