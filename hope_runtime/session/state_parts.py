"""Parts of a stored state and their inverses: spans, token ids and guards as plain lists.

Each `describe` function makes the list that a class of state_schema.py reads back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import islice
from typing import Any

import torch

from hope_runtime.session.budget import NO_BUDGET, Account, Budget, Grant
from hope_runtime.session.guards import EMPTY_GUARDS, Event, GuardState
from hope_runtime.session.layout import Tensors
from hope_runtime.session.memory import Conversation, SessionMemory, Span
from hope_runtime.session.page_hinkley import EMPTY_STREAM, Watched
from hope_runtime.session.state_schema import GuardFields, SpanFields, StateFields
from hope_runtime.session.window import Window


def flat_ids(groups: Iterable[tuple[int, ...]]) -> torch.Tensor:
    """Token ids of all groups in one tensor, int32."""
    return torch.tensor([token for group in groups for token in group], dtype=torch.int32)


def grouped(flat: torch.Tensor, lengths: list[int]) -> list[tuple[int, ...]]:
    """Inverse of `flat_ids`. Raises ValueError when the lengths are not those of the ids."""
    if sum(lengths) != flat.numel():
        raise ValueError("token counts do not match the number of stored tokens")
    parts = iter(flat.tolist())
    return [tuple(islice(parts, length)) for length in lengths]


def describe_span(span: Span) -> list[Any]:
    """A SpanFields of a span; its ids are stored apart."""
    return [len(span.ids), span.speaker, span.start, span.surprise_nats]


def spans_of(flat: torch.Tensor, entries: Sequence[SpanFields]) -> tuple[Span, ...]:
    """Spans of their ids, all in one tensor, and their entries."""
    ids = grouped(flat, [entry.tokens for entry in entries])
    return tuple(
        Span(tokens, entry.speaker, entry.start, entry.surprise_nats)
        for tokens, entry in zip(ids, entries, strict=True)
    )


def with_cues(
    spans: tuple[Span, ...], flat: torch.Tensor, lengths: list[list[int]]
) -> tuple[Span, ...]:
    """The spans with their cues, whose ids are all in one tensor; `lengths` are by span."""
    cues = iter(grouped(flat, [length for group in lengths for length in group]))
    return tuple(
        replace(span, cues=tuple(islice(cues, len(group))))
        for span, group in zip(spans, lengths, strict=True)
    )


def describe_conversations(memory: SessionMemory) -> list[Any]:
    """A ConversationFields of each conversation; its ids are stored apart."""
    return [
        [
            name,
            item.turns,
            item.window.capacity,
            item.window.dropped,
            len(item.window.pinned),
            len(item.window.recent),
        ]
        for name, item in memory.conversations.items()
    ]


def conversations_of(
    state: StateFields, pinned: torch.Tensor, recent: torch.Tensor, contexts: Mapping[str, Tensors]
) -> dict[str, Conversation]:
    """Conversations of a state, of the ids in their windows and of what contexts they carry."""
    heads = grouped(pinned, [item.pinned for item in state.conversations])
    tails = grouped(recent, [item.recent for item in state.conversations])
    return {
        item.name: Conversation(
            Window(item.capacity, head, tail, item.dropped),
            item.turns,
            contexts.get(item.name, {}),
            bytes.fromhex(state.resume.get(item.name, "")),
        )
        for item, head, tail in zip(state.conversations, heads, tails, strict=True)
    }


def describe_guards(memory: SessionMemory) -> list[Any]:
    """A GuardFields of each level; none while no level's guards remember anything."""
    if all(level.guard == EMPTY_GUARDS for level in memory.levels):
        return []
    return [
        [
            level.guard.rejections,
            level.guard.frozen,
            [[event.guard, event.value, event.limit] for event in level.guard.events],
            _describe_watched(level.guard.surprise),
            _describe_watched(level.guard.probes),
        ]
        for level in memory.levels
    ]


def describe_histories(memory: SessionMemory) -> dict[str, Any]:
    """Fields of a state by which resent histories are recognised; none while there are none."""
    resume = {name: each.resume.hex() for name, each in memory.conversations.items() if each.resume}
    if not memory.taught and not resume:
        return {}
    return {"taught": [digest.hex() for digest in memory.taught], "resume": resume}


def describe_budget(budget: Budget) -> dict[str, Any]:
    """Fields of a state that hold a budget; none while there is none."""
    if budget == NO_BUDGET:
        return {}
    account = None if budget.account is None else list(astuple(budget.account))
    return {"account": account, "grants": [list(astuple(grant)) for grant in budget.grants]}


def budget_of(state: StateFields) -> Budget:
    """Inverse of `describe_budget`."""
    account = None if state.account is None else Account(*state.account)
    return Budget(account, tuple(Grant(*grant) for grant in state.grants))


def _describe_watched(watched: Watched) -> list[Any] | None:
    return list(astuple(watched)) if watched.count else None


def guard_of(kept: GuardFields) -> GuardState:
    """Inverse of an entry of `describe_guards`."""
    streams = (
        EMPTY_STREAM if each is None else Watched(*each) for each in (kept.surprise, kept.probes)
    )
    events = tuple(Event(*event) for event in kept.events)
    return GuardState(kept.rejections, kept.frozen, events, *streams)
