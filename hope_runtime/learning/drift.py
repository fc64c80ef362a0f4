"""Drift of a memory from its frozen base, and statistics of its last optimiser steps.

Figures of levels only: what they do to the model's predictions is measured by learning/probes.py.
Everything here is derived: no figure enters a memory or its hash.

Shape suffixes: L layers, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hope_runtime.layers.lora import LoraAdapter, concatenate
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.levels import Level


@dataclass(frozen=True, slots=True)
class Steps:
    """Statistics of the optimiser steps of one consolidation.

    `gradient_norm` is the mean over the steps of the gradient's Frobenius norm, all factors of the
    level together; `largest_gradient_norm` the largest of them. `rehearsed_share` is the share of
    the examples' tokens that did not come from the stretch: replays of before, contrasts, samples.
    """

    count: int
    gradient_norm: float
    largest_gradient_norm: float
    rehearsed_share: float = 0.0


@dataclass(frozen=True, slots=True)
class LevelDrift:
    """Drift of a level after a consolidation, and the steps that led there.

    `relative_norm` is the Frobenius norm of what the level adds over that of the base's MLP
    matrices, `update_ratio` that of the change over the same. `effective_rank` is the mean over
    matrices of exp(entropy of the normalised singular values) (Roy and Vetterli, 2007), between 1
    and the level's rank; 0 for a level that adds nothing.
    """

    relative_norm: float
    update_ratio: float
    effective_rank: float
    steps: Steps


def base_norm(model: BaseModel) -> float:
    """Frobenius norm of all MLP matrices that levels add to."""
    squares = sum(
        float(layer.gate_up.float().square().sum() + layer.down.float().square().sum())
        for layer in model.weights.layers
    )
    return float(squares**0.5)


def relative_change(before: Level | None, after: Level, norm: float) -> float:
    """Frobenius norm of what was added to a level's term between two states of it, over `norm`,
    that of the base; None is a level that has not learnt."""
    old = None if before is None or before.adapter is None else before.adapter.scaled(-1.0)
    change = concatenate([old, after.adapter])
    return change.norm() / norm if change is not None else 0.0


def level_drift(before: Level, after: Level, norm: float, steps: Steps) -> LevelDrift:
    """The figures of a level that went from `before` to `after`; `norm` is that of the base."""
    return LevelDrift(
        relative_norm=relative_change(None, after, norm),
        update_ratio=relative_change(before, after, norm),
        effective_rank=effective_rank(after.adapter) if after.adapter is not None else 0.0,
        steps=steps,
    )


@torch.no_grad()
def effective_rank(adapter: LoraAdapter) -> float:
    """Mean effective rank of the products B A; matrices that are zero do not count."""
    ranks = []
    for name in ("gate", "up", "down"):
        a_LRI = getattr(adapter, f"{name}_a").double()
        b_LOR = getattr(adapter, f"{name}_b").double()
        # With B = Q T, the singular values of B A are those of T A, and their squares the
        # eigenvalues of T A Aᵀ Tᵀ: an R x R problem instead of one of the matrix's size.
        t_LRR = torch.linalg.qr(b_LOR, mode="r").R
        ta_LRI = t_LRR @ a_LRI
        values_LR = torch.linalg.eigvalsh(ta_LRI @ ta_LRI.mT).clamp(min=0).sqrt()
        total_L1 = values_LR.sum(-1, keepdim=True)
        shares_LR = (values_LR / total_L1)[total_L1[:, 0] > 0]
        entropy_L = -torch.special.xlogy(shares_LR, shares_LR).sum(-1)
        ranks += entropy_L.exp().tolist()
    return sum(ranks) / len(ranks) if ranks else 0.0
