"""Base class of the engines of a frozen decoder: everything that takes no step of the model.

A session's levels are low-rank adapters beside the shared weights, whichever engine computes the
turns, and they learn by the Learner on a thread beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from hope_runtime.engine import turn as turns
from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.engine.request import Request
from hope_runtime.learning import Learner
from hope_runtime.learning.drift import base_norm, relative_change
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import observe, with_window
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory, state_bytes_limit
from hope_runtime.session.policy import POLICIES, LearningPolicy


class AdapterEngine:
    """A part of SessionEngine: policies, layout, and what follows from memories without computing.

    `fast_memory` is the trained fast memory beside the model, if the engine serves one.
    """

    def __init__(
        self, model: BaseModel, window_tokens: int, fast_memory: FastMemory | None, learner: Learner
    ) -> None:
        self.model = model
        self.window_tokens = window_tokens
        self.fast_memory = fast_memory
        self.learner = learner

    @property
    def policies(self) -> Mapping[str, LearningPolicy]:
        """Policies by name; those that write a fast memory only where the model has one."""
        if self.fast_memory is not None:
            return POLICIES
        return {name: policy for name, policy in POLICIES.items() if not policy.writes_forward}

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
