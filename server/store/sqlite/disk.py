"""The disk under a SQLite store: whether its file is still the one that was opened, and has room.

SQLite goes on writing into a file that was removed or replaced under it, and everybody is told that
their turns are stored. And it finds out that a disk is full when it writes, which is after the work
whose result there is no room for. Both are looked at here before.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from server.store.errors import StoreFullError, StoreLostError

RESERVE_BYTES = 4 << 20
"""Kept free for erasing, which on a full disk must write before it frees anything."""
KEY_RESERVE_BYTES = 256 << 10
"""The same beside the users' keys, for destroying them."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_Identity = tuple[int, int]


class Disk:
    """The files of the database at `path`, and a reserve beside them."""

    def __init__(self, path: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._reserve = path.with_name(f"{path.name}-reserve")
        self._log = path.with_name(f"{path.name}-wal")
        self._opened: dict[Path, _Identity] = {}

    def opened(self) -> None:
        """Remembers which files SQLite has open; its write-ahead log is there by now."""
        for path in (self._path, self._log):
            if (found := _identity(path)) is not None:
                self._opened[path] = found
        self.make_reserve()

    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def require_same_files(self) -> None:
        """Raises StoreLostError when a file was removed or replaced since it was opened."""
        for path, before in self._opened.items():
            found = _identity(path)
            if found == before:
                continue
            happened = "removed" if found is None else "replaced"
            raise StoreLostError(
                f"{path} was {happened} while the server had it open, so nothing more is stored; "
                "put the database back with its -wal and -shm files, or restore a backup, and "
                "restart the server"
            )

    def require_room(self, room_bytes: int) -> None:
        """Raises StoreFullError when there is no room for so many bytes more. Allocates them for a
        moment: a quota or a limit on files is met no other way."""
        folder = self._path.parent
        try:
            if not hasattr(os, "posix_fallocate"):
                if shutil.disk_usage(folder).free < room_bytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, room_bytes)
        except OSError as error:
            # Anything else says nothing about the database, such as a folder that takes no files.
            if error.errno in _NO_ROOM:
                raise StoreFullError(
                    f"{folder} has no room for the {room_bytes:,} bytes that may be written next "
                    f"({error.strerror}); free disk space or delete sessions, then retry"
                ) from error

    def make_reserve(self) -> None:
        """Sets the reserve aside, where it is not and as far as there is room."""
        try:
            descriptor = os.open(self._reserve, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except OSError:  # there already, or the folder takes no files
            return
        try:
            os.posix_fallocate(descriptor, 0, self._reserve_bytes)
        except (OSError, AttributeError):
            self.release_reserve()
        finally:
            os.close(descriptor)

    def release_reserve(self) -> None:
        """Gives the reserve to whatever is written next."""
        self._reserve.unlink(missing_ok=True)


def _identity(path: Path) -> _Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
