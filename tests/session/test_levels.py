"""Low-rank terms: norms without the product, sums of effects, and a start without any."""

from __future__ import annotations

import pytest
import torch

from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.lora import LoraAdapter, concatenate, initial, shapes
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.levels import Level
from hope_runtime.session.policy import LevelConfig


def random_adapter(config: ModelConfig, rank: int, seed: int) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    return LoraAdapter(
        **{
            name: torch.randn(shape, generator=generator, dtype=torch.float64) * 0.1
            for name, shape in shapes(config, rank).items()
        }
    )


def product(adapter: LoraAdapter, matrix: str) -> torch.Tensor:
    """(L, out, in): what the terms add to a matrix of every layer."""
    tensors = adapter.tensors()
    return tensors[f"{matrix}_b"] @ tensors[f"{matrix}_a"]


def test_the_norm_is_that_of_the_dense_matrices(tiny_model: BaseModel) -> None:
    adapter = random_adapter(tiny_model.config, 3, seed=1)
    dense = sum(float(product(adapter, name).square().sum()) for name in ("gate", "up", "down"))
    assert adapter.norm() == pytest.approx(dense**0.5, rel=1e-5)
    assert adapter.scaled(0.5).norm() == pytest.approx(adapter.norm() / 2, rel=1e-6)
    assert initial(tiny_model.config, 3, seed=1).norm() == 0.0


def test_concatenated_terms_have_the_sum_of_the_effects(tiny_model: BaseModel) -> None:
    parts = [random_adapter(tiny_model.config, rank, seed=rank) for rank in (1, 3)]
    both = concatenate([parts[0], None, parts[1]])
    assert both is not None
    assert both.rank == 4
    for name in ("gate", "up", "down"):
        expected = product(parts[0], name) + product(parts[1], name)
        torch.testing.assert_close(product(both, name), expected)


def test_nothing_concatenates_to_nothing_and_one_to_itself(tiny_model: BaseModel) -> None:
    one = random_adapter(tiny_model.config, 2, seed=0)
    assert concatenate([None, None]) is None
    assert concatenate([None, one]) is one


@torch.no_grad()
def test_initial_terms_have_no_effect_and_a_direction_of_their_own(tiny_model: BaseModel) -> None:
    ids = torch.arange(2, 12)[None]
    adapter = initial(tiny_model.config, 2, seed=5)
    served = forward(tiny_model, ids, adapter=adapter.to(tiny_model.dtype))
    assert torch.equal(served, forward(tiny_model, ids))
    assert initial(tiny_model.config, 2, seed=5).digest == adapter.digest
    assert initial(tiny_model.config, 2, seed=6).digest != adapter.digest
    # Unit expected norm, so that a level's speed does not depend on the width of a matrix.
    wide = initial(tiny_model.config, 64, seed=5)
    assert float(wide.down_a.square().sum(-1).mean()) == pytest.approx(1, rel=0.1)


def test_a_level_is_told_apart_by_counters_and_by_single_bits(tiny_model: BaseModel) -> None:
    config = LevelConfig(period_tokens=8, rank=2, learning_rate=0.1)
    adapter = random_adapter(tiny_model.config, 2, seed=2).to(torch.bfloat16)
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
    tensors["down_b"].view(torch.int16)[0, 0, 0] ^= 1
    digests = {
        Level(config).digest(),
        Level(config, learnt_through=8).digest(),
        Level(config, adapter, learnt_through=8).digest(),
        Level(config, adapter, learnt_through=8, updates=1).digest(),
        Level(config, adapter, learnt_through=8, learnt_tokens=3).digest(),
        Level(config, LoraAdapter(**tensors), learnt_through=8).digest(),
    }
    assert len(digests) == 6


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_noticed(tiny_model: BaseModel, bad: float) -> None:
    adapter = random_adapter(tiny_model.config, 2, seed=3)
    assert adapter.is_finite()
    adapter.up_b[1, 2, 1] = bad
    assert not adapter.is_finite()
