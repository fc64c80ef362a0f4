"""Base class of the engines of a frozen decoder: everything that takes no step of the model.

A session's levels are low-rank adapters beside the shared weights, whichever engine computes the
turns, and they learn by the Learner on a thread beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from hope_runtime.device import Device
from hope_runtime.engine import turn as turns
from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.engine.request import Request
from hope_runtime.errors import ModelError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.learning import Learner
from hope_runtime.learning.drift import base_norm, relative_change
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import observe, with_window
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory, state_bytes_limit
from hope_runtime.session.policy import POLICIES, LearningPolicy
from hope_runtime.session.rank_bound import within_bound


def windows_within(
    model: BaseModel, *, window_tokens: int, slot_tokens: int, window_cache_bytes: int
) -> int:
    """Number of windows that `window_cache_bytes` hold, where each takes a slot of `slot_tokens`.

    Raises ModelError for a window that the model has no positions for, or that the bytes do not
    hold once.
    """
    if window_tokens > model.config.max_positions:
        raise ModelError(
            f"window_tokens is {window_tokens}, but the model supports at most "
            f"{model.config.max_positions} positions; start with --window-tokens "
            f"{model.config.max_positions} or less"
        )
    slot_bytes = KVCache.bytes_of(model.config, slot_tokens, model.dtype)
    if window_cache_bytes < slot_bytes:
        raise ModelError(
            f"window_cache_bytes is {window_cache_bytes}, but one window of {window_tokens} "
            f"tokens of this model takes {slot_bytes} bytes"
        )
    return window_cache_bytes // slot_bytes


# Share of what is free for windows where the user leaves their size open; a step works in the rest.
WINDOWS_SHARE = 0.85


def bytes_for_windows(device: Device, reserved: int) -> int:
    """Bytes for windows where a user leaves their size open: a share of what is free on the device
    beside `reserved` bytes, which others will take. Raises ModelError when nothing is left."""
    free = device.free_bytes()
    if free <= reserved:
        raise ModelError(
            f"{free} bytes are free on {device.place}, and adapters take {reserved} of them; lower "
            "--memory-cache-bytes"
        )
    return int(WINDOWS_SHARE * (free - reserved))


class AdapterEngine:
    """A part of SessionEngine: policies, layout, and what follows from memories without computing.

    `fast_memory` is the trained fast memory beside the model, if the engine serves one. Without a
    `learner` it makes its own, for `threads` CPU threads.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        window_tokens: int,
        threads: int | None,
        fast_memory: FastMemory | None,
        learner: Learner | None,
    ) -> None:
        self.model = model
        self.window_tokens = window_tokens
        self.fast_memory = fast_memory
        self.device = Device.of(model, threads)
        self.learner = learner or Learner(model, threads, fast_memory)

    @property
    def policies(self) -> Mapping[str, LearningPolicy]:
        """Policies by name, with the ranks that they have on this model; those that write a fast
        memory only where the model has one."""
        return {
            name: within_bound(policy, self.model.config)
            for name, policy in POLICIES.items()
            if self.fast_memory is not None or not policy.writes_forward
        }

    @property
    def learns_beside_turns(self) -> bool:
        return True

    @cached_property
    def layout(self) -> AdapterLayout:
        """Layout of a session's stored tensors."""
        return AdapterLayout(self.model.config, self.fast_memory)

    @cached_property
    def _base_norm(self) -> float:
        return base_norm(self.model)

    def state_bytes_limit(self, policy: LearningPolicy) -> int:
        """Bytes that a session's levels take once each has learnt."""
        return state_bytes_limit(self.model.config, policy)

    def adapt(self, memory: SessionMemory) -> SessionMemory:
        """A memory that was stored, with windows of this engine's size."""
        return with_window(memory, self.window_tokens)

    def check(self, memory: SessionMemory, turn: turns.GenerateTurn) -> None:
        """Raise InvalidRequestError if the turn would be refused. Any thread may call it."""
        turns.place(self.model.tokenizer, memory, turn, self.window_tokens)

    def observe(self, memory: SessionMemory, record: Record) -> Request[SessionMemory]:
        """The memory after a record; nothing is computed for it, so it is there at once."""
        request: Request[SessionMemory] = Request()
        request.future.set_result(observe(memory, record, window_tokens=self.window_tokens))
        return request

    def change(self, before: SessionMemory | None, after: SessionMemory) -> list[float]:
        """Relative norm of what was added between two memories, of each level."""
        old = [None] * len(after.levels) if before is None else before.levels
        return [
            relative_change(one, other, self._base_norm)
            for one, other in zip(old, after.levels, strict=True)
        ]
