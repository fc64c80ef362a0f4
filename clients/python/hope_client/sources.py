"""Where the bytes of a document come from, so that an ingest can go back to what was not committed.

Knows bytes, files and streams; knows nothing of the wire. Offsets count bytes of
the document. A source that can seek goes back at will; one that cannot keeps
what it handed out until it is released, and no more than a bound.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from hope_client.errors import DataLossError

DocumentSource: TypeAlias = str | bytes | Path | BinaryIO | AsyncIterator[bytes]
"""Text, UTF-8 bytes, a file by path or opened in binary mode, or a stream of pieces."""

MAX_HELD_BYTES = 8 * 1024 * 1024
"""A stream may run at most this far ahead of what the server has committed."""

_READ_BYTES = 64 * 1024


class ByteSource(Protocol):
    """Bytes of a document, readable again from the last released offset on."""

    async def read(self, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset` on; empty at the end. One reader at a time."""

    def release(self, offset: int) -> None:
        """Bytes before `offset` will not be asked for again."""

    async def close(self) -> None:
        """Lets go of what the source opened itself."""


class SeekableSource:
    """A binary file that can seek. `begin` is the document offset of its present position."""

    def __init__(self, file: BinaryIO, begin: int, owned: BinaryIO | None) -> None:
        self._file = file
        self._shift = file.tell() - begin
        self._owned = owned
        # A cancelled read goes on in its thread; the next one must not seek under it.
        self._lock = threading.Lock()

    async def read(self, offset: int, limit: int) -> bytes:
        return await asyncio.to_thread(self._read, offset, limit)

    def _read(self, offset: int, limit: int) -> bytes:
        with self._lock:
            self._file.seek(offset + self._shift)
            return self._file.read(limit)

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
                f"The server asks for byte {offset} again, but what came before byte "
                f"{self._begin} was committed and is no longer held; read the source anew"
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


async def _pieces_of(file: BinaryIO) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(file.read, _READ_BYTES):
        yield piece


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
        raise TypeError("open the file in binary mode: offsets of a document count its bytes")
    if isinstance(source, AsyncIterator):
        return StreamSource(source, begin)
    if isinstance(source, Path):
        # Unbuffered: a buffered reader that waits for a pipe cannot be closed.
        file: BinaryIO = await asyncio.to_thread(source.open, "rb", buffering=0)
        owned: BinaryIO | None = file
    elif hasattr(source, "read"):
        file, owned = source, None
    else:
        raise TypeError(f"a document cannot be read from {type(source).__name__}")
    if file.seekable():
        return SeekableSource(file, begin, owned)
    return StreamSource(_pieces_of(file), begin, owned=owned)
