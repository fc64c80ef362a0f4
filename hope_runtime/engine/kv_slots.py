"""Slots for windows, and adapters of recently used memories: what an engine keeps between turns.

A slot holds the keys and values of one window under one memory. All caches are allocated before the
first turn, so a turn never fails for want of memory: it waits for a slot. Beside them lie the
adapters of recently used memories in the serving precision, one copy for all windows that share a
memory. Both are caches: window_reader.py finds out by content how much of them still holds, so
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
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.session.memory import SessionMemory

NOT_FINITE = (
    "the model computed a non-finite number for the next token, so the turn was discarded; retry it"
)


@dataclass(slots=True)
class Slot:
    """The caches of one window under one memory, in use or kept.

    `kv` holds the keys and values of `tokens`, the first `aligned` of which were read in whole
    chunks, under the levels that `levels_digest` names. While the slot is in use it also holds the
    session's adapter and, of a model with a trained fast memory, the session's own, (H, V, K).
    `inputs`, (capacity, R), are what the queries of the fast memory are made of, as far as `kv`.
    """

    kv: KVCache
    levels_digest: str = ""
    adapter: ServedAdapter | None = None
    tokens: tuple[int, ...] = ()
    aligned: int = 0
    fast: Tensor | None = None
    inputs: Tensor | None = None

    def forget(self) -> None:
        """Forget the window."""
        self.tokens, self.aligned = (), 0
        self.kv.truncate(0)

    def clear(self) -> None:
        """Forget the window and zero its cache, which may hold NaN: a mask times NaN is NaN."""
        self.forget()
        for cache in (self.kv.k, self.kv.v):
            cache.zero_()


class SlotPool:
    """A fixed number of slots. The least recently used one is reused when none is free.

    A slot in use (between `take` and `give`) cannot be reused or dropped. Safe for the engine's
    thread, which alone takes slots, and for threads that drop slots or ask for the load: so `room`,
    seen on the engine's thread, can only grow until it takes.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        assert caches, "an engine needs at least one slot"
        self.slots = len(caches)
        self._slot_bytes = caches[0].nbytes
        self._free = list(caches)
        self._kept: OrderedDict[Hashable, Slot] = OrderedDict()
        self._held: set[Hashable] = set()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the slots in use or kept."""
        with self._lock:
            return (self.slots - len(self._free)) * self._slot_bytes

    @property
    def held(self) -> int:
        """Slots in use; 0 when the engine is idle."""
        return len(self._held)

    @property
    def room(self) -> int:
        """Slots that can be taken now."""
        return self.slots - len(self._held)

    def __len__(self) -> int:
        """Slots that are kept and not in use."""
        return len(self._kept)

    def take(self, key: Hashable) -> Slot:
        """The slot of `key`, empty if it was not kept, out of the pool until it is given back.

        Only while there is room.
        """
        with self._lock:
            assert key not in self._held, "the slot already serves another turn"
            assert self.room, (
                "all slots are in use; raise window_cache_bytes to serve more turns at a time"
            )
            slot = self._kept.pop(key, None)
            if slot is None:
                if not self._free:
                    self._free.append(self._kept.popitem(last=False)[1].kv)
                cache = self._free.pop()
                cache.truncate(0)
                slot = Slot(cache)
            self._held.add(key)
            return slot

    def give(self, key: Hashable, slot: Slot, *, keep: bool) -> None:
        """Return a slot that `take` gave; unless it is kept, its window is forgotten."""
        # The memory has them; a kept slot must not hold on to them.
        slot.adapter = slot.fast = None
        with self._lock:
            self._held.remove(key)
            if keep:
                self._kept[key] = slot
            else:
                self._free.append(slot.kv)

    def drop(self, key: Hashable) -> None:
        """Forget the window of `key`, if it is kept and not in use."""
        with self._lock:
            slot = self._kept.pop(key, None)
            if slot is not None:
                self._free.append(slot.kv)

    def check_integrity(self) -> None:
        """Assert conservation: every slot is free, kept or in use, and no two share a cache."""
        with self._lock:
            kept = [slot.kv for slot in self._kept.values()]
            assert len(self._free) + len(kept) + len(self._held) == self.slots
            assert len({id(cache) for cache in (*self._free, *kept)}) == len(self._free) + len(kept)
            assert not self._held & self._kept.keys()


class Memories:
    """Adapters of recently used memories as they are served, up to `budget_bytes` of them.

    A slot in use keeps its own alive, so at most one more for each slot exists. One thread.
    """

    def __init__(
        self, budget_bytes: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self._budget_bytes = budget_bytes
        self._dtype = dtype
        self._device = device
        self._adapter: OrderedDict[str, ServedAdapter] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._adapter)

    def adapter(self, memory: SessionMemory) -> ServedAdapter | None:
        """The memory's adapter, all levels as one; None while it is the base model."""
        digest = memory.levels_digest()
        found = self._adapter.pop(digest, None)
        if found is None:
            stored = memory.adapter
            if stored is None:
                return None
            found = ServedAdapter.of(stored, self._dtype, self._device)
            self.nbytes += found.nbytes
        self._adapter[digest] = found
        while self.nbytes > self._budget_bytes:
            _, oldest = self._adapter.popitem(last=False)
            self.nbytes -= oldest.nbytes
        return found
