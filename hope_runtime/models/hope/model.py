"""The forward pass of a HOPE model: a pure function of (weights, context, tokens).

One implementation for training (differentiable, any batch) and for streaming: a stream may be cut
anywhere, and the context carries what the next piece needs. Rows are independent: they may stand at
different places, be padded at their ends, and bring their own levels. Leaves learning in context to
stream.py.

Shape suffixes: B rows, T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.cms import Theta, chain
from hope_runtime.layers.norm import rms_norm
from hope_runtime.layers.titans import titans_memory
from hope_runtime.layers.titans_state import RunPlan, TitansState, cut_runs, fresh
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.weights import HopeWeights
from hope_runtime.models.hope.window import KeysValues, Sight, attention


@dataclass(frozen=True, slots=True)
class LayerContext:
    """State that one block carries along a stream."""

    window: KeysValues | None
    fast: TitansState | None


@dataclass(frozen=True, slots=True)
class Context:
    """State that a model carries along the streams of B rows, of a size constant in their length.

    position_B counts tokens read and written_B those that wrote to the fast memories; int64, CPU.
    """

    position_B: Tensor
    written_B: Tensor
    layers: tuple[LayerContext, ...]

    @property
    def rows(self) -> int:
        """B."""
        return len(self.position_B)


# The rows' own weights of each level, or None where all rows still have theta_0.
Thetas = tuple[Theta | None, ...]


def fresh_context(config: HopeConfig, weights: HopeWeights, rows: int) -> Context:
    """The context before the first token. Shares the memories' storage with the weights."""
    layers = []
    for block in weights.blocks:
        window = None
        if config.attention:
            window = KeysValues.empty(config.backbone, rows, weights.embedding)
        fast = None
        if config.fast is not None:
            assert block.fast is not None
            fast = fresh(config.fast, block.fast, rows)
        layers.append(LayerContext(window, fast))
    zeros = torch.zeros(rows, dtype=torch.int64)
    return Context(zeros, zeros, tuple(layers))


def forward(
    config: HopeConfig,
    weights: HopeWeights,
    ids_BT: Tensor,
    context: Context | None = None,
    *,
    thetas: Thetas | None = None,
    write_BT: Tensor | None = None,
    lengths_B: Tensor | None = None,
) -> tuple[Tensor, Context]:
    """Logits of the next token (B, T, V) and the context after the tokens.

    `ids_BT` (int64) are read behind `context`, None for the start of a stream. Tokens where
    `write_BT` (bool) is False are read and leave the fast memories as they are; None writes all.
    With `lengths_B` (int64, CPU) only the first so many tokens of a row exist: what lies behind
    them changes nothing, and their logits mean nothing. `thetas` are the rows' own levels; None is
    theta_0. Differentiable with respect to weights, levels and context.
    """
    hidden, context = hidden_states(
        config,
        weights,
        ids_BT,
        context,
        thetas=thetas,
        write_BT=write_BT,
        lengths_B=lengths_B,
    )
    return logits(weights, hidden), context


def logits(weights: HopeWeights, hidden: Tensor) -> Tensor:
    """Logits of the next token, (..., D) -> (..., V)."""
    head = weights.embedding if weights.lm_head is None else weights.lm_head
    return nnf.linear(hidden, head)


def hidden_states(
    config: HopeConfig,
    weights: HopeWeights,
    ids_BT: Tensor,
    context: Context | None = None,
    *,
    thetas: Thetas | None = None,
    write_BT: Tensor | None = None,
    lengths_B: Tensor | None = None,
) -> tuple[Tensor, Context]:
    """Hidden states after the final norm, (B, T, D); otherwise as `forward`."""
    B, T = ids_BT.shape
    assert T, "a pass needs at least one token"
    if context is None:
        context = fresh_context(config, weights, B)
    backbone, device = config.backbone, weights.device
    if lengths_B is not None:
        if bool((lengths_B == T).all()):
            lengths_B = None
        else:
            exists = torch.arange(T) < lengths_B[:, None]
            write_BT = exists if write_BT is None else write_BT.cpu() & exists
    if write_BT is not None and bool(write_BT.all()):
        write_BT = None
    plan = RunPlan((), None, None)
    if config.fast is not None:
        runs = cut_runs(config.fast, context.written_B, write_BT, T)
        plan = RunPlan(
            runs,
            None if write_BT is None else write_BT.to(device),
            None if lengths_B is None else lengths_B.to(device),
            silent=write_BT is not None and not bool(write_BT.any()),
        )
    sight = None
    if (first := context.layers[0].window) is not None:
        sight = Sight.of(backbone, config.window, first, context.position_B, lengths_B, T)
    x_BTD = nnf.embedding(ids_BT, weights.embedding)
    layers = []
    places = [0] * len(config.levels)
    for index, (block, layer) in enumerate(zip(weights.blocks, context.layers, strict=True)):
        window, fast = layer.window, layer.fast
        if block.attention is not None:
            assert sight is not None
            assert window is not None
            added, window = attention(
                x_BTD, config=backbone, weights=block.attention, window=window, sight=sight
            )
            x_BTD = x_BTD + added
        if block.fast is not None:
            assert config.fast is not None
            assert fast is not None
            # Memories add up over a stream: their state and arithmetic keep the weights' dtype.
            with torch.autocast(device.type, enabled=False):
                added, fast = titans_memory(
                    x_BTD,
                    config=config.fast,
                    weights=block.fast,
                    state=fast,
                    plan=plan,
                    eps=backbone.norm_eps,
                )
            x_BTD = x_BTD + added
        own: list[Theta | None] = []
        for level in config.levels_of(index):
            theta = None if thetas is None else thetas[level]
            at = places[level]
            own.append(None if theta is None else theta[at : at + 2])
            places[level] = at + 2
        x_BTD = chain(x_BTD, block.levels, own, config.variant, block.mix, backbone.norm_eps)
        layers.append(LayerContext(window, fast))
    read = T if lengths_B is None else lengths_B
    written = read if write_BT is None else write_BT.cpu().sum(1)
    after = Context(context.position_B + read, context.written_B + written, tuple(layers))
    return rms_norm(x_BTD, weights.final_norm, backbone.norm_eps), after
