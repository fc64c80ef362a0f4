"""Promises of every engine about scores, and about texts that it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from engines import WAIT, Make, answer, ask, fresh, taught

from hope_runtime.engine.base import SessionEngine
from hope_runtime.errors import InvalidRequestError, ModelError, WindowOverflowError
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker


@torch.no_grad()
def test_a_score_is_that_of_a_plain_forward(engine: SessionEngine, small_model: BaseModel) -> None:
    context, text = "The river was wide.", " The boat was small, and old."
    encode = small_model.tokenizer.encode
    before, wanted = encode(context), encode(text)
    for memory in (fresh(small_model), None, taught(small_model, 2)):
        adapter = memory.adapter.to(torch.float32) if memory and memory.adapter else None
        ids = torch.tensor([before + wanted])
        scores = logits(small_model, forward(small_model, ids, adapter=adapter))[0]
        expected = torch.nn.functional.cross_entropy(
            scores[len(before) - 1 : -1], torch.tensor(wanted), reduction="sum"
        )
        outcome = engine.score(memory, context, text).future.result(WAIT)
        assert outcome.scored == len(wanted)
        assert outcome.nats == pytest.approx(float(expected), rel=1e-5)
    alone = engine.score(None, "", text).future.result(WAIT)
    assert alone.scored == len(wanted)  # the first is predicted from the start of a text


def test_texts_of_several_sessions_are_scored_at_once(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memories = [taught(small_model, 20 + seed) if seed else None for seed in range(4)]
    text = "The boat was small, and old. It leaked."
    alone = [engine.score(memory, "", text).future.result(WAIT).nats for memory in memories]
    tickets = [engine.score(memory, "", text) for memory in memories]
    together = [ticket.future.result(WAIT).nats for ticket in tickets]
    assert together == pytest.approx(alone, rel=1e-5)
    assert len({round(nats, 2) for nats in alone}) == 4


def test_reading_scores_what_is_new_and_changes_the_window(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memory = taught(small_model, 3)
    spans = tuple(tuple(range(300 + 10 * n, 310 + 10 * n)) for n in range(8))
    found = []
    for first, last in pairwise((0, 5, 8)):
        segment = Segment(Speaker.DOCUMENT, spans[first:last], True)
        record = Record(RecordKind.DOCUMENT, "reading", (segment,), document="x")
        outcome = engine.read("reading", memory, record).future.result(WAIT)
        assert outcome.memory is not None
        memory = outcome.memory
        found.append(outcome)
    assert [outcome.scored for outcome in found] == [49, 30]
    assert memory.conversations["reading"].window.tokens == tuple(range(300, 380))
    adapter = taught(small_model, 3).adapter
    assert adapter is not None
    ids = torch.tensor([list(range(300, 380))])
    with torch.no_grad():
        scores = logits(small_model, forward(small_model, ids, adapter=adapter.to(torch.float32)))[
            0
        ]
    nats = torch.nn.functional.cross_entropy(scores[:-1], ids[0, 1:], reduction="none")
    assert found[0].nats == pytest.approx(float(nats[:49].sum()), rel=1e-5)
    assert found[1].nats == pytest.approx(float(nats[49:].sum()), rel=1e-5)


@pytest.mark.parametrize("text", ["", "word " * 300])
def test_a_text_that_cannot_be_scored_is_refused(engine: SessionEngine, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.score(None, "", text).future.result(WAIT)
    assert caught.value.field == "text"


def test_a_turn_that_cannot_be_read_whole_is_refused(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memory, long = fresh(small_model), ask("word " * 400)
    with pytest.raises(WindowOverflowError, match="room for"):
        engine.check(memory, long)
    with pytest.raises(WindowOverflowError, match="room for") as caught:
        answer(engine, memory, long)
    assert caught.value.field == "messages"


def test_a_window_longer_than_the_model_knows_is_refused(
    make_engine: Make, small_model: BaseModel
) -> None:
    model = replace(small_model, config=replace(small_model.config, max_positions=128))
    with pytest.raises(ModelError, match="128 positions"):
        make_engine(model)
