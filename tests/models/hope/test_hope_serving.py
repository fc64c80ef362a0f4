"""Native models behind the engine's interface: memory that is written while tokens are read."""

from __future__ import annotations

import pytest
import torch
from hope_sessions import (
    WAIT,
    assert_close,
    byte_model,
    caught_up,
    cut,
    fresh,
    part,
    read,
    say,
    stored,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.errors import (
    CancelledTurnError,
    DivergedStateError,
    InvalidRequestError,
    UnsupportedModelError,
)
from hope_runtime.models.hope import state as states
from hope_runtime.models.hope.config import PRESETS
from hope_runtime.models.hope.session import restore
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.policy import LearningPolicy

SPANS = ("My dog Rolf is nine.", " He likes rain,", " and cheese.", " So do I!", " Good dog.")


@pytest.mark.parametrize("name", PRESETS)
def test_a_session_goes_on_from_what_was_stored(engines: dict[str, HopeEngine], name: str) -> None:
    """Not a bit differs: what is stored is all that there is."""
    engine = engines[name]
    here = there = fresh(engine)
    for text, conversation in (("Hello, you.", "a"), ("Who?", "b"), ("And then?", "a")):
        here, there = (
            caught_up(engine, say(engine, memory, text, conversation).memory)
            for memory in (here, stored(engine, there))
        )
        assert here.hash() == there.hash()
        assert here.fast is not None
        assert there.fast is not None
        for tensor_name, tensor in here.fast.tensors.items():
            assert torch.equal(tensor, there.fast.tensors[tensor_name]), tensor_name
    assert say(engine, here, "?", max_tokens=20).text == say(engine, there, "?", max_tokens=20).text


@pytest.mark.parametrize("name", PRESETS)
@given(
    places=st.lists(st.integers(1, 40), max_size=4),
    more=st.lists(st.integers(1, 40), max_size=4),
    keep=st.booleans(),
)
@settings(max_examples=8)
def test_a_document_teaches_the_same_in_any_pieces(
    engines: dict[str, HopeEngine], name: str, places: list[int], more: list[int], keep: bool
) -> None:
    engine = engines[name]
    spans = SPANS * 2
    memories = []
    for where in (places, more):
        memory = fresh(engine)
        for record in cut(spans, where):
            memory = read(engine, [record], stored(engine, memory) if keep else memory)
        memories.append(memory)
    assert_close(*memories)


def test_what_was_served_is_what_its_log_folds_to(engine: HopeEngine) -> None:
    """Decoding token by token, in two conversations, and reading the log again at once."""
    log, memory = [], fresh(engine)
    for text, conversation, learn in (
        ("My dog Rolf likes cheese.", "a", True),
        ("What is the time?", "b", True),
        ("It is late, is it not?", "b", False),
        ("And what about Rolf?", "a", True),
    ):
        outcome = say(engine, memory, text, conversation, learn=learn, max_tokens=17)
        log.append(outcome.record)
        memory = caught_up(engine, outcome.memory)
    for record in (
        part(*SPANS, conversation="b"),
        Record(RecordKind.END_CONVERSATION, "b"),
        Record(RecordKind.RESET, levels=(0,)),
        Record(RecordKind.CONSOLIDATE),
    ):
        log.append(record)
        memory = read(engine, [record], memory)
    again = read(engine, log)
    assert_close(memory, again)
    assert memory.levels[1].updates
    assert list(memory.conversations) == ["a"]


def test_what_is_forgotten_was_never_read(engine: HopeEngine) -> None:
    before, after = part(*SPANS[:2]), part(*SPANS[2:], document="other", ended=True)
    secret = part("The password is sesame. Do not tell.", document="secret", ended=True)
    end = Record(RecordKind.END_CONVERSATION, "a")
    without = read(engine, [before, after, end])
    assert_close(without, read(engine, [before, after, end]))
    assert read(engine, [before, secret, after, end]).levels[0].digest() != (
        without.levels[0].digest()
    )


def test_a_new_conversation_begins_afresh_with_the_same_memories(engine: HopeEngine) -> None:
    taught = say(engine, fresh(engine), "My dog Rolf likes cheese and rain.").memory
    other = say(engine, taught, "Hello?", "b").memory
    assert taught.fast is not None
    assert other.fast is not None
    assert int(taught.fast.tensors["context.position_B"]) > 30
    # Six tokens of the message and six of the reply.
    assert int(other.fast.tensors["context.position_B"]) == 12
    assert int(other.fast.tensors["context.written_B"]) == 34 + 6
    # The first conversation goes on where it was.
    back = say(engine, other, "Yes?", "a").memory
    assert back.fast is not None
    position = int(taught.fast.tensors["context.position_B"])
    assert int(back.fast.tensors["context.position_B"]) == position + len("\nYes?") + 6
    # One that has ended begins again.
    ended = read(engine, [Record(RecordKind.END_CONVERSATION, "a")], back)
    again = say(engine, ended, "Yes?", "a").memory
    assert again.fast is not None
    assert int(again.fast.tensors["context.position_B"]) == len("Yes?") + 6


def test_the_memory_reaches_other_conversations(engine: HopeEngine) -> None:
    """What was read in one conversation makes the same text less surprising in another."""
    text = "Rolf likes cheese. " * 8
    taught = say(engine, fresh(engine), text).memory
    nats = [engine.score(memory, "", text).future.result(WAIT).nats for memory in (None, taught)]
    assert nats[1] < 0.9 * nats[0]
    assert nats[0] == engine.score(fresh(engine), "", text).future.result(WAIT).nats


@pytest.mark.parametrize("name", PRESETS)
def test_without_learning_only_the_context_goes_on(
    engines: dict[str, HopeEngine], name: str
) -> None:
    engine = engines[name]
    memory = say(engine, fresh(engine), "My dog Rolf likes cheese.").memory
    quiet = say(engine, memory, "Forget this at once, please.", learn=False).memory
    assert quiet.levels_digest() == memory.levels_digest()
    assert quiet.observed_tokens == memory.observed_tokens
    assert not quiet.learnt_since(memory)
    assert memory.fast is not None
    assert quiet.fast is not None
    for at, tensor in memory.fast.tensors.items():
        if at.startswith("context.") and (".banks." in at or "written" in at):
            torch.testing.assert_close(quiet.fast.tensors[at], tensor, rtol=1e-4, atol=1e-5)
    position = "context.position_B"
    assert int(quiet.fast.tensors[position]) > int(memory.fast.tensors[position])


def test_a_flush_teaches_what_waits_and_nothing_twice(engine: HopeEngine) -> None:
    read_so_far = engine.observe(fresh(engine), part("Twelve bytes")).future.result(WAIT)
    assert [level.learnt_through for level in read_so_far.levels] == [8, 0]
    assert read_so_far.pending_tokens == 4
    asked = engine.observe(read_so_far, Record(RecordKind.CONSOLIDATE)).future.result(WAIT)
    boundary = due(asked)
    assert boundary is not None
    # A crash between the two commits: whoever loads it does the same.
    results = [
        engine.consolidate(memory, boundary).future.result(WAIT)
        for memory in (asked, stored(engine, asked))
    ]
    (flushed, report), (again, _) = results
    assert_close(flushed, again)
    assert [level.learnt_through for level in flushed.levels] == [12, 12]
    assert [level.updates for level in flushed.levels] == [2, 1]
    assert flushed.pending_tokens == 0
    assert due(flushed) is None
    assert (report.tokens, report.spans) == (4, 1)
    assert report.surprise_after_nats < report.surprise_before_nats
    assert read(engine, [Record(RecordKind.CONSOLIDATE)], flushed).levels == flushed.levels


def test_a_flush_that_would_ruin_a_level_lets_go_of_what_was_gathered(
    engine: HopeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = engine.observe(fresh(engine), part("seven X")).future.result(WAIT)
    asked = engine.observe(memory, Record(RecordKind.CONSOLIDATE)).future.result(WAIT)
    # Nothing is beyond the bound yet; what a level would be after one step is.
    monkeypatch.setattr(states, "STATE_LIMIT", 7.5)
    states.check_bounds(restore(engine.model, asked))
    after = caught_up(engine, asked)
    assert all(level.weights is None for level in after.levels)
    assert after.pending_tokens == 0
    assert due(after) is None
    assert_close(after, caught_up(engine, stored(engine, asked)))
    # A turn that would do so is refused, and the memory that was given is as it was.
    with pytest.raises(DivergedStateError):
        say(engine, memory, "More text than a period has.")
    monkeypatch.undo()
    assert_close(caught_up(engine, asked), read(engine, [Record(RecordKind.CONSOLIDATE)], memory))


def test_a_cancelled_turn_leaves_the_engine_free(engine: HopeEngine) -> None:
    ticket = engine.read("row", fresh(engine), part("x" * 5000))
    ticket.cancel()
    with pytest.raises(CancelledTurnError):
        ticket.future.result(WAIT)
    assert engine.load().running == 0


def test_the_change_of_levels_is_measured_against_the_model(engine: HopeEngine) -> None:
    memory = read(engine, [part(*SPANS)])
    zero = engine.change(None, fresh(engine))
    assert zero == [0.0, 0.0]
    norms = engine.change(None, memory)
    assert all(norm > 0 for norm in norms)
    assert engine.change(memory, memory) == [0.0, 0.0]
    assert engine.change(memory, fresh(engine)) == pytest.approx(norms)
    reset = read(engine, [Record(RecordKind.RESET, levels=(1,))], memory)
    assert engine.change(None, reset) == pytest.approx([norms[0], 0.0])


def test_what_makes_no_sense_is_refused(engine: HopeEngine) -> None:
    with pytest.raises(InvalidRequestError):
        engine.score(None, "", "").future.result(WAIT)
    with pytest.raises(UnsupportedModelError, match="learning_rate"):
        HopeEngine(byte_model(rate=1.5))


def test_the_policy_is_the_models_own(engine: HopeEngine) -> None:
    policy: LearningPolicy = engine.policies["default"]
    assert [level.period_tokens for level in policy.levels] == [8, 32]
    assert policy.recipe == "streamed"
    assert engine.state_bytes_limit(policy) == sum(
        tensor.nbytes for initial in engine.model.initial for tensor in initial.theta
    )
