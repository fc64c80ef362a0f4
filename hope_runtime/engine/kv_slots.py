"""What the engine keeps between turns: a fixed number of slots for windows, and memories to serve.

A slot holds the keys and values of one window, a `Row` says whose they are. All slots are made
before the first turn, so a turn never fails for want of memory: it waits for a slot. Beside them
lie the terms of recently used memories in the serving precision, one copy for all windows that
share a memory. Both are caches: `reader.py` finds out by content how much of them still holds, so
dropping something costs time and changes nothing. Keys are the caller's, opaque here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory


@dataclass(slots=True)
class Row:
    """A slot in use or kept: caches of one window under one memory."""

    kv: KVCache
    # Digest of the levels that `kv` belongs to, and their terms while the row is in use.
    levels_digest: str = ""
    adapter: LoraAdapter | None = None
    # Ids whose keys and values are in `kv`, and how many of them were read in whole chunks.
    tokens: tuple[int, ...] = ()
    aligned: int = 0
    # Of a model with a trained fast memory: the session's own while the row is in use, (H, V, K),
    # the fast memory that wrote it, and what its queries are made of at each place of the window,
    # (capacity, R), as long as `kv`.
    fast: Tensor | None = None
    fast_memory: FastMemory | None = None
    inputs: Tensor | None = None


class SlotPool:
    """Slots for windows. Least recently used ones are taken over when no free one is left.

    A row in use (between `take` and `give`) cannot be taken over or dropped. Safe for the engine's
    thread, which alone takes rows, and for whoever drops rows or asks for the load: so `room`, seen
    on that thread, can only grow until it takes.
    """

    def __init__(self, slots: Sequence[KVCache]) -> None:
        assert slots, "an engine needs a slot"
        self.slots = len(slots)
        self._slot_bytes = slots[0].nbytes
        self._free = list(slots)
        self._rows: OrderedDict[Hashable, Row] = OrderedDict()
        self._held: set[Hashable] = set()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the slots that hold a window, in use or kept."""
        with self._lock:
            return (self.slots - len(self._free)) * self._slot_bytes

    @property
    def held(self) -> int:
        """Rows in use; 0 when the engine is idle."""
        return len(self._held)

    @property
    def room(self) -> int:
        """How many more rows can be in use."""
        return self.slots - len(self._held)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, key: Hashable) -> Row:
        """The row of `key`, empty if it was not kept, out of the arena until given back.

        Only while there is room.
        """
        with self._lock:
            assert key not in self._held, "a row serves one turn at a time"
            assert self.room, "all slots are in use"
            row = self._rows.pop(key, None)
            if row is None:
                if not self._free:
                    self._free.append(self._rows.popitem(last=False)[1].kv)
                slot = self._free.pop()
                slot.truncate(0)
                row = Row(slot)
            self._held.add(key)
            return row

    def give(self, key: Hashable, row: Row, *, keep: bool) -> None:
        """Ends what `take` began; what is not kept is forgotten."""
        # The memory has them; a kept row must not hold on to them.
        row.adapter = row.fast = None
        with self._lock:
            self._held.remove(key)
            if keep:
                self._rows[key] = row
            else:
                self._free.append(row.kv)

    def drop(self, key: Hashable) -> None:
        """Forgets a row, if it is there and not in use."""
        with self._lock:
            row = self._rows.pop(key, None)
            if row is not None:
                self._free.append(row.kv)

    def check_integrity(self) -> None:
        """Conservation: every slot is free, kept or in use, and no two rows share one."""
        with self._lock:
            kept = [row.kv for row in self._rows.values()]
            assert len(self._free) + len(kept) + len(self._held) == self.slots
            assert len({id(slot) for slot in (*self._free, *kept)}) == len(self._free) + len(kept)
            assert not self._held & self._rows.keys()


class Memories:
    """Terms of recently used memories in the serving precision, up to `budget_bytes` of them.

    A row in use keeps its own alive, so at most one more for each slot is there. One thread.
    """

    def __init__(self, budget_bytes: int, dtype: torch.dtype) -> None:
        self._budget_bytes = budget_bytes
        self._dtype = dtype
        self._adapter: OrderedDict[str, LoraAdapter] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._adapter)

    def adapter(self, memory: SessionMemory) -> LoraAdapter | None:
        """The memory's terms, all levels as one; None while it is the base model."""
        digest = memory.levels_digest()
        found = self._adapter.pop(digest, None)
        if found is None:
            stored = memory.adapter
            if stored is None:
                return None
            found = stored.to(self._dtype)
            self.nbytes += found.nbytes
        self._adapter[digest] = found
        while self.nbytes > self._budget_bytes:
            _, oldest = self._adapter.popitem(last=False)
            self.nbytes -= oldest.nbytes
        return found
