"""The recipe `specific_replay`, on a tiny model with the real tokenizer and chat template."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hope_runtime.engine.prompt import encode_spans
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.learning import Learner
from hope_runtime.learning.packing import Example, pack
from hope_runtime.learning.probes import Probed
from hope_runtime.learning.recipes.specific.batch import Batch, Item
from hope_runtime.learning.recipes.specific.directions import Directions
from hope_runtime.learning.recipes.specific.lean import losses, views
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.reference import references
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import (
    DEFAULT_POLICY,
    GuardConfig,
    LearningPolicy,
    LevelConfig,
    SpecificConfig,
)

POLICY = LearningPolicy(
    name="small",
    levels=(
        LevelConfig(period_tokens=64, rank=4, learning_rate=5e-3),
        LevelConfig(period_tokens=128, rank=2, learning_rate=5e-3),
    ),
    recipe="specific_replay",
    specific=SpecificConfig(
        steps=4, least_steps=2, outer_directions=8, inner_directions=8, buffer_tokens=60
    ),
)
FACTS = ("My name is Tamsin. I live in Oslo. Brisa has a ferret called Pim.", "I play the harp.")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@pytest.fixture(scope="module")
def learn(chat_model, kept):
    """Tells messages, a conversation each, and gives the memory with what was reported."""

    def go(*messages, policy=POLICY, threads=1, learner=None):
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
                memory, report = finished(learner.consolidate(memory, boundary))
                reports.append(report)
        return memory, reports

    return go


def finished(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


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
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    segment = Segment(Speaker.USER, encode_spans(chat_model.tokenizer, FACTS[0]), learnable=True)
    memory = observe(memory, Record(RecordKind.TURN, "a", (segment,)), window_tokens=256)
    memory = observe(memory, Record(RecordKind.END_CONVERSATION, "a"), window_tokens=256)
    work = Learner(chat_model, 1, kept=kept).consolidate(memory, due(memory))
    shares = [share for share in work if share is not None]
    assert shares == sorted(shares)
    assert 0 < shares[0] <= shares[-1] <= 1


def test_figures_of_a_consolidation(learn):
    memory, (report,) = learn(FACTS[0])
    assert 2 <= report.drift.steps.count <= 4
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


@pytest.mark.heavy
def test_fifty_corrections_in_a_row_leave_one_statement(chat_model, learn):
    """The values are those of a person who cannot decide."""
    colours = ("teal", "green", "purple", "orange", "silver")
    changes = [f"My favourite colour is {colours[n % 5]} now." for n in range(50)]
    quick = replace(POLICY, specific=replace(POLICY.specific, steps=1, least_steps=1))
    memory, reports = learn("My favourite colour is brown.", *changes, policy=quick)
    assert texts(chat_model, memory) == [changes[-1]]
    assert sum(len(report.superseded) for report in reports if report.level == 0) == 50
    assert all(level.adapter is None or level.adapter.is_finite() for level in memory.levels)


def test_a_rejected_consolidation_supersedes_nothing(chat_model, learn, monkeypatch):
    guarded = replace(POLICY, guards=GuardConfig())
    memory, _ = learn("My cat is called Ada.", policy=guarded)
    assert texts(chat_model, memory) == ["My cat is called Ada."]
    # As if each had done great harm.
    monkeypatch.setattr(Probed, "rise", property(lambda self: 1.0))
    memory, reports = learn("My cat is called Ada.", "My cat is now called Bruno.", policy=guarded)
    assert all(report.superseded == () for report in reports)
    assert memory.buffer == ()


def test_documents_without_statements_are_read_again(chat_model, kept):
    text = "The tide came in slowly and the boats were lifted from the mud. " * 3
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    segment = Segment(Speaker.DOCUMENT, encode_spans(chat_model.tokenizer, text), True)
    memory = observe(memory, Record(RecordKind.TURN, "a", (segment,)), window_tokens=256)
    memory = observe(memory, Record(RecordKind.END_CONVERSATION, "a"), window_tokens=256)
    learner = Learner(chat_model, 1, kept=kept)
    while (boundary := due(memory)) is not None:
        memory, report = finished(learner.consolidate(memory, boundary))
    assert memory.buffer == ()
    assert report.surprise_after_nats < report.surprise_before_nats


def test_first_factors_read_none_of_the_directions(chat_model, learn, kept):
    memory, _ = learn(FACTS[0])
    (file,) = kept.glob("*.safetensors")
    outer = load_file(file)["outer"]
    read = memory.levels[0].adapter.gate_a.float() @ outer.mT
    assert read.abs().max() < 0.01 * memory.levels[0].adapter.gate_a.float().norm(dim=-1).max()


def test_directions_are_orthonormal_and_the_strongest(chat_model):
    rng = random.Random(0)
    ids = [tuple(rng.randrange(1000, 2000) for _ in range(12)) for _ in range(20)]
    examples = [Example(each, (True,) * 12) for each in ids]
    found = finished(Directions(chat_model, Workers(1), None).of([examples], 8, 8))
    for rows in (found.outer_LKD, found.inner_LKF):
        for layer in rows:
            assert torch.allclose(layer @ layer.mT, torch.eye(8), atol=1e-4)


def test_own_directions_stand_beside_the_general_ones(chat_model):
    rng = random.Random(0)
    ids = [tuple(rng.randrange(1000, 2000) for _ in range(12)) for _ in range(20)]
    texts = [Example(each, (True,) * 12) for each in ids]
    directions = Directions(chat_model, Workers(1), None)
    general = finished(directions.of([texts], 8, 8))
    config = chat_model.config
    generator = torch.Generator().manual_seed(0)
    # Of the last layer alone.
    inputs = [
        (
            torch.randn(40, config.d_model, generator=generator),
            torch.randn(40, config.d_ff, generator=generator),
        )
    ]
    both = finished(directions.with_own(general, inputs, 6))
    for rows, known in ((both.outer_LKD, general.outer_LKD), (both.inner_LKF, general.inner_LKF)):
        assert torch.equal(rows[:, :8], known)
        assert torch.allclose(rows[-1] @ rows[-1].mT, torch.eye(14), atol=1e-4)
        assert not rows[:-1, 8:].any()
    assert finished(directions.with_own(general, [], 6)) is general
    assert finished(directions.with_own(general, inputs, 0)) is general


# The lean pass


def parameters(model):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: (
            tensor if name.endswith("_a") else torch.randn(tensor.shape, generator=generator) / 50
        ).requires_grad_()
        for name, tensor in initial(model.config, 4, seed=1).tensors().items()
    }
    return LoraAdapter(**tensors), list(tensors.values())


def examples(prefix=()):
    rng = random.Random(1)
    found = []
    for length in (5, 9, 9, 14):
        ids = tuple(rng.randrange(1000, 2000) for _ in range(length))
        found.append(Example(ids, tuple(index >= 2 for index in range(length)), prefix))
    return found


def run(model, items, adapter, first=0):
    """The lean pass, whose lower layers see the adapter as it is."""
    fixed = LoraAdapter(**{name: each.detach() for name, each in adapter.tensors().items()})
    lower = LowerLayers(model, Workers(1), first, fixed)
    lower.read([item.example for item in items])
    return losses(model, Batch(items, "cpu"), adapter, lower)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("prefix", [(), (1001, 1002, 1003)])
def test_the_lean_pass_agrees_with_the_packed_one(chat_model, prefix, first):
    chosen = [*examples(prefix), *examples()[:1]]
    adapter, leaves = parameters(chat_model)
    views = references(chat_model, chosen[:2], row_tokens=128)
    items = [
        Item(example, 0.1, views[place] if place < 2 else None)
        for place, example in enumerate(chosen)
    ]
    total, each = run(chat_model, items, adapter, first)
    packed = pack(chosen, row_tokens=512)
    hidden = forward(
        chat_model,
        packed.ids_BT,
        positions_BT=packed.positions_BT,
        mask_BTS=packed.mask_BTT,
        adapter=adapter,
    )
    scores = logits(chat_model, hidden.flatten(0, 1)[packed.predictors_N][None])[0].float()
    expected = scores.new_zeros(())
    for place in range(len(chosen)):
        mine = packed.owners_N == place
        if place < 2:
            loss = views[place].divergence(scores[mine]).sum()
        else:
            loss = torch.nn.functional.cross_entropy(
                scores[mine], packed.targets_N[mine], reduction="sum"
            )
        expected = expected + 0.1 * loss
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert len(each) == len(packed.targets_N)
    if not prefix:  # whose gradient is left out
        for mine, theirs in zip(
            torch.autograd.grad(total, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            assert torch.allclose(mine[first:], theirs[first:], rtol=1e-3, atol=1e-6)
            assert not mine[:first].any()


def test_views_of_the_lean_pass_agree_with_the_packed_ones(chat_model):
    chosen = [*examples((1001, 1002, 1003)), *examples()[:1]]
    adapter = LoraAdapter(
        **{name: each.detach() for name, each in parameters(chat_model)[0].tensors().items()}
    )
    lower = LowerLayers(chat_model, Workers(1), 1, adapter)
    lower.read(chosen)
    batch = Batch([Item(each, 1.0) for each in chosen], "cpu")
    inputs = []
    mine = views(chat_model, batch, adapter, lower, lambda *seen: inputs.append(seen))
    theirs = references(chat_model, chosen, row_tokens=512, adapter=adapter)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(
            one.log_probabilities_NK, other.log_probabilities_NK, rtol=1e-3, atol=1e-3
        )
    assert [layer for layer, _, _ in inputs] == list(range(1, chat_model.config.n_layers))


def test_lower_layers_take_no_step(learn):
    half = replace(POLICY, specific=replace(POLICY.specific, frozen_share=0.5))
    memory, _ = learn(FACTS[0], policy=half)
    second = memory.levels[0].adapter.gate_b
    first = len(second) // 2
    assert not second[:first].any()
    assert second[first:].any()


def test_a_target_that_is_to_be_unlearnt_costs_what_it_is_likely(chat_model):
    adapter, leaves = parameters(chat_model)
    (example, *_) = examples()
    total, each = run(chat_model, [Item(example, 1.0, unlikely=True)], adapter)
    ids = torch.tensor([example.ids])
    scores = logits(chat_model, forward(chat_model, ids, adapter=adapter))[0].float()
    targets = [place for place, wanted in enumerate(example.targets) if wanted]
    chances = scores.softmax(-1)[[place - 1 for place in targets], ids[0, targets]]
    expected = -torch.log1p(-chances)
    assert torch.allclose(each, expected, rtol=1e-2)
    assert torch.allclose(total, expected.sum(), rtol=1e-2)
    for mine, theirs in zip(
        torch.autograd.grad(total, leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert (mine - theirs).norm() <= 0.02 * theirs.norm()


def test_the_default_policy_learns_by_it():
    assert DEFAULT_POLICY.recipe == "specific_replay"
    assert DEFAULT_POLICY.settings == SpecificConfig()
