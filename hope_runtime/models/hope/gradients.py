"""Gradients of a segment: what the levels of a HOPE model learn from its tokens.

Shape suffixes: R rows that end together, T tokens, N tokens of a segment, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.cms import Theta
from hope_runtime.layers.tree import map_tensors
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.model import Context, Thetas, forward
from hope_runtime.models.hope.weights import HopeWeights


def segment_gradients(
    config: HopeConfig,
    weights: HopeWeights,
    thetas: Thetas,
    initial: Sequence[Theta],
    ids_RN: Tensor,
    learnable_RN: Tensor,
    start: Context,
) -> tuple[Tensor, dict[int, Theta], Context]:
    """Logits of a segment, (R, N - 1, V), each learning level's gradient of the summed loss of the
    learnable tokens, by row, and the context after all tokens but the last.

    `thetas` are the levels' weights of these rows, None where a level is still at its `initial`
    ones. Without a learnable target there is no gradient.
    """
    weights = weights.detached()
    targets, counted = ids_RN[:, 1:], learnable_RN[:, 1:]
    learning = config.learning_levels if bool(counted.any()) else ()
    with torch.enable_grad():
        leaves: list[Theta | None] = list(thetas)
        for level in learning:
            theta = thetas[level]
            if theta is None:
                # A view a row, so that each row has a gradient of its own and none a copy.
                theta = tuple(t.expand(len(ids_RN), *t.shape) for t in initial[level])
            leaves[level] = tuple(t.detach().requires_grad_() for t in theta)
        write = None if bool(learnable_RN.all()) else learnable_RN[:, :-1]
        logits, end = forward(
            config, weights, ids_RN[:, :-1], start, thetas=tuple(leaves), write_BT=write
        )
        if not learning:
            return logits.detach(), {}, _detached(end)
        nats = nnf.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        chosen = counted.flatten().to(nats.device)
        # Chosen, not multiplied: a target that does not count may have an infinite loss.
        loss = nats.masked_fill(~chosen, 0.0).sum()
        flat = [tensor for level in learning for tensor in (leaves[level] or ())]
        parts = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    gradients = {
        level: tuple(
            torch.zeros_like(tensor) if part is None else part
            for tensor, part in zip(leaves[level] or (), parts, strict=False)
        )
        for level in learning
    }
    return logits.detach(), gradients, _detached(end)


def _detached(context: Context) -> Context:
    return map_tensors(Tensor.detach, context)
