"""Gradients of steps as a GPU computes them: padded to few shapes, replayed, looked at later."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from memories import SPECIFIC_POLICY
from torch import Tensor

from hope_runtime.device import available
from hope_runtime.engine.prompt import encode_spans
from hope_runtime.errors import DivergedStateError
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.learning import Learner
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import Example
from hope_runtime.learning.recipes.specific import gradients
from hope_runtime.learning.recipes.specific.batch import Batch, Item
from hope_runtime.learning.recipes.specific.gradients import (
    PassInputs,
    StepGradients,
    gradient_of,
)
from hope_runtime.learning.recipes.specific.lower_layers import Above, LowerLayers
from hope_runtime.learning.reference import references
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.steps import at_once

PREFIX = (1001, 1002, 1003)


def items(model: BaseModel, seed: int, lengths: Sequence[int]) -> list[Item]:
    """Of all kinds: to learn, to unlearn, and held to the base; with the prefix but the last."""
    rng = random.Random(seed)
    examples = []
    for number, length in enumerate(lengths):
        ids = tuple(rng.randrange(1000, 2000) for _ in range(length))
        prefix = PREFIX if number + 1 < len(lengths) else ()
        examples.append(Example(ids, tuple(place >= 2 for place in range(length)), prefix))
    views = references(model, examples[:2], row_tokens=128)
    found = [Item(each, 0.1) for each in examples]
    found[0] = Item(examples[0], 0.3, views[0])
    found[1] = Item(examples[1], 0.2, views[1])
    found[2] = Item(examples[2], 0.1, unlikely=True)
    return found


def trainer_of(model: BaseModel, level: int = 0) -> LevelTrainer:
    """A level that has learnt something, beside another one that has."""
    memory = SessionMemory.fresh(model.fingerprint, SPECIFIC_POLICY)
    trainer = LevelTrainer(model, memory, level, Workers(1))
    trainer.load(noise(model, 4, seed=1))
    trainer.others = noise(model, 2, seed=2)
    return trainer


def noise(model: BaseModel, rank: int, seed: int) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: tensor if name.endswith("_a") else torch.randn(tensor.shape, generator=generator) / 50
        for name, tensor in initial(model.config, rank, seed=seed).tensors().items()
    }
    return LoraAdapter(**tensors).to(torch.float32, model.device)


def computed(steps: StepGradients, model: BaseModel, given: list[Item]) -> list[Tensor]:
    """The gradient, and the worst nats of each item as a tensor behind it."""
    trainer = trainer_of(model)
    lower = LowerLayers(model, Workers(1), 1, noise(model, 4, seed=1))
    found, losses = steps.of(given, trainer, lower)
    found = [each.clone() for each in found]
    worst = losses.read(trainer)
    assert trainer.gradient_norms == [
        pytest.approx(float(torch.cat([f.flatten() for f in found]).norm()), rel=1e-4)
    ]
    return [*found, torch.tensor(worst)]


@pytest.fixture(params=available())
def placed_model(request: pytest.FixtureRequest, chat_model: BaseModel) -> BaseModel:
    return chat_model.to(torch.float32, request.param)


def test_padded_steps_that_are_replayed_compute_what_plain_ones_do(placed_model: BaseModel) -> None:
    plain = StepGradients(placed_model, padded=False)
    padded = StepGradients(placed_model, padded=True)
    # Two shapes, each of which comes again with other content.
    for seed, lengths in enumerate(
        [
            (5, 9, 9, 14),
            (6, 9, 8, 12),
            (20, 9, 9, 5, 7),
            (6, 9, 9, 13),
            (19, 9, 8, 5, 7),
            (5, 9, 9, 14),
        ]
    ):
        given = items(placed_model, seed, lengths)
        pairs = zip(
            computed(padded, placed_model, given), computed(plain, placed_model, given), strict=True
        )
        for mine, theirs in pairs:
            assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-6)
    assert len(padded._static) == 2


def test_what_fills_a_step_up_changes_no_bit_of_it(chat_model: BaseModel) -> None:
    """Nor does what was computed before, in the tensors that a graph reads."""
    given = items(chat_model, 0, (5, 9, 9, 14))
    first = StepGradients(chat_model, padded=True)
    expected = computed(first, chat_model, given)
    later = StepGradients(chat_model, padded=True)
    for seed in (3, 4):
        computed(later, chat_model, items(chat_model, seed, (7, 10, 9, 16)))
    for mine, theirs in zip(computed(later, chat_model, given), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_a_step_reads_nothing_back_and_stays_on_its_device(chat_model: BaseModel) -> None:
    """As a capture demands: on meta tensors, which have no values and mix with no others."""
    lower = LowerLayers(chat_model, Workers(1), 1, None)
    given = items(chat_model, 0, (5, 9, 9, 14))
    lower.read([item.example for item in given])
    above = lower.above(Batch(given, "cpu", padded=True))
    nowhere = {name: each.to("meta") for name, each in above.batch.tensors().items()}
    batch = type(above.batch)(
        **nowhere, longest=above.batch.longest, prefix=above.batch.prefix, is_full=False
    )
    assert above.prefix_PD is not None
    moved = Above(batch, above.first, above.x_ND.to("meta"), above.prefix_PD.to("meta"))
    model = chat_model.to(torch.float32, "meta")
    parts = noise(chat_model, 4, seed=1).tensors()
    adapter = LoraAdapter(
        **{name: part.to("meta").requires_grad_() for name, part in parts.items()}
    )
    others = noise(chat_model, 2, seed=2).to(torch.float32, "meta")
    found, worst = gradient_of(model, PassInputs(moved, adapter, others))
    assert [each.shape for each in found] == [each.shape for each in adapter.tensors().values()]
    assert all(each.device.type == "meta" for each in (*found, worst))


class Session:
    """A session of `SPECIFIC_POLICY` that has been told something and is due."""

    def __init__(self, model: BaseModel) -> None:
        memory = SessionMemory.fresh(model.fingerprint, SPECIFIC_POLICY)
        spans = encode_spans(model.tokenizer, "My name is Tamsin. I live in Oslo.")
        segment = Segment(Speaker.USER, spans, learnable=True)
        for record in (
            Record(RecordKind.TURN, "a", (segment,)),
            Record(RecordKind.END_CONVERSATION, "a"),
        ):
            memory = observe(memory, record, window_tokens=256)
        self.memory = memory

    def learnt(self, learner: Learner) -> tuple[str, int]:
        """Hash and steps of a consolidation."""
        boundary = due(self.memory)
        assert boundary is not None
        memory, report = at_once(learner.consolidate(self.memory, boundary))
        assert report.drift is not None
        return memory.hash(), report.drift.steps.count


def test_consolidations_of_padded_steps_are_pure_functions(
    chat_model: BaseModel, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = tmp_path_factory.mktemp("written")
    session = Session(chat_model)
    _, steps = session.learnt(Learner(chat_model, 1, kept=kept))
    monkeypatch.setattr(gradients, "runs_padded", lambda device: True)
    learner = Learner(chat_model, 1, kept=kept)
    first, more = session.learnt(learner)
    # What is known is seen a step later than on a CPU.
    assert more in (steps, steps + 1)
    # Graphs and all that they read stay; nothing of one session shows in another.
    assert session.learnt(learner)[0] == first
    assert session.learnt(Learner(chat_model, 1, kept=kept))[0] == first


@pytest.mark.parametrize("padded", [False, True])
def test_a_gradient_that_is_not_finite_ends_a_consolidation(
    chat_model: BaseModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, padded: bool
) -> None:
    monkeypatch.setattr(gradients, "runs_padded", lambda device: padded)
    usual = gradients.gradient_of
    calls = iter(range(100))

    def spoilt(*given: object) -> tuple[Sequence[Tensor], Tensor]:
        found, worst = usual(*given)  # type: ignore[arg-type]
        return ([each * float("nan") for each in found] if next(calls) == 2 else found), worst

    monkeypatch.setattr(gradients, "gradient_of", spoilt)
    session = Session(chat_model)
    before = session.memory.hash()
    with pytest.raises(DivergedStateError, match="gradient is not finite"):
        session.learnt(Learner(chat_model, 1, kept=tmp_path))
    assert session.memory.hash() == before
