"""Prices of statements, in tokens run forward and backward, and what a budget pays for.

Statements that are practised together share what holds the memory, so they wait for each other: a
document's statements are practised when all that wait can be paid for in full, and at its end as
many as can be. What surprises least is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hope_runtime.session.budget import Allowance
from hope_runtime.session.policy import SpecificConfig

# Tokens of a step whatever is practised in it, and more of them for each statement (docs/log.md).
STEP_TOKENS = 280
STATEMENT_TOKENS = 64
# Share of its steps that a consolidation takes at least, or it is not begun.
LEAST_SHARE = 0.7
# Statements that wait, at most.
WAITING = 16
# Statements of a document that goes on are practised that many together, unless one of them has
# credit: what holds the memory costs as much for one as for four.
TOGETHER = 4
# Least surprise, nats per token, of a statement for which a document counts as longer than it is.
CREDIT_NATS = 5.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document's statement: how much it surprises, nats per token, and whether its value is one
    that nobody can guess."""

    start: int
    surprise_nats: float
    odd: bool

    @property
    def has_credit(self) -> bool:
        """Whether a short document may pay for it as if it were longer."""
        return self.odd or self.surprise_nats >= CREDIT_NATS


@dataclass(frozen=True, slots=True)
class Paid:
    """Candidates that are practised now and those that wait, by `start`; steps and tokens that the
    practice may take at most."""

    now: frozenset[int]
    later: frozenset[int]
    steps: int
    tokens: int


def full_steps(count: int, config: SpecificConfig) -> int:
    """Steps in which so many statements are practised at most."""
    return min(config.steps + config.steps_each * (count - 1), config.most_steps)


def step_tokens(count: int) -> int:
    """Tokens that one of these steps runs, about."""
    return STEP_TOKENS + STATEMENT_TOKENS * count


def pay(
    candidates: Sequence[Candidate],
    allowance: Allowance,
    config: SpecificConfig,
    *,
    may_wait: bool,
) -> Paid:
    """Choose what the allowance pays for now. `may_wait` says that the level will see again what
    is not; else that is left out."""
    ranked = sorted(
        candidates, key=lambda each: (not each.has_credit, -each.surprise_nats, each.start)
    )
    waits = may_wait and not allowance.final
    if waits and len(ranked) < TOGETHER and not any(each.has_credit for each in ranked):
        counts, least = [], 1.0
    elif waits and len(ranked) < WAITING:
        counts, least = [len(ranked)], 1.0
    else:
        ranked = ranked[:WAITING]
        counts, least = list(range(len(ranked), 0, -1)), LEAST_SHARE
    for count in counts if ranked else []:
        credit = allowance.final and all(each.has_credit for each in ranked[:count])
        room = allowance.most if credit else allowance.earned
        steps = min(full_steps(count, config), room // step_tokens(count))
        if steps >= least * full_steps(count, config):
            now = frozenset(each.start for each in ranked[:count])
            rest = frozenset(each.start for each in ranked[count:]) if waits else frozenset()
            return Paid(now, rest, steps, room)
    every = frozenset(each.start for each in ranked)
    return Paid(frozenset(), every if waits else frozenset(), 0, 0)
