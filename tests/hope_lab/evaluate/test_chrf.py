"""ChrF against values computed by hand, and against those of sacrebleu."""

from __future__ import annotations

import pytest

from hope_lab.evaluate.chrf import chrf, count_ngrams


def f(precision: float, recall: float) -> float:
    return 100 * 5 * precision * recall / (4 * precision + recall)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        # One letter: 2 of 2 and 2 of 3; two: 1 of 1 and 1 of 2; the hypothesis has no three.
        ("ab", "abc", f(1, (2 / 3 + 1 / 2) / 2)),
        # Turned round, precision and recall change places.
        ("abc", "ab", f((2 / 3 + 1 / 2) / 2, 1)),
        # Letters 3 of 4 both ways; pairs 1 of 3 (ab, not ba nor ac); nothing longer.
        ("abac", "abca", f((1 + 1 / 3) / 4, (1 + 1 / 3) / 4)),
        # White space does not count, case does.
        ("a b\nc d e f", "abcdef", 100.0),
        ("ABCDEF", "abcdef", 0.0),
        ("", "abc", 0.0),
        ("abc", "", 0.0),
    ],
)
def test_one_sentence(hypothesis: str, reference: str, expected: float) -> None:
    assert chrf([count_ngrams(hypothesis, reference)]) == pytest.approx(expected)


def test_counts_are_summed_over_sentences_before_they_are_divided() -> None:
    # Letters: 1 of 1 + 0 of 3 against 1 and 3; pairs and triples are the second's alone.
    both = [count_ngrams("a", "a"), count_ngrams("xyz", "uvw")]
    assert chrf(both) == pytest.approx(f(1 / 4 / 3, 1 / 4 / 3))
    assert chrf([]) == 0


def test_what_has_no_reference_does_not_count() -> None:
    # The second reference has no pairs, so the hypothesis' one pair there is not held against it.
    both = [count_ngrams("ab", "ab"), count_ngrams("cd", "c")]
    assert chrf(both) == pytest.approx(f((3 / 4 + 1) / 2, 1))


@pytest.mark.parametrize(
    ("hypotheses", "references", "expected"),
    [
        # CHRF().corpus_score of sacrebleu 2.6.0.
        (["The old dog followed a boat."], ["the old dogs followed the boat"], 55.94286690255937),
        (
            ["The old dog followed a boat.", "the farmers will wash it"],
            ["the old dogs followed the boat", "the farmer will wash the windows"],
            54.48696823352598,
        ),
        (["d dcdd", "dadb bdcad a dddcb cdd"], ["", "bada dcad ac"], 38.93689066128883),
        (
            ["", "bdbc", "da acaaa cdcd cabca ba"],
            ["badac abca", "d ccd badc", "acaa"],
            18.86685553811517,
        ),
    ],
)
def test_the_figures_of_the_reference_implementation(
    hypotheses: list[str], references: list[str], expected: float
) -> None:
    found = chrf(map(count_ngrams, hypotheses, references))
    assert found == pytest.approx(expected, rel=1e-12)
