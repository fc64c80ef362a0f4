"""ChrF: how much two texts share of their runs of letters (Popovic, 2015).

Precision and recall of character n-grams, n from 1 to 6, white space left out, averaged over n and
joined as an F-score in which recall counts `BETA` squared times as much. Counts are summed over
all sentences before anything is divided, and an n for which one side has no n-gram at all is left
out. A sentence whose reference is too short for an n counts none of that n against the hypothesis.
That is what sacrebleu calls chrF2, and the figures are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

ORDER = 6
BETA = 2.0


# Of one sentence and each n: n-grams in common, of the hypothesis, of the reference.
Counts = tuple[tuple[int, int, int], ...]


def chrf(sentences: Iterable[Counts]) -> float:
    """ChrF2 of all sentences together, 0 to 100; 0 for no sentences."""
    sums = [[0, 0, 0] for _ in range(ORDER)]
    for counts in sentences:
        for total, own in zip(sums, counts, strict=True):
            for index, number in enumerate(own):
                total[index] += number
    whole = [
        (matched / ours, matched / theirs) for matched, ours, theirs in sums if ours and theirs
    ]
    if not whole:
        return 0.0
    precision = sum(p for p, _ in whole) / len(whole)
    recall = sum(r for _, r in whole) / len(whole)
    if not precision + recall:
        return 0.0
    weight = BETA**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall)


def count_ngrams(hypothesis: str, reference: str) -> Counts:
    """Counts that one sentence adds to the score of a set."""
    pairs = [
        (_ngrams(_letters(hypothesis), n), _ngrams(_letters(reference), n))
        for n in range(1, ORDER + 1)
    ]
    return tuple(
        ((ours & theirs).total(), ours.total() if theirs else 0, theirs.total())
        for ours, theirs in pairs
    )


def _letters(text: str) -> str:
    return "".join(text.split())


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[at : at + n] for at in range(len(text) - n + 1))
