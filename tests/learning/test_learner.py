"""The Learner: a pure function of memory and boundary; Eq. 71 over the factors, exactly."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from memories import POLICY, WINDOW, document, spans_of

from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe, replay
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import (
    DEFAULT_POLICY,
    REPLAY_POLICY,
    LearningPolicy,
    LevelConfig,
    ReplayConfig,
)
from hope_runtime.steps import at_once

MATRICES = ("gate", "up", "down")


def one_level(rate: float, *, period: int = 1000) -> LearningPolicy:
    level = LevelConfig(period_tokens=period, rank=4, learning_rate=rate)
    return LearningPolicy(name="one", levels=(level,), recipe="summed_gradient")


def read(model: BaseModel, policy: LearningPolicy, ids: tuple[int, ...]) -> SessionMemory:
    """A memory that has read `ids` as one span and waits to learn it."""
    memory = SessionMemory.fresh(model.fingerprint, policy)
    return observe(memory, document([ids]), window_tokens=WINDOW)


def learn(model: BaseModel, policy: LearningPolicy, ids: tuple[int, ...]) -> LoraAdapter:
    memory = read(model, policy, ids)
    adapter = Learner(model).consolidate_now(memory, Boundary(0, len(ids))).levels[0].adapter
    assert adapter is not None
    return adapter


def token_gradients(model: BaseModel, ids: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    """For each predicted token, the gradient of its loss with respect to every dense MLP matrix.

    Autograd on materialised weights: knows nothing of factors, packs or windows.
    """
    layers = []
    for layer in model.weights.layers:
        dense = {"gate_up": layer.gate_up.clone(), "down": layer.down.clone()}
        layers.append(replace(layer, **{k: v.requires_grad_() for k, v in dense.items()}))
    dense_model = replace(model, weights=replace(model.weights, layers=tuple(layers)))
    scores = logits(dense_model, forward(dense_model, torch.tensor([ids[:-1]])))[0]
    losses = torch.nn.functional.cross_entropy(scores, torch.tensor(ids[1:]), reduction="none")
    wanted = [weight for layer in layers for weight in (layer.gate_up, layer.down)]
    result = []
    for loss in losses:
        grads = torch.autograd.grad(loss, wanted, retain_graph=True)
        gate, up = zip(*(grad.chunk(2) for grad in grads[::2]), strict=True)
        named = {"gate": gate, "up": up, "down": grads[1::2]}
        result.append({name: torch.stack(parts) for name, parts in named.items()})
    return result


def test_a_step_is_the_sum_of_the_tokens_gradients(chat_model: BaseModel) -> None:
    ids = tuple(range(300, 320))
    rate = 1e-3
    policy = one_level(rate)
    gradients = token_gradients(chat_model, ids)
    start = initial(chat_model.config, 4, seed=policy.seed * 1009)
    learnt = learn(chat_model, policy, ids).to(torch.float32)
    for name in MATRICES:
        summed = sum(gradient[name] for gradient in gradients)
        a, b = getattr(start, f"{name}_a"), getattr(learnt, f"{name}_b")
        # At the start B is 0, so that dL/dB = (dL/dW) A^T and dL/dA = 0.
        torch.testing.assert_close(b, -rate * summed @ a.mT, rtol=2e-2, atol=1e-6)
        assert torch.equal(getattr(learnt, f"{name}_a"), a.to(torch.bfloat16).float())


def test_it_is_a_sum_and_not_a_mean_over_any_number_of_windows(chat_model: BaseModel) -> None:
    # Repeats of one token in windows of their own: each predicts the same from the same.
    policy = one_level(1e-4)
    window = (400,) * 256
    once = learn(chat_model, policy, window).to(torch.float32)
    twice = learn(chat_model, policy, window + window[1:]).to(torch.float32)
    for name in MATRICES:
        b_once, b_twice = getattr(once, f"{name}_b"), getattr(twice, f"{name}_b")
        torch.testing.assert_close(b_twice, 2 * b_once, rtol=1e-2, atol=1e-7)
        assert b_once.abs().sum() > 0


def test_a_rate_of_zero_leaves_the_base_model_bit_for_bit(chat_model: BaseModel) -> None:
    adapter = learn(chat_model, one_level(0.0), tuple(range(300, 400))).to(torch.float32)
    ids = torch.arange(100, 140)[None]
    with torch.no_grad():
        assert torch.equal(forward(chat_model, ids, adapter=adapter), forward(chat_model, ids))


def test_learning_lowers_the_surprise_it_reports(chat_model: BaseModel) -> None:
    ids = tuple(range(300, 360))
    memory = read(chat_model, one_level(3e-3), ids)
    after, report = at_once(Learner(chat_model).consolidate(memory, Boundary(0, len(ids))))
    assert report.surprise_after_nats < report.surprise_before_nats
    assert (report.level, report.position, report.spans, report.tokens) == (0, 60, 1, 60)
    assert report.trained_tokens >= 60
    assert "seconds" not in report.notes()
    level = after.levels[0]
    assert (level.updates, level.learnt_tokens, level.learnt_through) == (1, 60, 60)
    scores = logits(chat_model, forward(chat_model, torch.tensor([ids[:-1]])))[0]
    plain = torch.nn.functional.cross_entropy(scores, torch.tensor(ids[1:]))
    assert report.surprise_before_nats == pytest.approx(float(plain), rel=1e-4)


def test_the_same_memory_and_boundary_teach_the_same_bits(chat_model: BaseModel) -> None:
    memory = read(chat_model, POLICY, tuple(range(300, 340)))
    results = [Learner(chat_model).consolidate_now(memory, Boundary(0, 40)) for _ in range(2)]
    assert results[0].hash() == results[1].hash()
    assert results[0] != memory
    assert memory == read(chat_model, POLICY, tuple(range(300, 340)))


def test_work_comes_in_pieces_and_may_be_dropped_between_any_two(chat_model: BaseModel) -> None:
    memory = read(chat_model, one_level(1e-3), tuple(range(300, 300 + 600)))
    work = Learner(chat_model).consolidate(memory, Boundary(0, 600))
    assert sum(1 for _ in work) >= 2
    dropped = Learner(chat_model).consolidate(memory, Boundary(0, 600))
    next(dropped)
    dropped.close()
    assert memory.levels[0].adapter is None


def weights_hash(model: BaseModel) -> str:
    digest = hashlib.sha256()
    for _, tensor in model.weights.named():
        digest.update(tensor.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def test_one_level_learns_and_nothing_else_changes(chat_model: BaseModel) -> None:
    before = weights_hash(chat_model)
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    records = [document(spans_of(*[8] * 16, start=300))]
    memory = replay(memory, records, Learner(chat_model), window_tokens=WINDOW)
    memory = observe(memory, document(spans_of(*[8] * 4, start=900)), window_tokens=WINDOW)
    digests = [level.digest() for level in memory.levels]
    after = Learner(chat_model).consolidate_now(memory, Boundary(0, 160))
    assert [level.digest() for level in after.levels[1:]] == digests[1:]
    assert after.levels[0].digest() != digests[0]
    assert weights_hash(chat_model) == before


def test_a_boundary_without_a_whole_span_moves_on_and_teaches_nothing(
    chat_model: BaseModel,
) -> None:
    memory = read(chat_model, POLICY, tuple(range(300, 350)))
    after = Learner(chat_model).consolidate_now(memory, Boundary(0, 32))
    assert after.levels[0].adapter is None
    assert after.levels[0].learnt_through == 32
    assert after.pending == memory.pending


def test_what_is_learnt_stays_finite_and_of_constant_size(chat_model: BaseModel) -> None:
    memory = SessionMemory.fresh(chat_model.fingerprint, POLICY)
    learner = Learner(chat_model)
    sizes = set()
    for round_ in range(12):
        record = document(spans_of(*[8] * 16, start=300 + round_))
        memory = replay(memory, [record], learner, window_tokens=WINDOW)
        adapter = memory.levels[0].adapter
        assert adapter is not None
        assert adapter.is_finite()
        sizes.add(adapter.nbytes)
    assert len(sizes) == 1


def test_a_policys_digest_covers_what_it_uses_and_nothing_else() -> None:
    tuned = ReplayConfig(statement_price=1.0)
    assert replace(REPLAY_POLICY, replay=tuned).digest() != REPLAY_POLICY.digest()
    assert replace(POLICY, replay=tuned).digest() == POLICY.digest()
    assert replace(DEFAULT_POLICY, seed=1).digest() != DEFAULT_POLICY.digest()
