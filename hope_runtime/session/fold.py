"""The fold: how a record of the log changes a memory, and when a level is due to learn.

Everything here is cheap, pure arithmetic on token ids. The one expensive step, consolidation, is
the Learner's; this module says only when it is due, from the log alone, so that no schedule,
batch or crash can shift it (docs/architecture.md, rule 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from hope_runtime.session.effective import effective
from hope_runtime.session.guards import set_frozen
from hope_runtime.session.levels import Level
from hope_runtime.session.log import MAX_TAUGHT, Record, RecordKind
from hope_runtime.session.log_digest import extend_digest
from hope_runtime.session.memory import (
    MAX_CONVERSATIONS,
    MAX_DOCUMENTS,
    Conversation,
    Document,
    FastMemoryState,
    SessionMemory,
    Span,
)
from hope_runtime.session.window import Window

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place in the stream of learnable tokens where one level learns."""

    level: int
    position: int


class Consolidates(Protocol):
    """A learner, as far as the fold needs one."""

    def consolidate_now(self, memory: SessionMemory, boundary: Boundary) -> SessionMemory:
        """The memory after learning at one boundary."""
        ...


def observe(memory: SessionMemory, record: Record, *, window_tokens: int | None) -> SessionMemory:
    """The memory after `record`, before any consolidation that it makes due.

    `window_tokens` is the capacity of a new conversation's window; None leaves windows empty, for
    models that carry a context of their own along a conversation (models/hope/session.py). Rollback
    records cannot be observed: they replace the memory, which is the business of whoever holds its
    versions. Raises WindowOverflowError when a system prompt cannot be pinned.
    """
    match record.kind:
        case RecordKind.TURN:
            memory = _extend_window(continued(memory, record), record, window_tokens, turns=1)
            if record.taught:
                memory = replace(memory, taught=(*memory.taught, *record.taught)[-MAX_TAUGHT:])
        case RecordKind.DOCUMENT:
            memory = _extend_window(memory, record, window_tokens, turns=0)
        case RecordKind.END_CONVERSATION:
            memory = without_window(memory, record.conversation)
        case RecordKind.CONSOLIDATE | RecordKind.CONSOLIDATION:
            pass
        case RecordKind.FORGET:
            # What is forgotten was left out before the fold began (`effective`). Windows may hold
            # replies that repeat a statement, so none goes on.
            for name in memory.conversations if record.places else ():
                memory = without_window(memory, name)
        case RecordKind.RESET:
            memory = _reset(memory, record.levels)
        case RecordKind.FREEZE | RecordKind.UNFREEZE:
            memory = _set_frozen(memory, record.levels, record.kind is RecordKind.FREEZE)
        case RecordKind.ROLLBACK:
            raise ValueError("a rollback must be applied by restoring the version that it names")
    if record.budget is not None:
        start = memory.observed_tokens
        granted = memory.budget.granting(
            start,
            start + record.learnable_tokens,
            record.budget,
            begins=record.document not in memory.documents,
        )
        memory = replace(memory, budget=granted)
    memory = _collect_spans(memory, record)
    if record.kind is RecordKind.DOCUMENT:
        state = Document(record.committed_bytes, record.tail, record.ended, record.content)
        documents = _recent(memory.documents, record.document, state, MAX_DOCUMENTS)
        memory = replace(memory, documents=documents)
    flushes = record.ended or record.kind in (RecordKind.END_CONVERSATION, RecordKind.CONSOLIDATE)
    if flushes:
        memory = _flush(memory)
    return replace(memory, log_digest=extend_digest(memory.log_digest, record))


def continued(memory: SessionMemory, record: Record) -> SessionMemory:
    """The memory that `record` goes on from: one without its window if that begins anew."""
    return without_window(memory, record.conversation) if record.fresh else memory


def without_window(memory: SessionMemory, conversation: str) -> SessionMemory:
    """The memory without a conversation's window. Nothing that was taught in it is lost."""
    rest = {k: v for k, v in memory.conversations.items() if k != conversation}
    return replace(memory, conversations=rest, fast=_left(memory, conversation))


def with_window(memory: SessionMemory, window_tokens: int) -> SessionMemory:
    """The memory with all its windows at `window_tokens`; nothing learnt depends on their size."""
    conversations = {
        name: replace(item, window=item.window.resized(window_tokens))
        for name, item in memory.conversations.items()
    }
    return replace(memory, conversations=conversations)


def due(memory: SessionMemory) -> Boundary | None:
    """The next boundary that has been reached and not served; at one place the fast level first."""
    reached = [
        Boundary(index, position)
        for index, level in enumerate(memory.levels)
        if (position := _next_multiple(level.learnt_through, level.config.period_tokens))
        <= memory.observed_tokens
    ]
    reached += [Boundary(0, position) for position in memory.flushes]
    return min(reached, key=lambda boundary: (boundary.position, boundary.level), default=None)


def stretch(memory: SessionMemory, boundary: Boundary) -> tuple[Span, ...]:
    """Spans that a level learns at `boundary`: whole ones that ended since its last one.

    The fastest level reads everything that was said; a slower one reads what the bounded buffer
    kept of its longer stretch.
    """
    since = memory.levels[boundary.level].learnt_through
    if boundary.level == 0:
        return tuple(span for span in memory.pending if span.end <= boundary.position)
    return tuple(span for span in memory.buffer if since < span.end <= boundary.position)


def with_learning(
    before: SessionMemory, learnt: SessionMemory, now: SessionMemory
) -> SessionMemory:
    """`now`, which observed turns since `before`, with what consolidations made of `before`.

    The two orders give one memory: a consolidation reads and changes levels, the buffer and what
    was pending at its boundary, and a turn only adds behind it. So a reply need not wait for a
    consolidation that is under way. Raises ValueError unless only turns were observed in between
    (a reset, a freeze or the end of a document or conversation must wait).
    """
    if any(old is not new for old, new in zip(before.levels, now.levels, strict=True)) or (
        now.documents != before.documents or now.flushes != before.flushes
    ):
        raise ValueError("only turns may be observed beside a consolidation")
    added = tuple(span for span in now.pending if span.start >= before.observed_tokens)
    return replace(
        now,
        levels=learnt.levels,
        pending=(*learnt.pending, *added),
        buffer=learnt.buffer,
        flushes=learnt.flushes,
        budget=learnt.budget,
        fast=learnt.fast,
    )


def replay(
    memory: SessionMemory, records: Sequence[Record], learner: Consolidates, *, window_tokens: int
) -> SessionMemory:
    """Fold `records` into `memory`, consolidating wherever it is due."""
    for record in effective(records):
        memory = observe(memory, record, window_tokens=window_tokens)
        while (boundary := due(memory)) is not None:
            memory = learner.consolidate_now(memory, boundary)
    return memory


def _next_multiple(position: int, period: int) -> int:
    return (position // period + 1) * period


def _reset(memory: SessionMemory, levels: Sequence[int]) -> SessionMemory:
    """The memory with these levels at the base model again. When none is left that learnt, the
    sample that is rehearsed goes too: it would teach them anew. What waits for a boundary stays."""
    fresh = tuple(
        Level(level.config, learnt_through=level.learnt_through) if index in levels else level
        for index, level in enumerate(memory.levels)
    )
    rehearsed = memory.buffer if any(level.learnt is not None for level in fresh) else ()
    return replace(memory, levels=fresh, buffer=rehearsed)


def _set_frozen(memory: SessionMemory, levels: Sequence[int], frozen: bool) -> SessionMemory:
    changed = tuple(
        replace(level, guard=set_frozen(level.guard, frozen)) if index in levels else level
        for index, level in enumerate(memory.levels)
    )
    return replace(memory, levels=changed)


def _flush(memory: SessionMemory) -> SessionMemory:
    if not memory.pending or memory.observed_tokens in memory.flushes or not memory.levels:
        return memory
    return replace(memory, flushes=(*memory.flushes, memory.observed_tokens))


def _extend_window(
    memory: SessionMemory, record: Record, window_tokens: int | None, turns: int
) -> SessionMemory:
    tokens = record.tokens
    if window_tokens is None and not tokens:
        return memory  # a context begins with its first token
    known = memory.conversations.get(record.conversation, Conversation(Window(window_tokens or 0)))
    window = known.window
    if window_tokens is not None:
        if record.pinned:
            window = window.pin(tokens[: record.pinned])
        window = window.append(tokens[record.pinned :])
    resume = record.resume if turns else known.resume
    state = replace(known, window=window, turns=known.turns + turns, resume=resume)
    conversations = _recent(memory.conversations, record.conversation, state, MAX_CONVERSATIONS)
    return replace(memory, conversations=conversations)


def _collect_spans(memory: SessionMemory, record: Record) -> SessionMemory:
    spans = list(memory.pending)
    observed = memory.observed_tokens
    for segment in record.segments:
        if not segment.learnable:
            continue
        for ids in segment.spans:
            spans.append(Span(ids, segment.speaker, observed))
            observed += len(ids)
    return replace(memory, pending=tuple(spans), observed_tokens=observed)


def _left(memory: SessionMemory, conversation: str) -> FastMemoryState | None:
    """The fast memory once a conversation has ended: the next one goes on from another context."""
    if memory.fast is None or memory.fast.conversation != conversation:
        return memory.fast
    return replace(memory.fast, conversation=None)


def _recent(items: Mapping[str, _Item], name: str, state: _Item, limit: int) -> dict[str, _Item]:
    kept = {key: value for key, value in items.items() if key != name} | {name: state}
    return dict(list(kept.items())[-limit:])
