"""Scores of the torch engine: those of texts and of what is read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engines import WAIT
from memories import document

from hope_runtime.engine.runner import Runner
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.window_reader import Reader
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory


@torch.no_grad()
def test_a_score_is_that_of_a_plain_forward(
    engine: TorchEngine, memory: SessionMemory, chat_model: BaseModel
) -> None:
    context, text = "The river was wide.", " The boat was small, and old."
    encode = chat_model.tokenizer.encode
    before, wanted = encode(context), encode(text)
    scores = logits(chat_model, forward(chat_model, torch.tensor([before + wanted])))[0]
    expected = torch.nn.functional.cross_entropy(
        scores[len(before) - 1 : -1], torch.tensor(wanted), reduction="sum"
    )
    for asked in (memory, None):
        outcome = engine.score(asked, context, text).future.result(WAIT)
        assert outcome.scored == len(wanted)
        assert outcome.nats == pytest.approx(float(expected), rel=1e-5)
    alone = engine.score(None, "", text).future.result(WAIT)
    assert alone.scored == len(wanted)  # the first is predicted from the start of a text


@pytest.mark.parametrize("text", ["", "word " * 300])
def test_a_text_that_cannot_be_scored_is_refused(engine: TorchEngine, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.score(None, "", text).future.result(WAIT)
    assert caught.value.field == "text"


def test_reading_scores_what_is_new(chat_model: BaseModel, memory: SessionMemory) -> None:
    reader = Reader(chat_model, 256)
    with TorchEngine(chat_model, window_tokens=256, threads=1) as engine:
        record = replace(document([tuple(range(300, 350))]), document="x")
        outcome = engine.read("row", memory, record).future.result(WAIT)
    row = reader.new_slot()
    reader.bind(row, memory)
    reading = Runner(chat_model).finish(reader.read(row, record.tokens, score=range(50)))
    assert (outcome.nats, outcome.scored) == (reading.nats, reading.scored)
    assert outcome.scored == 49
