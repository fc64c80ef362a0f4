"""Scores against a computation by hand; passages are whole and in order."""

from __future__ import annotations

import math

import pytest

from hope_lab.evaluate.bm25 import PASSAGE_WORDS, BM25Index, passages, words
from hope_runtime.session.spans import split_spans


def index_of(*texts: str) -> BM25Index:
    index = BM25Index()
    for text in texts:
        index.add(text)
    return index


def test_scores_are_those_computed_by_hand() -> None:
    index = index_of("a b", "A a, c!", "d")
    # Two of three passages have "a": ln(1 + 1.5 / 2.5). Their lengths are 2 and 3, the mean is 2.
    rarity = math.log(1.6)
    first = rarity * 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 2))
    second = rarity * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
    assert index.scores("a") == pytest.approx({0: first, 1: second})
    assert first == pytest.approx(0.470004, abs=1e-6)
    assert second == pytest.approx(0.566580, abs=1e-6)
    assert index.scores("a A") == pytest.approx({0: 2 * first, 1: 2 * second})
    assert index.scores("nothing of it") == {}
    rare = math.log(1 + 2.5 / 1.5) * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / 2))
    assert index.scores("d")[2] == pytest.approx(rare)


def test_the_best_come_in_the_order_in_which_they_were_read() -> None:
    index = index_of("the cat sat", "a dog", "cat cat cat", "the cat ran off with a fish")
    assert index.top("cat", 2) == ["the cat sat", "cat cat cat"]
    assert index.top("cat", 9) == ["the cat sat", "cat cat cat", "the cat ran off with a fish"]
    assert index.top("zebra", 3) == []
    assert BM25Index().top("cat", 3) == []


def test_of_equal_passages_the_first_ones_win() -> None:
    assert index_of("x 1", "x 2", "x 3").top("x", 2) == ["x 1", "x 2"]


def test_passages_are_whole_sentences_and_lose_nothing() -> None:
    text = "\n".join(f"Sentence number {n} is told here. It goes on." for n in range(60))
    found = list(passages(split_spans(text)))
    assert words(" ".join(found)) == words(text)
    assert all(passage.endswith(".") for passage in found)
    lengths = [len(passage.split()) for passage in found]
    assert all(PASSAGE_WORDS <= length < PASSAGE_WORDS + 10 for length in lengths[:-1])
    assert list(passages([])) == []
