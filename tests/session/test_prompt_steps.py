"""Texts of any length are encoded in bounded steps, between which others get their turn."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator

import pytest
from memories import fresh

from hope_runtime.engine.prompt import (
    STEP_TOKENS,
    Message,
    encode_spans,
    turn_record,
    turn_record_in_steps,
)
from hope_runtime.engine.request import Request
from hope_runtime.engine.scheduler import choose
from hope_runtime.engine.turn import GenerateTurn, place, score_tokens
from hope_runtime.errors import InvalidRequestError, WindowOverflowError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.spans import MAX_SPAN_CHARS
from hope_runtime.steps import at_once
from hope_runtime.tokenizer import Tokenizer, byte_tokenizer

SENTENCE = "The quick brown fox jumps over the lazy dog. "
FOUR_MEGABYTES = SENTENCE * (4_000_000 // len(SENTENCE))


class Counting(Tokenizer):
    """Counts the characters that were encoded."""

    characters = 0

    def encode(self, text: str) -> list[int]:
        self.characters += len(text)
        return super().encode(text)


def counting(model: BaseModel) -> Counting:
    made = Counting.from_json(json.loads(model.tokenizer.to_json()))
    assert isinstance(made, Counting)
    return made


@pytest.mark.parametrize("text", [FOUR_MEGABYTES, "x" * 4_000_000, "\n" * 100 + "日本語" * 400_000])
def test_no_step_encodes_more_than_a_little(base_model: BaseModel, text: str) -> None:
    tokenizer = counting(base_model)
    messages = [Message("user", text)]
    steps = turn_record_in_steps(tokenizer, fresh(), "c", messages, learn=True)
    for _ in range(20):
        before = tokenizer.characters
        next(steps)
        assert 0 < tokenizer.characters - before <= 64 * STEP_TOKENS
    steps.close()


@pytest.mark.parametrize("limit", [64, 1024, 8192])
def test_a_prompt_beyond_the_window_is_refused_before_it_is_encoded(
    base_model: BaseModel, limit: int
) -> None:
    tokenizer = counting(base_model)
    with pytest.raises(WindowOverflowError, match=f"window of {limit} tokens"):
        turn_record(
            tokenizer,
            fresh(),
            "c",
            [Message("user", FOUR_MEGABYTES)],
            learn=True,
            most_tokens=limit,
        )
    assert tokenizer.characters < 8 * (limit + STEP_TOKENS) + MAX_SPAN_CHARS
    tokenizer.characters = 0
    text = GenerateTurn("c", (Message("user", FOUR_MEGABYTES),), plain=True)
    with pytest.raises(WindowOverflowError, match=f"window of {limit} tokens"):
        place(tokenizer, fresh(), text, limit)
    assert tokenizer.characters < 8 * (limit + STEP_TOKENS) + MAX_SPAN_CHARS
    tokenizer.characters = 0
    for context, scored in ((FOUR_MEGABYTES, "x"), ("", FOUR_MEGABYTES), ("x", FOUR_MEGABYTES)):
        with pytest.raises(InvalidRequestError, match=f"window of {limit} tokens"):
            at_once(score_tokens(tokenizer, context, scored, limit))
    assert tokenizer.characters < 24 * (limit + STEP_TOKENS) + 3 * MAX_SPAN_CHARS


def test_steps_change_no_token(base_model: BaseModel) -> None:
    for tokenizer in (base_model.tokenizer, byte_tokenizer()):
        text = SENTENCE * 300
        record = turn_record(tokenizer, fresh(), "c", [Message("user", text)], learn=True)
        said = next(segment for segment in record.segments if segment.learnable)
        assert said.spans == encode_spans(tokenizer, text)
        assert tokenizer.decode(said.tokens) == text


class Long(Request[None]):
    """A request whose text takes three steps to encode."""

    def _encode(self) -> Iterator[None]:
        yield
        yield

    def _begin(self) -> None:
        self._finish(None)


def test_a_request_encodes_one_part_of_its_text_a_step() -> None:
    request = Long()
    assert choose(deque([request]), room=0) == []
    request.begin()
    for _ in range(2):
        assert request.encoding
        assert request.chunk is None
        assert choose(deque([request]), room=0) == [request]
        request.encode()
    assert request.finished
