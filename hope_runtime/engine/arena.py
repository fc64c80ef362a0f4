"""Resident rows: what the engine keeps of a session between turns, and may drop at any time.

A row holds the keys and values of one window and the session's terms in the serving dtype. Both
are caches: `reader.py` finds out by content how much of them still holds, so dropping a row costs
time and changes nothing. Keys are the caller's, opaque here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from hope_runtime.memory.cms import LowRank
from hope_runtime.model.attention import KVCache


@dataclass(slots=True)
class Row:
    """Caches of one window under one memory."""

    kv: KVCache
    # Digest of the levels that `terms` and `kv` belong to.
    levels_digest: str = ""
    terms: LowRank | None = None
    # Ids whose keys and values are in `kv`, and how many of them were read in whole chunks.
    tokens: tuple[int, ...] = ()
    aligned: int = 0

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes + (self.terms.nbytes if self.terms else 0)


class Arena:
    """Least recently used rows leave first when `budget_bytes` is exceeded.

    A row in use (between `take` and `give`) is not counted and cannot be dropped. Safe for the
    engine's thread and whoever drops rows or asks for the load.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._held: set[Hashable] = set()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that are not in use."""
        return self._nbytes

    @property
    def held(self) -> int:
        """Rows in use; 0 when the engine is idle."""
        return len(self._held)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, key: Hashable) -> Row | None:
        """The row of `key`, out of the arena until given back; None when it is not resident."""
        with self._lock:
            assert key not in self._held, "a row serves one turn at a time"
            self._held.add(key)
            return self._remove(key)

    def give(self, key: Hashable, row: Row | None) -> None:
        """Ends what `take` began; with None the row is gone."""
        with self._lock:
            self._held.discard(key)
            if row is None:
                return
            self._rows[key] = row
            self._nbytes += row.nbytes
            while self._nbytes > self.budget_bytes:
                self._remove(next(iter(self._rows)))

    def drop(self, key: Hashable) -> None:
        """Forgets a row, if it is there and not in use."""
        with self._lock:
            self._remove(key)

    def check_integrity(self) -> None:
        """Conservation: bytes are counted right and fit, and no row is both in use and here."""
        with self._lock:
            assert self._nbytes == sum(row.nbytes for row in self._rows.values())
            assert self._nbytes <= self.budget_bytes
            assert not self._held & self._rows.keys()

    def _remove(self, key: Hashable) -> Row | None:
        row = self._rows.pop(key, None)
        if row is not None:
            self._nbytes -= row.nbytes
        return row
