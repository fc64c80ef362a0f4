"""Resident rows: what the engine keeps of a session between turns, and may drop at any time.

A row holds the keys and values of one window and the session's terms in the serving dtype. Both
are caches: `reader.py` finds out by content how much of them still holds, so dropping a row costs
time and changes nothing. Keys are the caller's, opaque here.
"""

from __future__ import annotations

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

    A row in use (between `take` and `give`) is not counted and cannot be dropped.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._held: set[Hashable] = set()

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, key: Hashable) -> Row | None:
        """The row of `key`, out of the arena until given back; None when it is not resident."""
        assert key not in self._held, "a row serves one turn at a time"
        self._held.add(key)
        return self._rows.pop(key, None)

    def give(self, key: Hashable, row: Row | None) -> None:
        """Ends what `take` began; with None the row is gone."""
        self._held.discard(key)
        if row is None:
            return
        self._rows[key] = row
        while self.nbytes > self.budget_bytes and self._rows:
            self._rows.popitem(last=False)

    def drop(self, key: Hashable) -> None:
        """Forgets a row, if it is there and not in use."""
        self._rows.pop(key, None)

    def check_integrity(self) -> None:
        """Conservation: the resident bytes fit, and when idle no row is held."""
        assert self.nbytes <= self.budget_bytes or not self._rows
        assert not self._held & self._rows.keys()
