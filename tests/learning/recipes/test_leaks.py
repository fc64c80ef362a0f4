"""What a memory is held to beside what it learns: the base, and its own leaks undone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from hope_runtime.engine.prompt import encode_spans
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.learning import Learner
from hope_runtime.learning.recipe import Resources
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.recipes.specific import answers as answering
from hope_runtime.learning.recipes.specific.held import Holding
from hope_runtime.learning.recipes.specific.leaks import LeakFinder
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.parser import EnglishParser
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.workers import Workers
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory, Span
from hope_runtime.session.policy import LearningPolicy, LevelConfig, SpecificConfig
from hope_runtime.steps import at_once

PARSER = EnglishParser()
POLICY = LearningPolicy(
    name="small",
    levels=(LevelConfig(period_tokens=64, rank=4, learning_rate=5e-3),),
    recipe="specific_replay",
    specific=SpecificConfig(steps=4, least_steps=4, outer_directions=4, inner_directions=4),
)


class Trainer:
    """A level in training, as far as it is asked."""

    def __init__(self, adapter: LoraAdapter) -> None:
        self.adapter = adapter

    def combined(self) -> LoraAdapter:
        return self.adapter


def told(text, start=0):
    plain = Statement(Span((1,), Speaker.USER, start), text)
    return replace(plain, questions=tuple(PARSER.questions(plain.stated)))


@pytest.fixture(scope="module")
def holding(chat_model, tmp_path_factory):
    resources = Resources(chat_model, Workers(1), tmp_path_factory.mktemp("written"))
    names = Names(chat_model.tokenizer)
    writer = ReplayWriter(chat_model.tokenizer, names)
    return resources, writer, Holding(resources, writer, names, PARSER)


@pytest.fixture(scope="module")
def memory(chat_model):
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: tensor if name.endswith("_a") else torch.randn(tensor.shape, generator=generator)
        for name, tensor in initial(chat_model.config, 4, seed=1).tensors().items()
    }
    return LoraAdapter(**tensors)


def held(holding, lower, statements, earlier, *, to_base):
    _, _, holds = holding
    return at_once(holds.write(statements, earlier, lower, random.Random(0), to_base=to_base))


def same(found, expected):
    """Which examples have the reference that they have in another list of the same ones."""
    others = {each.example: each.reference.log_probabilities_NK for each in expected}
    assert others.keys() == {each.example for each in found}
    return [
        torch.equal(each.reference.log_probabilities_NK, others[each.example]) for each in found
    ]


def test_what_no_statement_answers_is_held_to_the_base(chat_model, holding, memory):
    new = [told("My dog is called Rolf.")]
    earlier = [told("I play the harp.", 100), told("I live in Oslo.", 200)]
    under = LowerLayers(chat_model, Workers(1), 0, memory)
    base = LowerLayers(chat_model, Workers(1), 0, None)
    found = held(holding, under, new, earlier, to_base=True)
    fresh = held(holding, base, new, earlier, to_base=True)
    for name in ("contrasts", "near"):
        assert getattr(found, name)
        assert all(same(getattr(found, name), getattr(fresh, name)))
    assert found.questions == fresh.questions
    # All but what earlier statements answer, which the memory knows and must keep.
    answered = {place for item in earlier for place in PARSER.answered_by_words(item)}
    questions = {PARSER.library[place].question for place in answered}
    for example, as_base in zip(found.anchors, same(found.anchors, fresh.anchors), strict=True):
        text = chat_model.tokenizer.decode(example.example.ids)
        assert as_base is not any(question in text for question in questions)
    assert not all(same(found.anchors, fresh.anchors))
    before, base_before = (
        held(holding, lower, new, earlier, to_base=False) for lower in (under, base)
    )
    assert not any(same(before.contrasts, base_before.contrasts))


def test_answers_with_a_told_value_are_leaks_up_to_the_value(
    chat_model, holding, memory, monkeypatch
):
    resources, writer, holds = holding
    base = LowerLayers(chat_model, Workers(1), 0, None)
    pools = held(holding, base, [told("My dog is called Rolf.")], [], to_base=True)
    said = ["The dog is called Rolf.", "I do not know.", "Rolf!", "It is Rolfing."]
    asked = []

    def answers(model, workers, prompts, **options):
        assert options["adapter"] is memory
        asked.append(len(prompts))
        encode = model.tokenizer.encode
        return [tuple(encode(said[place % len(said)])) for place in range(len(prompts))]

    monkeypatch.setattr(answering, "decode", answers)
    finder = LeakFinder(resources, writer, PARSER, holds)
    statements, trainer = [told("My dog is called Rolf.")], Trainer(memory)
    found = at_once(finder.find(statements, pools, trainer, 3))
    assert asked == [3]
    decode = chat_model.tokenizer.decode
    texts = [decode(each.example.ids) for each in found]
    assert len(texts) == 2
    first = decode(chat_model.tokenizer.encode(" Rolf")[:1])
    assert texts[0].endswith(f"The dog is called{first}")
    assert pools.questions[0] in texts[0]
    assert pools.questions[2] in texts[1]
    assert all(each.reference.ids_NK.shape[0] == sum(each.example.targets) for each in found)
    assert at_once(finder.find(statements, pools, trainer, 0)) == []
    assert asked == [3]


def test_leaks_at_the_end_take_some_steps_more(chat_model, tmp_path, monkeypatch):
    def steps(answer):
        def answers(model, workers, prompts, **options):
            return [tuple(model.tokenizer.encode(answer)) for _ in prompts]

        monkeypatch.setattr(answering, "decode", answers)
        learner = Learner(chat_model, 1, kept=tmp_path)
        spans = encode_spans(chat_model.tokenizer, "My dog is called Rolf.")
        memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
        for record in (
            Record(RecordKind.TURN, "a", (Segment(Speaker.USER, spans, learnable=True),)),
            Record(RecordKind.END_CONVERSATION, "a"),
        ):
            memory = observe(memory, record, window_tokens=256)
        memory, report = at_once(learner.consolidate(memory, due(memory)))
        assert {"asking", "steps"} <= set(report.phases)
        return report.drift.steps.count, memory.hash()

    quiet, leaking = steps("I do not know."), steps("It is called Rolf.")
    assert quiet[0] == 4
    specific = POLICY.specific
    assert leaking[0] == 4 + specific.leak_rounds * specific.settling_steps
    assert quiet[1] != leaking[1]
