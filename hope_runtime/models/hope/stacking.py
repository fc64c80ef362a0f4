"""Level stacking: a pretrained Transformer whose MLPs become levels of memory, in place.

Nested Learning, section 7.3, in the reading that adds no parameter: each block keeps its MLP, and
that MLP becomes a level with a period of its own, or stays static. With learning rates of zero it
is the pretrained model. Attention stays untouched.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.layers.cms import LevelWeights
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.config import HopeConfig, HopeLevel
from hope_runtime.models.hope.weights import AttentionWeights, BlockWeights, HopeWeights


def stack_levels(
    base: BaseModel,
    levels: Sequence[tuple[int, float]],
    layer_level: Sequence[int],
    *,
    window: int = 0,
) -> tuple[HopeConfig, HopeWeights]:
    """The base as a HOPE model whose layer i learns at level layer_level[i].

    `levels` are (period in tokens, learning rate) from fast to slow; a period of 0 is a static
    MLP and comes last. The paper gives no map from layers to levels. `window` defaults to the
    positions that the base knows. Weights are shared, not copied. Raises UnsupportedModelError.
    """
    config, weights = base.config, base.weights
    if len(layer_level) != config.n_layers:
        raise UnsupportedModelError(
            f"layer_level has {len(layer_level)} entries, but the model has {config.n_layers} "
            "layers"
        )
    if not config.is_plain:
        raise UnsupportedModelError(
            f"levels can be stacked on Llama's block only, but {base.name or 'the model'} has "
            f"{', '.join(config.later_fields())}"
        )
    native = HopeConfig(
        config,
        levels=tuple(HopeLevel(period, config.d_ff, rate) for period, rate in levels),
        attention=True,
        layer_levels=tuple((level,) for level in layer_level),
        window=window or config.max_positions,
    )
    blocks = tuple(
        BlockWeights(
            attention=AttentionWeights(
                _there(layer.attn_norm), layer.qkv, layer.out, layer.qkv_bias, layer.out_bias
            ),
            fast=None,
            levels=(LevelWeights(_there(layer.mlp_norm), layer.gate_up, layer.down),),
            mix=None,
        )
        for layer in weights.layers
    )
    head = None if weights.lm_head is weights.embedding else weights.lm_head
    return native, HopeWeights(weights.embedding, blocks, weights.final_norm, head)


def _there(norm: Tensor | None) -> Tensor:
    assert norm is not None
    return norm
