"""Configuration of the model and of what its memory may do: frozen dataclasses, checked when made.

Knows no file formats (checkpoints/ does) and no server settings (server/settings.py does).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Literal

from hope_runtime.session.guards import GuardConfig
from hope_runtime.session.specific_settings import SPECIFIC
from hope_runtime.session.specific_settings import SpecificConfig as SpecificConfig


@dataclass(frozen=True, slots=True)
class LevelConfig:
    """One level of the Continuum Memory System (Nested Learning, section 7.1).

    `period_tokens` is C of Eq. 71, in learnable tokens; `rank` is that of the level's own term
    in every MLP matrix.
    """

    period_tokens: int
    rank: int
    learning_rate: float

    def __post_init__(self) -> None:
        if self.period_tokens < 1 or self.rank < 1:
            raise ValueError("period_tokens and rank of a level must be at least 1")
        if not 0 <= self.learning_rate < 1:
            raise ValueError("learning_rate must be in [0, 1)")


@dataclass(frozen=True, slots=True)
class ReplayConfig:
    """Constants of the recipe `replay` (learning/recipes/replay); figures in docs/evaluation.md.

    The prices are the most tokens that are run forward and backward for each learnable token,
    rehearsal and contrasts included: `statement_price` for spans that are practised in every form,
    `plain_price` for those that are only read again. See `budget_tokens` for small stretches.
    """

    statement_price: float = 100.0
    plain_price: float = 10.0
    # A few statements need as many steps as many do: they count as so many tokens, though as no
    # more than half of it above their own, and steps are made smaller until there are so many.
    small_stretch_tokens: int = 100
    least_steps: int = 36
    # Longest span, in tokens, that is practised as a statement and not only read again.
    statement_tokens: int = 40
    # A document's sentences of less surprise, nats per token, are only read again. (What a user
    # says is practised whatever its surprise.)
    document_surprise_nats: float = 5.0
    # Questions that a statement is practised as the answer to, at most.
    questions: int = 4
    # What one optimiser step runs.
    new_per_step: int = 8
    earlier_per_step: int = 7
    contrasts_per_step: int = 4
    # A window of the base's own samples every so many steps.
    window_every: int = 2
    # Contrasts that are written for each statement, every one about another stranger.
    contrasts_each: int = 5
    # How many of a step's contrasts are the level's own replies about strangers, once it gave
    # some, and at which shares of the budget it is asked for them.
    answered_per_step: int = 2
    answered_at: tuple[float, ...] = (0.25, 0.5, 0.7)
    # Steps before the first contrast: there is nothing to contrast yet.
    contrasts_after: int = 8
    contrast_weight: float = 1.5
    # Directions of each matrix's inputs, the strongest that questions about strangers have in
    # common, which a level does not learn to read (learning/common.py).
    common_directions: int = 64
    rehearsal_weight: float = 1.0
    # A replay below this loss, nats per token, is known, and skipped with this probability.
    known_nats: float = 0.08
    skip_known: float = 0.7
    warmup_steps: int = 4
    # Share of the learning rate at which a level that has learnt before learns again.
    later_rate: float = 0.67
    # Share of the learning rate that is left at the end of the budget.
    final_rate: float = 0.2
    # Tokens of earlier spans that a session keeps to rehearse.
    buffer_tokens: int = 1024
    # Share of its strength that a level keeps when a slower one has learnt the same spans.
    fast_decay: float = 0.5

    def __post_init__(self) -> None:
        if min(self.new_per_step, self.window_every, self.warmup_steps) < 1:
            raise ValueError("new_per_step, window_every and warmup_steps must be at least 1")
        if not 0 <= self.fast_decay <= 1 or not 0 <= self.skip_known < 1:
            raise ValueError("fast_decay must be in [0, 1] and skip_known in [0, 1)")
        if self.common_directions < 0:
            raise ValueError("common_directions must be at least 0")
        if self.answered_per_step > self.contrasts_per_step:
            raise ValueError("answered_per_step must be at most contrasts_per_step")

    def budget_tokens(self, stated: int, other: int) -> int:
        """The most tokens that are run forward and backward for a stretch of `stated` tokens in
        statements and `other` ones."""
        small = self.small_stretch_tokens
        counted = max(stated, min(stated + small // 2, small)) if stated else 0
        return int(self.statement_price * counted + self.plain_price * other)

    def in_steps(self, budget: int, step_tokens: float) -> ReplayConfig:
        """The same recipe with smaller steps, where a budget would end after too few of them, each
        of about `step_tokens`."""
        share = min(1.0, max(1, budget) / (self.least_steps * step_tokens))

        def part(count: int) -> int:
            return max(1, round(share * count)) if count else 0

        contrasts = part(self.contrasts_per_step)
        return replace(
            self,
            new_per_step=part(self.new_per_step),
            earlier_per_step=part(self.earlier_per_step),
            contrasts_per_step=contrasts,
            answered_per_step=min(part(self.answered_per_step), contrasts),
            # So few tokens would harm the base most: nothing else holds it.
            window_every=1 if share < 1 else self.window_every,
        )


# Fields of a policy that hold the constants of its recipe, by recipe. Those of other recipes are no
# part of its digest, so a new recipe leaves all digests as they are.
Recipe = Literal["replay", "specific_replay", "summed_gradient", "none", "streamed"]
RECIPE_SETTINGS = {"replay": "replay", "specific_replay": "specific"}


# Tokens run forward and backward for each token of a document, at most, unless its reader says
# otherwise; docs/evaluation.md has the curve that it was chosen from.
DOCUMENT_BUDGET = 3.0


@dataclass(frozen=True, slots=True)
class LearningPolicy:
    """Policy of a session: the recipe and constants by which its memory learns.

    Part of the fold: to change it is a migration. `recipe` is "specific_replay" (that of the
    default policy), "replay" (that of earlier versions),
    "summed_gradient" (Eq. 71 over the factors, exactly), "none" (levels stay the base model), or
    that of HOPE models, "streamed" (Eq. 71 over all weights of a level, while tokens are read).

    `writes_forward` says that the trained fast memory beside the model (models/fast_memory) is
    written at the boundaries of the fastest level.
    """

    name: str
    levels: tuple[LevelConfig, ...]
    recipe: Recipe = "replay"
    replay: ReplayConfig = ReplayConfig()
    specific: SpecificConfig = SPECIFIC
    seed: int = 0
    writes_forward: bool = False
    # What a consolidation may do at most (guards.py); None: whatever it does.
    guards: GuardConfig | None = None
    # Name under which sessions of a policy were stored before it was renamed. It counts in the
    # digest in place of `name`, so that they stay its own.
    stored_as: str | None = None

    def __post_init__(self) -> None:
        periods = [level.period_tokens for level in self.levels]
        if any(slow % fast for fast, slow in pairwise(periods)):
            raise ValueError(
                "period_tokens of each level must be a multiple of that of the level before it"
            )

    @property
    def settings(self) -> ReplayConfig | SpecificConfig | None:
        """Constants of the recipe; None where it has none."""
        name = RECIPE_SETTINGS.get(self.recipe)
        return None if name is None else getattr(self, name)

    @property
    def buffer_tokens(self) -> int:
        """Tokens of earlier spans that a session keeps to rehearse; 0 without rehearsal."""
        return 0 if self.settings is None else self.settings.buffer_tokens

    @property
    def fast_decay(self) -> float:
        """Share of its strength that a level keeps when a slower one has learnt the same spans."""
        return 1.0 if self.settings is None else self.settings.fast_decay

    @property
    def document_budget(self) -> float | None:
        """Passes that levels may spend for each token of a document unless its reader says
        otherwise; None where the recipe knows no budget.

        No part of the digest: records of documents say what they were given.
        """
        return DOCUMENT_BUDGET if self.recipe == "specific_replay" else None

    def digest(self) -> str:
        """SHA-256 of every constant that counts: two policies with one digest teach the same."""
        constants = asdict(self)
        constants["name"] = constants.pop("stored_as") or self.name
        own = RECIPE_SETTINGS.get(self.recipe)
        for name in set(RECIPE_SETTINGS.values()) - {own}:
            del constants[name]
        if own == "specific":
            constants[own] = self.specific.counted()
        if not self.writes_forward:  # older policies did not know the word
            del constants["writes_forward"]
        # Nor guards. The default ones decide nothing in honest use, so a memory that was folded
        # without them goes on under them; other limits make another policy.
        if self.guards is None or self.guards == GuardConfig():
            del constants["guards"]
        return hashlib.sha256(json.dumps(constants, sort_keys=True).encode()).hexdigest()


DEFAULT_POLICY = LearningPolicy(
    name="default",
    levels=(
        LevelConfig(period_tokens=512, rank=32, learning_rate=6e-3),
        LevelConfig(period_tokens=2048, rank=16, learning_rate=6e-3),
        LevelConfig(period_tokens=8192, rank=8, learning_rate=6e-3),
    ),
    recipe="specific_replay",
    guards=GuardConfig(),
)
# What a guard decided is undone by migrating to this one: the log is learnt again without guards.
UNGUARDED_POLICY = replace(DEFAULT_POLICY, name="unguarded", guards=None)
# The default policies of earlier versions. Sessions that learnt under one go on under it until they
# are migrated.
UNASKED_POLICY = replace(
    DEFAULT_POLICY,
    name="unasked",
    specific=replace(SPECIFIC, held_to_base=False, questions_next_to=0),
    stored_as="default",
)
UNGUARDED_UNASKED_POLICY = replace(
    UNASKED_POLICY, name="unguarded_unasked", guards=None, stored_as="unguarded"
)
REPLAY_POLICY = LearningPolicy(
    name="replay",
    levels=(
        LevelConfig(period_tokens=512, rank=32, learning_rate=3e-3),
        LevelConfig(period_tokens=2048, rank=16, learning_rate=3e-3),
        LevelConfig(period_tokens=8192, rank=8, learning_rate=3e-3),
    ),
    guards=GuardConfig(),
    stored_as="default",
)
UNGUARDED_REPLAY_POLICY = replace(
    REPLAY_POLICY, name="unguarded_replay", guards=None, stored_as="unguarded"
)
SUMMED_GRADIENT_POLICY = LearningPolicy(
    name="summed_gradient",
    levels=(
        LevelConfig(period_tokens=512, rank=32, learning_rate=1e-4),
        LevelConfig(period_tokens=2048, rank=16, learning_rate=1e-4),
        LevelConfig(period_tokens=8192, rank=8, learning_rate=1e-4),
    ),
    recipe="summed_gradient",
)
# The fast memory alone: a forward pass for each token, and nothing that could harm the base.
FORWARD_POLICY = LearningPolicy(
    name="forward",
    levels=(LevelConfig(period_tokens=512, rank=1, learning_rate=0),),
    recipe="none",
    writes_forward=True,
)
POLICIES = {
    policy.name: policy
    for policy in (
        DEFAULT_POLICY,
        UNGUARDED_POLICY,
        UNASKED_POLICY,
        UNGUARDED_UNASKED_POLICY,
        REPLAY_POLICY,
        UNGUARDED_REPLAY_POLICY,
        SUMMED_GRADIENT_POLICY,
        FORWARD_POLICY,
    )
}


def stored_policy(
    policies: Mapping[str, LearningPolicy], name: str, digest: str
) -> LearningPolicy | None:
    """The policy that a stored state names: `name` with this digest, be it that the policy was
    renamed since, or that its ranks were not yet bounded by the model's size (rank_bound.py); None
    when it is not known any more."""
    renamed = (policy for policy in policies.values() if policy.stored_as == name)
    candidates = (*filter(None, [policies.get(name)]), *renamed)
    candidates = (*candidates, *map(_unbounded, candidates))
    return next((policy for policy in candidates if policy.digest() == digest), None)


def _unbounded(policy: LearningPolicy) -> LearningPolicy:
    """The policy with the ranks that it has before a model bounds them."""
    known = POLICIES.get(policy.name)
    return policy if known is None else replace(policy, levels=known.levels)
