"""The recipe `specific_replay`, on a tiny model with the real tokenizer and chat template."""

from __future__ import annotations

from dataclasses import replace

import pytest
from memories import SPECIFIC_POLICY
from safetensors.torch import load_file

from hope_runtime.engine.prompt import encode_spans
from hope_runtime.learning import Learner
from hope_runtime.learning.probes import Probed
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import (
    DEFAULT_POLICY,
    GuardConfig,
    SpecificConfig,
)
from hope_runtime.steps import at_once

FACTS = ("My name is Tamsin. I live in Oslo. Brisa has a ferret called Pim.", "I play the harp.")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@pytest.fixture(scope="module")
def learn(chat_model, kept):
    """Tells messages, a conversation each, and gives the memory with what was reported."""

    def go(*messages, policy=SPECIFIC_POLICY, threads=1, learner=None):
        learner = learner or Learner(chat_model, threads, kept=kept)
        memory = SessionMemory.fresh(chat_model.fingerprint, policy)
        reports = []
        for number, text in enumerate(messages):
            spans = encode_spans(chat_model.tokenizer, text)
            segment = Segment(Speaker.USER, spans, learnable=True)
            for record in (
                Record(RecordKind.TURN, str(number), (segment,)),
                Record(RecordKind.END_CONVERSATION, str(number)),
            ):
                memory = observe(memory, record, window_tokens=256)
            while (boundary := due(memory)) is not None:
                memory, report = at_once(learner.consolidate(memory, boundary))
                reports.append(report)
        return memory, reports

    return go


def texts(model, memory):
    return [model.tokenizer.decode(span.ids).strip() for span in memory.buffer]


def test_a_consolidation_is_a_pure_function_on_any_number_of_threads(chat_model, learn, kept):
    memory, _ = learn(*FACTS)
    assert all(level.updates for level in memory.levels[:1])
    assert learn(*FACTS, threads=3)[0].hash() == memory.hash()
    # What a learner did before, for another session, leaves no trace.
    busy = Learner(chat_model, 2, kept=kept)
    learn("My dog is called Rolf.", learner=busy)
    assert learn(*FACTS, learner=busy)[0].hash() == memory.hash()


def test_what_is_kept_on_disk_changes_no_bit(chat_model, learn, tmp_path):
    text = "My dog is called Rolf."
    first = learn(text, learner=Learner(chat_model, 1, kept=tmp_path))[0]
    assert any(tmp_path.glob("*.safetensors"))
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    assert learn(text, learner=Learner(chat_model, 1, kept=tmp_path))[0].hash() == first.hash()


def test_the_work_tells_the_share_that_is_done(chat_model, kept):
    memory = SessionMemory.fresh(chat_model.fingerprint, SPECIFIC_POLICY)
    segment = Segment(Speaker.USER, encode_spans(chat_model.tokenizer, FACTS[0]), learnable=True)
    memory = observe(memory, Record(RecordKind.TURN, "a", (segment,)), window_tokens=256)
    memory = observe(memory, Record(RecordKind.END_CONVERSATION, "a"), window_tokens=256)
    work = Learner(chat_model, 1, kept=kept).consolidate(memory, due(memory))
    shares = [share for share in work if share is not None]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] <= 1


def test_figures_of_a_consolidation(learn):
    memory, (report,) = learn(FACTS[0])
    # Four, and two more for each of the other statements.
    assert 2 <= report.drift.steps.count <= 8
    assert report.trained_tokens > report.tokens
    assert 0 < report.drift.steps.rehearsed_share < 1
    assert {"steps", "references", "surprise"} <= set(report.phases)
    assert sum(report.phases.values()) <= report.seconds
    assert "phases" not in report.notes()
    assert "superseded" not in report.notes()
    assert memory.levels[0].surprise_after_nats > 0


def test_a_correction_leaves_only_the_new_statement_to_rehearse(chat_model, learn):
    memory, reports = learn(
        "My dog is called Rolf.", "My cat is called Ada.", "My cat is now called Bruno."
    )
    assert texts(chat_model, memory) == ["My dog is called Rolf.", "My cat is now called Bruno."]
    last = reports[-1].notes()["superseded"]
    starts = [len(chat_model.tokenizer.encode("My dog is called Rolf."))]
    starts.append(starts[0] + len(chat_model.tokenizer.encode("My cat is called Ada.")))
    assert last == ({"by": starts[1], "start": starts[0]},) or list(last) == [
        {"by": starts[1], "start": starts[0]}
    ]
    cues = [chat_model.tokenizer.decode(cue) for cue in memory.buffer[-1].cues]
    assert "What is my cat called?" in cues


def test_a_correction_within_one_conversation(chat_model, learn):
    memory, (report,) = learn("My cat is called Ada. No, it is Bruno, not Ada.")
    assert [item.start for item in report.superseded] == [0]
    assert texts(chat_model, memory) == ["No, it is Bruno, not Ada."]


def asked(model, memory):
    """The questions that each span of the buffer is practised as the answer to."""
    decode = model.tokenizer.decode
    return [{decode(cue) for cue in span.cues} for span in memory.buffer]


def test_a_sentence_of_two_statements_is_practised_as_both(chat_model, learn):
    memory, (report,) = learn("Our dog is called Rolf, he is a poodle.")
    assert report.statements == 2
    [questions] = asked(chat_model, memory)
    assert {"What is my dog called?", "What breed is my dog?"} <= questions


def test_a_correction_of_one_statement_keeps_what_else_its_sentence_told(chat_model, learn):
    memory, reports = learn("My daughter Mirja is seven.", "Mirja turned eight today.")
    assert len(reports[-1].superseded) == 1
    assert texts(chat_model, memory) == ["Mirja turned eight today."]
    [questions] = asked(chat_model, memory)
    assert {"How old is my daughter?", "What is my daughter called?"} <= questions


def test_a_sentence_that_corrects_both_statements_of_another(chat_model, learn):
    memory, reports = learn("My daughter Mirja is seven.", "My daughter Mira is eight.")
    assert len(reports[-1].superseded) == 1
    assert texts(chat_model, memory) == ["My daughter Mira is eight."]
    [questions] = asked(chat_model, memory)
    assert "How old is Mira?" in questions
    assert not any("Mirja" in question for question in questions)


@pytest.mark.heavy
def test_fifty_corrections_in_a_row_leave_one_statement(chat_model, learn):
    """The values are those of a person who cannot decide."""
    colours = ("teal", "green", "purple", "orange", "silver")
    changes = [f"My favourite colour is {colours[n % 5]} now." for n in range(50)]
    quick = replace(
        SPECIFIC_POLICY, specific=replace(SPECIFIC_POLICY.specific, steps=1, least_steps=1)
    )
    memory, reports = learn("My favourite colour is brown.", *changes, policy=quick)
    assert texts(chat_model, memory) == [changes[-1]]
    assert sum(len(report.superseded) for report in reports if report.level == 0) == 50
    assert all(level.adapter is None or level.adapter.is_finite() for level in memory.levels)


def test_a_rejected_consolidation_supersedes_nothing(chat_model, learn, monkeypatch):
    guarded = replace(SPECIFIC_POLICY, guards=GuardConfig())
    memory, _ = learn("My cat is called Ada.", policy=guarded)
    assert texts(chat_model, memory) == ["My cat is called Ada."]
    # As if each had done great harm.
    monkeypatch.setattr(Probed, "rise", property(lambda self: 1.0))
    memory, reports = learn("My cat is called Ada.", "My cat is now called Bruno.", policy=guarded)
    assert all(report.superseded == () for report in reports)
    assert memory.buffer == ()


def test_documents_without_statements_are_read_again(chat_model, kept):
    text = "The tide came in slowly and the boats were lifted from the mud. " * 3
    memory = SessionMemory.fresh(chat_model.fingerprint, SPECIFIC_POLICY)
    segment = Segment(Speaker.DOCUMENT, encode_spans(chat_model.tokenizer, text), True)
    memory = observe(memory, Record(RecordKind.TURN, "a", (segment,)), window_tokens=256)
    memory = observe(memory, Record(RecordKind.END_CONVERSATION, "a"), window_tokens=256)
    learner = Learner(chat_model, 1, kept=kept)
    while (boundary := due(memory)) is not None:
        memory, report = at_once(learner.consolidate(memory, boundary))
    assert memory.buffer == ()
    assert report.surprise_after_nats < report.surprise_before_nats


def test_what_deserves_no_practice_costs_only_reading(chat_model, kept):
    """A small model finds everything surprising, so the thresholds are out of its reach."""
    dull = replace(
        SPECIFIC_POLICY,
        specific=replace(
            SPECIFIC_POLICY.specific,
            document_surprise_nats=99.0,
            odd_surprise_nats=99.0,
            text_surprise_nats=99.0,
        ),
    )
    text = "Brisa has a ferret called Pim. The pass key is 83921. The tide came in slowly. "
    memory = SessionMemory.fresh(chat_model.fingerprint, dull)
    segment = Segment(Speaker.DOCUMENT, encode_spans(chat_model.tokenizer, text), True)
    memory = observe(memory, Record(RecordKind.TURN, "a", (segment,)), window_tokens=256)
    memory = observe(memory, Record(RecordKind.END_CONVERSATION, "a"), window_tokens=256)
    before = memory.levels_digest()
    memory, report = at_once(Learner(chat_model, 1, kept=kept).consolidate(memory, due(memory)))
    assert report.trained_tokens == 0
    assert report.surprise_after_nats == report.surprise_before_nats > 0
    assert memory.levels[0].adapter is None
    assert memory.levels[0].updates == 0
    assert memory.pending == memory.buffer == ()
    assert memory.levels_digest() != before  # how far it has read


def test_first_factors_read_none_of_the_directions(chat_model, learn, kept):
    memory, _ = learn(FACTS[0])
    (file,) = kept.glob("*.safetensors")
    outer = load_file(file)["outer"]
    read = memory.levels[0].adapter.gate_a.float() @ outer.mT
    assert read.abs().max() < 0.01 * memory.levels[0].adapter.gate_a.float().norm(dim=-1).max()


def test_lower_layers_take_no_step(learn):
    half = replace(SPECIFIC_POLICY, specific=replace(SPECIFIC_POLICY.specific, frozen_share=0.5))
    memory, _ = learn(FACTS[0], policy=half)
    second = memory.levels[0].adapter.gate_b
    first = len(second) // 2
    assert not second[:first].any()
    assert second[first:].any()


def test_the_default_policy_learns_by_it():
    assert DEFAULT_POLICY.recipe == "specific_replay"
    assert DEFAULT_POLICY.settings == SpecificConfig()
