"""A session of a HOPE model: its state of a stream as part of a SessionMemory, and back.

What is whose: memories (the banks of fast memories and the counter of their writes, levels,
gathered gradients) belong to the session, and every conversation reads and writes the same ones.
The context (position, the window of attention, the inputs of the convolution) belongs to the
conversation. So a new conversation starts at position 0 with an empty window, and with everything
that the others taught.

A segment of learning lies within one conversation: when another one is read, the open segment ends,
its gradients are gathered, and the context is set aside. Every event that ends a segment is in the
log, and segments are computed from their start, one row at a time; so levels come out the same to
the last bit however the text was cut. Fast memories since the segment's start agree up to rounding.

Computes nothing itself; stream.py does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hope_runtime.errors import CorruptStateError
from hope_runtime.layers.cms import LevelState
from hope_runtime.layers.tree import named_tensors, with_tensors
from hope_runtime.models.hope.model import Context, fresh_context
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.state import HopeState, Segment, fresh_state
from hope_runtime.models.hope.stream import end_segments
from hope_runtime.models.hope.window import TAIL_TOKENS
from hope_runtime.session.fold import observe
from hope_runtime.session.layout import Tensors, check_tensors
from hope_runtime.session.levels import FullRank, Level
from hope_runtime.session.log import Record
from hope_runtime.session.memory import FastMemoryState, SessionMemory, Span
from hope_runtime.session.policy import LevelConfig

_CONTEXT, _START, _GATHERED = "context", "segment.start", "gathered"
_SEGMENT = ("ids_BN", "learnable_BN", "length_B")


def enter(model: HopeModel, memory: SessionMemory, conversation: str) -> SessionMemory:
    """The memory as it is when `conversation` is the next one to be read.

    What the one before carried is set aside, and taken from where `conversation` left its own; a
    new one begins afresh. The same memory when it is being read already, or nothing was yet.
    """
    fast = memory.fast
    if fast is None or fast.conversation == conversation:
        return memory
    state = end_segments(model.config, model.weights, restore(model, memory))
    conversations = dict(memory.conversations)
    if fast.conversation in conversations:
        left = replace(conversations[fast.conversation], context=_own(state.context))
        conversations[fast.conversation] = left
    own: Mapping[str, Tensor] = {}
    if conversation in conversations:
        own = conversations[conversation].context
        conversations[conversation] = replace(conversations[conversation], context={})
    own = own or _own(fresh_context(model.config, model.weights, 1))
    context = with_tensors(state.context, dict(named_tensors(state.context)) | dict(own))
    segment = None
    if state.segment is not None:
        segment = _empty(state.segment, context)
    state = replace(state, context=context, segment=segment)
    fast = FastMemoryState(_tensors(state), conversation)
    return replace(memory, fast=fast, conversations=conversations)


def restore(model: HopeModel, memory: SessionMemory) -> HopeState:
    """The state of one row from which the conversation that is being read goes on."""
    config, weights = model.config, model.weights
    state = fresh_state(config, weights, 1)
    tensors = {} if memory.fast is None else dict(memory.fast.tensors)
    levels = list(state.levels)
    for index, level in enumerate(memory.levels):
        gathered = _numbered(tensors, f"{_GATHERED}.{index}")
        theta = None if level.weights is None else tuple(t[None] for t in level.weights.theta)
        levels[index] = LevelState(theta, gathered, (), torch.tensor([level.updates]))
    state = replace(state, observed_B=torch.tensor([memory.observed_tokens]), levels=tuple(levels))
    if not tensors:
        return state
    context = with_tensors(state.context, tensors, _CONTEXT)
    if state.segment is None:
        return replace(state, context=context)
    start = context
    if f"{_START}.position_B" in tensors:
        start = with_tensors(state.context, tensors, _START)
    kept = {name: tensors[f"segment.{name}"] for name in _SEGMENT}
    return replace(state, context=context, segment=Segment(start, **kept))


def remember(
    model: HopeModel, memory: SessionMemory, record: Record, state: HopeState
) -> SessionMemory:
    """The memory after `record`, whose tokens `state` has observed from restore(enter(memory))."""
    memory = observe(memory, record, window_tokens=None)
    assert memory.observed_tokens == int(state.observed_B), "a record must be observed only once"
    memory = with_state(memory, state, record.conversation)
    # Boundaries lie within what was read, so what waits is what came after the fastest one's.
    through = [
        max(level.learnt_through, _floor(memory.observed_tokens, level.config.period_tokens))
        for level in memory.levels
    ]
    return _learnt_through(memory, through)


def flushed(memory: SessionMemory, state: HopeState, position: int) -> SessionMemory:
    """The memory after its levels learnt what they had gathered, at `position`."""
    assert memory.fast is not None, "a flush must follow observed tokens"
    memory = with_state(memory, state, memory.fast.conversation)
    return _learnt_through(memory, [position] * len(memory.levels))


def with_state(memory: SessionMemory, state: HopeState, conversation: str | None) -> SessionMemory:
    """The memory with the levels and the fast memory of a state."""
    levels = []
    for level, now in zip(memory.levels, state.levels, strict=False):
        updates = int(now.updates_B)
        if updates != level.updates:
            weights = None if now.theta is None else FullRank(tuple(t[0] for t in now.theta))
            level = replace(level, weights=weights, updates=updates)
        levels.append(level)
    fast = FastMemoryState(_tensors(state), conversation)
    return replace(memory, levels=tuple(levels), fast=fast)


@dataclass(frozen=True, slots=True)
class HopeLayout:
    """Layout of the sessions of a HOPE model. Windows may hold any number of tokens up to what a
    window and its tail hold."""

    model: HopeModel

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.model.config.backbone.vocab_size

    def level(self, index: int, config: LevelConfig, tensors: Tensors) -> FullRank:
        """See Layout.level."""
        expected = self.model.initial[index].tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        check_tensors("level", tensors, shapes, self.model.dtype)
        return FullRank(tuple(tensors[name] for name in expected))

    def check_fast(self, tensors: Tensors) -> None:
        """See Layout.check_fast."""
        model = self.model
        state = fresh_state(model.config, model.weights, 1)
        expected = _prefixed(_CONTEXT, state.context)
        if state.segment is not None:
            expected |= {f"segment.{name}": getattr(state.segment, name) for name in _SEGMENT}
            if f"{_START}.position_B" in tensors:
                expected |= _prefixed(_START, state.context)
        for index, initial in enumerate(model.initial):
            if f"{_GATHERED}.{index}.0" in tensors:
                expected |= {
                    f"{_GATHERED}.{index}.{at}": tensor[None]
                    for at, tensor in enumerate(initial.theta)
                }
        self._check("fast memory", tensors, expected)
        if state.segment is None:
            return
        ids, length = tensors["segment.ids_BN"], int(tensors["segment.length_B"])
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise CorruptStateError("a segment contains token ids outside the vocabulary")
        if not 0 <= length <= model.config.segment:
            raise CorruptStateError(
                f"a segment of {length} tokens is longer than the model's segments"
            )
        if (length > 0) != (f"{_START}.position_B" in tensors):
            raise CorruptStateError("a segment and its initial context do not match")

    def check_context(self, tensors: Tensors) -> None:
        """See Layout.check_context."""
        fresh = fresh_context(self.model.config, self.model.weights, 1)
        self._check("context", tensors, _own(fresh))

    def _check(self, kind: str, tensors: Tensors, expected: Mapping[str, Tensor]) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        for name in shapes:
            if ".window." in name and name in tensors:
                shapes[name] = self._window_shape(kind, name, shapes[name], tensors)
        check_tensors(kind, tensors, shapes, {name: each.dtype for name, each in expected.items()})
        for name, tensor in tensors.items():
            if name.endswith(("position_B", "written_B")) and int(tensor) < 0:
                raise CorruptStateError(f"{name} of a {kind} is negative")

    def _window_shape(
        self, kind: str, name: str, shape: tuple[int, ...], tensors: Tensors
    ) -> tuple[int, ...]:
        """`shape` with the number of tokens that all parts of its kind have in all layers."""
        part = "tail_k" if ".tail_" in name else "k"
        tokens = tensors[name].shape[2] if tensors[name].dim() == len(shape) else 0
        first = name[: name.index("layers.")] + f"layers.0.window.{part}"
        same = first in tensors and tensors[first].dim() == 4 and tensors[first].shape[2] == tokens
        most = TAIL_TOKENS if part == "tail_k" else self.model.config.window
        if not same or tokens > most:
            raise CorruptStateError(
                f"{name} of a {kind} contains {tokens} tokens, which does not match the model"
            )
        return (*shape[:2], tokens, shape[3])


def _learnt_through(memory: SessionMemory, through: list[int]) -> SessionMemory:
    """The books of the levels: a level was taught everything up to its last boundary."""
    levels = []
    for level, position in zip(memory.levels, through, strict=True):
        taught = position - level.learnt_through
        levels.append(_taught(level, position, taught))
    pending = tuple(_rest(span, levels[0].learnt_through) for span in memory.pending if levels)
    pending = tuple(span for span in pending if span.ids)
    flushes = memory.flushes if pending else ()
    return replace(memory, levels=tuple(levels), pending=pending, flushes=flushes)


def _taught(level: Level, position: int, tokens: int) -> Level:
    return replace(level, learnt_through=position, learnt_tokens=level.learnt_tokens + tokens)


def _rest(span: Span, position: int) -> Span:
    """The part of a span behind a place of the stream."""
    read = max(position - span.start, 0)
    return replace(span, ids=span.ids[read:], start=span.start + read)


def _floor(count: int, period: int) -> int:
    return count // period * period


def _tensors(state: HopeState) -> dict[str, Tensor]:
    """Tensors of a state but for the levels' weights; an empty segment starts at the context."""
    tensors = _prefixed(_CONTEXT, state.context)
    if (segment := state.segment) is not None:
        tensors |= {f"segment.{name}": getattr(segment, name) for name in _SEGMENT}
        if int(segment.length_B):
            tensors |= _prefixed(_START, segment.start)
    for index, level in enumerate(state.levels):
        for at, tensor in enumerate(level.gathered or ()):
            tensors[f"{_GATHERED}.{index}.{at}"] = tensor
    return tensors


def _prefixed(prefix: str, tree: object) -> dict[str, Tensor]:
    return dict(named_tensors(tree, prefix))


def _own(context: Context) -> dict[str, Tensor]:
    """The part of a context that belongs to its conversation."""
    return {
        name: tensor
        for name, tensor in named_tensors(context)
        if name == "position_B" or ".window." in name or name.endswith(".fast.conv")
    }


def _numbered(tensors: Tensors, prefix: str) -> tuple[Tensor, ...] | None:
    """The tensors prefix.0, prefix.1, ...; None when there is none."""
    found: list[Tensor] = []
    while (name := f"{prefix}.{len(found)}") in tensors:
        found.append(tensors[name])
    return tuple(found) or None


def _empty(segment: Segment, start: Context) -> Segment:
    """A segment that has read nothing from `start`."""
    return Segment(
        start,
        torch.zeros_like(segment.ids_BN),
        torch.zeros_like(segment.learnable_BN),
        torch.zeros_like(segment.length_B),
    )
