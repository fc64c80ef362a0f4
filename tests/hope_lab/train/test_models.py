"""The small models of the synthetic tasks begin with what their tasks need."""

from __future__ import annotations

import pytest
import torch

from hope_lab.train.models import small_model
from hope_runtime.models.hope.config import PRESETS
from hope_runtime.models.hope.weights import init_weights


def first_etas(name: str, **overrides: object) -> list[float]:
    config = small_model(name, 4, **overrides)
    fast = init_weights(config, 0).blocks[0].fast
    assert config.fast is not None
    assert fast is not None
    assert fast.eta_bias is not None
    return (config.fast.eta_max * torch.sigmoid(fast.eta_bias)).tolist()


def test_heads_that_may_alternate_begin_spread_up_to_there() -> None:
    """What is kept of a repeated key is 1 - eta a token: some heads keep it, some turn its sign."""
    etas = first_etas("hope")
    assert etas == sorted(etas)
    assert etas[0] == 0.5
    assert etas[-1] == pytest.approx(1.5)


def test_heads_that_may_not_alternate_begin_alike() -> None:
    assert len(set(first_etas("hope", fast={"eta_max": 1.0}))) == 1
    assert len(set(first_etas("hope", fast={"chunk_mem": 16}))) == 1


def test_every_preset_has_a_small_model() -> None:
    for name in PRESETS:
        assert small_model(name, 4).backbone.d_model == 64
