"""The bounded sample of past spans that a session rehearses. Knows no training."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hope_runtime.session.memory import Span
from hope_runtime.session.policy import LearningPolicy


def keep_sample(spans: Sequence[Span], policy: LearningPolicy) -> tuple[Span, ...]:
    """A bounded sample of what was learnt, in order: spans with cues, surprising ones likelier.

    Weighted reservoir sampling (Efraimidis and Spirakis, 2006) with keys drawn from the spans'
    places in the stream, so that the sample is a function of the log and not of when it was cut.
    """
    candidates = [span for span in spans if span.cues]
    ranked = sorted(candidates, key=lambda span: _reservoir_key(span, policy.seed), reverse=True)
    kept, tokens = [], 0
    for span in ranked:
        tokens += len(span.ids)
        if tokens > policy.buffer_tokens:
            break
        kept.append(span)
    return tuple(sorted(kept, key=lambda span: span.start))


def _reservoir_key(span: Span, seed: int) -> float:
    uniform = random.Random(f"{seed}:{span.start}").random()
    return math.log(max(uniform, 1e-12)) / max(span.surprise_nats or 0.0, 1e-3)
