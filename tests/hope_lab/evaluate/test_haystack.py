"""What is hidden is there once, where it was asked to be, and the text is as long as asked."""

from __future__ import annotations

import inspect
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_lab.evaluate.data import filler, haystack
from hope_lab.evaluate.data.filler import FillerError
from hope_lab.evaluate.data.haystack import Haystack, Hidden, Prose
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session import spans as text
from hope_runtime.session.spans import split_spans
from hope_runtime.tokenizer import Tokenizer

TEXT = "\n".join(f"Line {n} says so. It goes on\nand on for a little while." for n in range(120))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: BaseModel) -> Tokenizer:
    return tiny_model.tokenizer


def built(tokenizer: Tokenizer, tokens: int, *hidden: Hidden, seed: int = 0) -> Haystack:
    return Haystack(Prose(TEXT), tokenizer, tokens, hidden, seed)


def test_a_haystack_is_a_function_of_its_seed(tokenizer: Tokenizer) -> None:
    stack = built(tokenizer, 900, Hidden(0.5, "Found."))
    assert list(stack) == list(stack)
    again = built(tokenizer, 900, Hidden(0.5, "Found."))
    assert list(again) == list(stack)
    assert again.key == stack.key
    other = built(tokenizer, 900, Hidden(0.5, "Found."), seed=1)
    assert list(other) != list(stack)
    assert other.key != stack.key


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.integers(600, 9000),
    st.integers(0, 10),
)
@settings(max_examples=25)
def test_each_hidden_sentence_is_there_once_at_its_depth_and_a_span_of_its_own(
    tokenizer: Tokenizer, depths: list[float], tokens: int, seed: int
) -> None:
    hidden = [Hidden(depth, f"Secret {n} is kept.") for n, depth in enumerate(depths)]
    text = "".join(built(tokenizer, tokens, *hidden, seed=seed))
    spans = [span.strip() for span in split_spans(text)]
    whole = len(tokenizer.encode(text))
    assert tokens - 120 <= whole <= tokens
    for item in hidden:
        assert text.count(item.sentence) == 1
        assert item.sentence in spans
        # Sentences go between sentences, and are in nobody's way: a little before or after.
        at = len(tokenizer.encode(text[: text.index(item.sentence)]))
        assert abs(at - item.depth * whole) < 120 + 25 * len(hidden)
    in_order = sorted(hidden, key=lambda item: item.depth)
    places = [text.index(item.sentence) for item in in_order]
    assert places == sorted(places)


def test_the_prose_goes_on_from_its_start_when_it_ends(tokenizer: Tokenizer) -> None:
    size = len(tokenizer.encode(TEXT))
    text = "".join(built(tokenizer, 2 * size))
    assert text.count("Line 7 says so.") == 2
    assert "while.Line" not in text
    assert "while.\nLine 0 says" in text


def test_a_long_haystack_is_never_held_as_a_whole(tokenizer: Tokenizer) -> None:
    stack = built(tokenizer, 600_000, Hidden(0.5, "Found."))
    next(iter(stack))  # what is computed once
    # Only what the code that makes the text holds: other tests' servers may still be closing.
    makers = [tracemalloc.Filter(True, inspect.getfile(m)) for m in (haystack, filler, text)]
    length, held = 0, []
    tracemalloc.start()
    for n, piece in enumerate(stack):
        length += len(piece)
        if n % 500 == 0:
            traces = tracemalloc.take_snapshot().filter_traces(makers)
            held.append(sum(trace.size for trace in traces.traces))
    tracemalloc.stop()
    assert length > 560_000
    assert len(held) > 5
    assert 0 < max(held) < length / 4


def test_what_cannot_be_hidden_in_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="too few"):
        built(tokenizer, 10, Hidden(0.5, "This is much longer than that."))
    with pytest.raises(FillerError, match="empty"):
        Prose(" \n")
    with pytest.raises(ValueError, match="depth must be between 0 and 1"):
        Hidden(1.5, "x")
