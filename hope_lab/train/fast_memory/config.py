"""Settings of a run of `hope train fast-memory`, and the schedule that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_STEPS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTrainConfig:
    """One run, to the end of `steps` or `minutes`, whichever comes first; at least one is given.
    Both may grow when it is resumed, before the rate has begun to fall."""

    steps: int | None = DEFAULT_STEPS
    minutes: float | None = None
    seed: int = 0
    learning_rate: float = 2e-3
    # The rate is constant for this share of the run, then falls to the last share of itself.
    constant_share: float = 0.5
    last_rate: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    dropout: float = 0.1
    # About so many facts are written, and at most so many questions of each episode asked, in a
    # step.
    facts_a_step: int = 64
    questions: int = 24
    # The pool begins with so many rounds and grows to `most_rounds`, the newest ones.
    first_rounds: int = 3
    most_rounds: int = 10
    round_every: int = 60
    stories_a_round: int = 128
    save_every: int = 100
    test_every: int = 200
    test_stories: int = 48
    log_every: int = 10
    autocast: bool = False
    whole_vocabulary: bool = False
    # Digest of the fast memory that the run begins with; empty for one that is made from the seed.
    begin_digest: str = ""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a run needs a number of steps or of minutes")
        if self.steps is not None and self.steps < 1:
            raise ValueError("a run takes at least one step")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError("a run takes more than no time")
        if min(self.first_rounds, self.round_every, self.facts_a_step) < 1:
            raise ValueError("rounds and facts are at least 1")
        if self.most_rounds < self.first_rounds:
            raise ValueError("a pool holds at least the first rounds")
        if min(self.stories_a_round, self.save_every, self.test_every, self.log_every) < 1:
            raise ValueError("stories and intervals are at least 1")
        if not 0 <= self.constant_share < 1:
            raise ValueError("the rate is constant for a share from 0 to below 1")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is over before a step, after so many seconds: 1 at its end."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return max(by_steps, by_time)

    def rate(self, step: int, seconds: float) -> float:
        """The learning rate of step 0, 1, ..., after so many seconds."""
        left = (1 - self.progress(step, seconds)) / (1 - self.constant_share)
        share = max(self.last_rate, min(1.0, left))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * share

    def rounds(self, step: int) -> range:
        """The rounds of texts that step 0, 1, ... draws from."""
        end = self.first_rounds + step // self.round_every
        return range(max(0, end - self.most_rounds), end)
