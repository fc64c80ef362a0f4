"""Reading windows: what the row already holds changes how long it takes and not one bit."""

from __future__ import annotations

import pydoc_data.topics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import POLICY, document, spans_of

from hope_runtime.engine.kv_slots import Slot
from hope_runtime.engine.runner import Runner
from hope_runtime.engine.turn import last_indices
from hope_runtime.engine.window_reader import CHUNK_TOKENS, Reader, Reading
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.window import Window

WINDOW = 512


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(20, 49_000, (count,), generator=generator).tolist())


@pytest.fixture(scope="module")
def reader(chat_model: BaseModel) -> Reader:
    return Reader(chat_model, WINDOW)


@pytest.fixture(scope="module")
def runner(chat_model: BaseModel) -> Runner:
    return Runner(chat_model)


@pytest.fixture(scope="module")
def taught(chat_model: BaseModel) -> SessionMemory:
    """A memory that has learnt something."""
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    memory = observe(memory, document(spans_of(*[8] * 4, start=300)), window_tokens=WINDOW)
    return Learner(chat_model).consolidate_now(memory, Boundary(0, 32))


STEPS = st.lists(
    st.tuples(st.sampled_from(["read", "extend"]), st.integers(1, 150)), min_size=1, max_size=5
)


@settings(max_examples=25)
@given(steps=STEPS, last=st.integers(1, 100), seed=st.integers(0, 3), hop=st.booleans())
def test_a_reading_does_not_depend_on_what_the_row_holds(
    reader: Reader,
    runner: Runner,
    taught: SessionMemory,
    steps: list[tuple[str, int]],
    last: int,
    seed: int,
    hop: bool,
) -> None:
    row = reader.new_slot()
    reader.bind(row, taught)
    stream, at = ids(1000, seed), 0
    for how, count in steps:
        count = min(count, WINDOW - at - last)
        if count < 1:  # the window is full
            break
        if how == "read" or not at:
            at += count
            runner.finish(reader.read(row, stream[:at]))
        else:
            for token in stream[at : at + count]:
                runner.finish(reader.extend(row, token))
            at += count
    tokens = stream[:at][:4] + stream[300 : 300 + last] if hop else stream[: at + last]
    kept = runner.finish(reader.read(row, tokens))
    fresh = reader.new_slot()
    reader.bind(fresh, taught)
    assert torch.equal(kept.logits, runner.finish(reader.read(fresh, tokens)).logits)
    assert row.tokens == fresh.tokens == tokens


def test_a_row_that_served_another_memory_is_read_again(
    reader: Reader, runner: Runner, chat_model: BaseModel, taught: SessionMemory
) -> None:
    """Invariant 21. Fails when keys and values of one memory are served under another."""
    tokens = ids(200)
    plain, learnt = reader.new_slot(), reader.new_slot()
    reader.bind(plain, None)
    base = runner.finish(reader.read(plain, tokens)).logits
    reader.bind(learnt, taught)
    adapted = runner.finish(reader.read(learnt, tokens)).logits
    assert not torch.equal(base, adapted)
    for row, memory, expected in ((plain, taught, adapted), (learnt, None, base)):
        reader.bind(row, memory)
        assert row.tokens == ()
        assert torch.equal(runner.finish(reader.read(row, tokens)).logits, expected)


@torch.no_grad()
def test_a_session_that_learnt_nothing_is_the_base_model(
    reader: Reader, runner: Runner, chat_model: BaseModel
) -> None:
    row = reader.new_slot()
    reader.bind(row, SessionMemory.fresh(chat_model.fingerprint, POLICY))
    tokens = ids(100)
    expected = logits(chat_model, forward(chat_model, torch.tensor([tokens])))[0, -1]
    torch.testing.assert_close(runner.finish(reader.read(row, tokens)).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 1, 60, 128, 129, 300])
def test_scores_are_those_of_a_plain_forward(
    reader: Reader, runner: Runner, chat_model: BaseModel, first: int
) -> None:
    tokens = ids(301)
    scores = logits(chat_model, forward(chat_model, torch.tensor([tokens])))[0]
    losses = torch.nn.functional.cross_entropy(
        scores[:-1], torch.tensor(tokens[1:]), reduction="none"
    )
    row = reader.new_slot()
    reader.bind(row, None)
    for _ in range(2):  # the second time the row holds it all
        reading = runner.finish(reader.read(row, tokens, score=range(first, 301)))
        assert reading.scored == 301 - max(first, 1)
        assert reading.nats == pytest.approx(float(losses[max(first, 1) - 1 :].sum()), rel=1e-5)
    in_slices = reader.read(row, tokens, score=range(first, 301))
    while in_slices.chunk is not None:
        [output] = runner.run([in_slices.chunk])
        for at in range(0, len(in_slices.chunk.ids) - 7, 7):
            in_slices.score(output.hidden_TD[at : at + 7])
        in_slices.accept(output)
    assert in_slices.result.scored == reading.scored
    assert in_slices.result.nats == pytest.approx(reading.nats, rel=1e-5)


@pytest.mark.parametrize("before", [CHUNK_TOKENS - 1, CHUNK_TOKENS, CHUNK_TOKENS + 1])
def test_the_surprise_of_a_document_does_not_depend_on_residency(
    reader: Reader, runner: Runner, chat_model: BaseModel, before: int
) -> None:
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    first, second = document([ids(before)]), document([ids(64, seed=1)])
    row = reader.new_slot()

    def read(slot: Slot, known: SessionMemory, record: Record) -> Reading:
        reader.bind(slot, known)
        after = observe(known, record, window_tokens=WINDOW)
        window = after.conversations[record.conversation].window
        score = last_indices(window, len(record.tokens))
        return runner.finish(reader.read(slot, window.tokens, score=score))

    read(row, memory, first)
    memory = observe(memory, first, window_tokens=WINDOW)

    def surprise(of: Slot) -> tuple[int, float]:
        reading = read(of, memory, second)
        return reading.scored, reading.nats

    kept, new = surprise(row), surprise(reader.new_slot())
    assert kept == new
    assert kept[0] == 64


@torch.no_grad()
def test_far_into_a_real_text_the_window_predicts_as_fresh_attention_does(
    base_model: BaseModel,
) -> None:
    """At position 20,000: the hopped window with its pinned start, against the same model reading
    the last tokens afresh."""
    text = "\n".join(pydoc_data.topics.topics.values())[:120_000]
    stream = tuple(base_model.tokenizer.encode(text))[:20_600]
    assert len(stream) == 20_600
    window = Window(1024).append(stream)
    assert window.position > 20_000
    count = 256
    reader = Reader(base_model, 1024)
    runner = Runner(base_model)
    row = reader.new_slot()
    reader.bind(row, None)
    size = len(window.tokens)
    hopped = runner.finish(reader.read(row, window.tokens, score=range(size - count, size)))
    recent = torch.tensor([stream[-size:]])
    states = forward(base_model, recent)[:, -count - 1 : -1]
    fresh = torch.nn.functional.cross_entropy(logits(base_model, states)[0], recent[0, -count:])
    assert hopped.nats / count == pytest.approx(float(fresh), rel=0.03)
