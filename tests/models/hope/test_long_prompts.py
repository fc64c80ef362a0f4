"""A prompt of megabytes is encoded in steps; other sessions are served between them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hope_sessions import byte_model, fresh

from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.errors import CancelledTurnError
from hope_runtime.tokenizer import Tokenizer

LONG = "The quick brown fox jumps over the lazy dog. " * 80_000


class Counting(Tokenizer):
    """Counts the characters that were encoded."""

    characters = 0

    def encode(self, text: str) -> list[int]:
        self.characters += len(text)
        return super().encode(text)


def test_a_short_turn_does_not_wait_for_a_long_text() -> None:
    model = byte_model()
    tokenizer = Counting.from_json(json.loads(model.tokenizer.to_json()))
    assert isinstance(tokenizer, Counting)
    with HopeEngine(replace(model, tokenizer=tokenizer)) as engine:
        turn = GenerateTurn("c", (Message("user", LONG),))
        long = engine.generate("long", fresh(engine), turn, on_text=lambda piece: None)
        short = engine.score(fresh(engine), "", "Hello.")
        assert short.future.result(timeout=60).scored
        assert not long.future.done()
        assert tokenizer.characters < len(LONG) / 2
        long.cancel()
        with pytest.raises(CancelledTurnError):
            long.future.result(timeout=60)
        assert tokenizer.characters < len(LONG)
