"""The paper's rule over a level's factors: one step with the summed gradient of its stretch.

Nested Learning, Eq. 71: at a multiple of C, theta <- theta - sum over the chunk of eta * f(theta;
x_t), with f the gradient of next-token prediction. It is a sum, not a mean, so twice the text moves
the level twice as far. theta does not change inside its chunk, so the sum is the gradient of the
summed loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import Example, pack
from hope_runtime.learning.recipe import LevelResult, PhaseClock, Resources, Stretch, Work
from hope_runtime.learning.spans import SpanReader
from hope_runtime.session.memory import Span

# A stretch is read as running text in windows of this many tokens.
WINDOW_TOKENS = 256
# Windows whose gradients are held at once.
WINDOWS_AT_A_TIME = 4


class SummedGradientRecipe:
    """One step of Eq. 71 a stretch. Rehearses nothing."""

    def __init__(self, resources: Resources) -> None:
        self._reader = SpanReader(resources.model.tokenizer)

    def train(self, trainer: LevelTrainer, stretch: Stretch) -> Work[LevelResult]:
        """As `Recipe.train`."""
        clock, spans = PhaseClock(), tuple(stretch.spans)
        before, after = yield from summed_gradient(trainer, spans, stretch.learning_rate)
        clock.ends("steps")
        return LevelResult(spans, before, after, seconds=clock.seconds)

    def surprises(self, trainer: LevelTrainer, spans: Sequence[Span]) -> Work[list[float]]:
        """As `Recipe.surprises`."""
        return self._reader.surprises(trainer, spans)


def summed_gradient(
    trainer: LevelTrainer, spans: Sequence[Span], learning_rate: float
) -> Work[tuple[float, float]]:
    """One step; yields between windows. Returns mean nats per token before and after it."""
    windows = [pack([example], row_tokens=WINDOW_TOKENS) for example in _running_text(spans)]
    count = sum(len(window.targets_N) for window in windows)
    if not count:
        return 0.0, 0.0
    nats = [0.0] * len(windows)
    total: list[Tensor] = []
    for start in range(0, len(windows), WINDOWS_AT_A_TIME):
        chosen = windows[start : start + WINDOWS_AT_A_TIME]

        def loss(index: int, logits_NV: Tensor, start: int = start) -> Tensor:
            summed = trainer.nats(logits_NV, windows[start + index]).sum()
            nats[start + index] = float(summed.detach())
            return summed

        part = trainer.gradient(loss, chosen)
        total = [mine + more for mine, more in zip(total, part, strict=True)] if total else part
        yield None
    with torch.no_grad():
        for parameter, gradient in zip(trainer.parameters, total, strict=True):
            parameter.sub_(gradient, alpha=learning_rate)
    after = yield from trainer.surprises(windows)
    return sum(nats) / count, sum(float(found_N.sum()) for found_N in after) / count


def _running_text(spans: Sequence[Span]) -> list[Example]:
    """The stretch in order, every token a target; windows overlap by the token that predicts."""
    ids = tuple(token for span in spans for token in span.ids)
    starts = range(0, max(len(ids) - 1, 0), WINDOW_TOKENS - 1)
    parts = [ids[start : start + WINDOW_TOKENS] for start in starts]
    return [Example(part, (True,) * len(part)) for part in parts]
