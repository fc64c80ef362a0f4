"""Which memories the process of vLLM holds, and as which adapters.

A memory is named by its content; an adapter's number is given once and never again, so keys and
values that were computed under one memory can never be found under another one. There are as many
places as rows: whatever a turn in progress needs is there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor

from hope_runtime.engine.vllm.messages import FAST, Drop, Put
from hope_runtime.errors import UnsupportedMemoryError
from hope_runtime.models.fast_memory.session import writer_of, written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory

# The frozen base.
NONE = 0


@dataclass(slots=True)
class _Adapter:
    number: int
    nbytes: int
    users: int = 0


class Adapters:
    """At most `places` memories of at most `rank` at a time. One thread but for `nbytes`.

    `branch` is the trained fast memory beside the model, if the engine serves one.
    """

    def __init__(
        self, places: int, rank: int, dtype: torch.dtype, fast_memory: FastMemory | None = None
    ) -> None:
        self._fast_memory = fast_memory
        self._places = places
        self._rank = rank
        self._dtype = dtype
        self._numbers: Iterator[int] = itertools.count(1)
        # Least recently used first.
        self._held: OrderedDict[str, _Adapter] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def take(self, memory: SessionMemory | None, send: Callable[[Put | Drop], None]) -> int:
        """The adapter of a memory until it is given back; `send` reaches the process.

        Raises UnsupportedMemoryError for a rank above the most, and for what an earlier fast memory
        wrote.
        """
        if memory is None:
            return NONE
        terms = memory.adapter
        fast = None if self._fast_memory is None else _written(self._fast_memory, memory)
        if terms is None and fast is None:
            return NONE
        digest = memory.levels_digest() + ("" if fast is None else _digest(fast))
        found = self._held.pop(digest, None)
        if found is None:
            if terms is not None and terms.rank > self._rank:
                raise UnsupportedMemoryError(
                    f"The session's levels have rank {terms.rank} together, and this engine was "
                    f"started for {self._rank} at most; serve it with --engine native."
                )
            while len(self._held) >= self._places:
                unused = next(key for key, held in self._held.items() if not held.users)
                gone = self._held.pop(unused)
                self.nbytes -= gone.nbytes
                send(Drop(gone.number))
            served = {
                name: tensor.to(self._dtype).contiguous()
                for name, tensor in (terms.tensors() if terms else {}).items()
            }
            if fast is not None:
                served[FAST] = fast[0].float().contiguous()
            tensors = safetensors.torch.save(served)
            found = _Adapter(next(self._numbers), len(tensors))
            send(Put(found.number, tensors))
            self.nbytes += found.nbytes
        self._held[digest] = found
        found.users += 1
        return found.number

    def give(self, number: int) -> None:
        """Ends what `take` began."""
        for held in self._held.values():
            if held.number == number:
                held.users -= 1

    def clear(self) -> None:
        """Forgets all of them: the process that held them is lost."""
        self._held.clear()
        self.nbytes = 0


def _written(fast_memory: FastMemory, memory: SessionMemory) -> Tensor | None:
    if writer_of(fast_memory, memory) is not fast_memory:
        raise UnsupportedMemoryError(
            "The session's fast memory was written by an earlier version of the trained one; "
            "serve it with --engine torch, or migrate it, which reads its log again."
        )
    return written(fast_memory, memory)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.float().contiguous().numpy().data).hexdigest()
