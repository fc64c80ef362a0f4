"""The lean training pass of `specific_replay` against the packed one, and its directions."""

from __future__ import annotations

import random

import pytest
import torch

from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.learning.packing import Example, pack
from hope_runtime.learning.recipes.specific.batch import Batch, Item
from hope_runtime.learning.recipes.specific.directions import Directions
from hope_runtime.learning.recipes.specific.lean import losses, views
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.reference import references
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.steps import at_once


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
    return losses(model, lower.above(Batch(items, "cpu")), adapter)


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


def test_directions_are_orthonormal_and_the_strongest(chat_model):
    rng = random.Random(0)
    ids = [tuple(rng.randrange(1000, 2000) for _ in range(12)) for _ in range(20)]
    examples = [Example(each, (True,) * 12) for each in ids]
    found = at_once(Directions(chat_model, Workers(1), None).of([examples], 8, 8))
    for rows in (found.outer_LKD, found.inner_LKF):
        for layer in rows:
            assert torch.allclose(layer @ layer.mT, torch.eye(8), atol=1e-4)


def test_own_directions_stand_beside_the_general_ones(chat_model):
    rng = random.Random(0)
    ids = [tuple(rng.randrange(1000, 2000) for _ in range(12)) for _ in range(20)]
    texts = [Example(each, (True,) * 12) for each in ids]
    directions = Directions(chat_model, Workers(1), None)
    general = at_once(directions.of([texts], 8, 8))
    config = chat_model.config
    generator = torch.Generator().manual_seed(0)
    # Of the last layer alone.
    inputs = [
        (
            torch.randn(40, config.d_model, generator=generator),
            torch.randn(40, config.d_ff, generator=generator),
        )
    ]
    both = at_once(directions.with_own(general, inputs, 6))
    for rows, known in ((both.outer_LKD, general.outer_LKD), (both.inner_LKF, general.inner_LKF)):
        assert torch.equal(rows[:, :8], known)
        assert torch.allclose(rows[-1] @ rows[-1].mT, torch.eye(14), atol=1e-4)
        assert not rows[:-1, 8:].any()
    assert at_once(directions.with_own(general, [], 6)) is general
    assert at_once(directions.with_own(general, inputs, 0)) is general
