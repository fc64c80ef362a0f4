"""The forward pass: a pure function of (base weights, adapter, window) -> hidden states.

Knows the order of the layers. Leaves one layer's work to block.py, sampling to engine/, and
learning to learning/, which trains through this very pass.

Shape suffixes: B rows, T new tokens, S keys (cached and new), D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.attention import soft_capped
from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.kernels.torch_kernels import Kernels, TorchKernels
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import AdapterTensors
from hope_runtime.models.decoder.adapters import adapter_strategy
from hope_runtime.models.decoder.attention import WindowAttention
from hope_runtime.models.decoder.block import Adapter, Attention, OnMlp, decoder_block
from hope_runtime.models.decoder.weights import BaseModel


class FastMemory(Protocol):
    """A module beside the blocks: it sees the residual stream and may add to it."""

    def at(self, layer: int, x: Tensor) -> Tensor:
        """The input of block `layer`, given the residual stream `x` before it, (B, T, D) or (N, D).

        Called with n_layers for the input of the final norm.
        """
        ...


def forward(
    model: BaseModel,
    ids_BT: Tensor,
    *,
    positions_BT: Tensor | None = None,
    cache: KVCache | None = None,
    adapter: AdapterTensors | None = None,
    mask_BTS: Tensor | None = None,
    fast_memory: FastMemory | None = None,
    on_mlp: OnMlp | None = None,
) -> Tensor:
    """Hidden states after the final norm, (B, T, D), in the dtype of the weights.

    `ids_BT` are token ids, int64, on the device of the weights.

    Without a mask, token t sees the S - T cached tokens and the new ones up to itself. A boolean
    `mask_BTS` (True where a token may look, at least once a row) replaces that rule: block-diagonal
    for packs of separate texts, or hiding the padding of rows of unequal length. `positions_BT`
    (int64) default to the tokens' place in the window; packs and padded rows give their own.

    With a cache, the new keys and values are appended and `cache.length` grows by T; not
    differentiable then. Without one, differentiable with respect to the adapter and to what a fast
    memory adds. Without adapter and fast memory, the plain base model bit for bit. `on_mlp` is
    called with the inputs of every MLP's matrices.

    Raises WindowOverflowError when the cache or the model's positions do not hold the tokens.
    """
    T = ids_BT.shape[1]
    attention = WindowAttention(model, T, cache=cache, positions_BT=positions_BT, mask_BTS=mask_BTS)
    hidden_BTD = run_blocks(
        model,
        ids_BT,
        attention=attention,
        adapter=adapter_strategy(adapter),
        fast_memory=fast_memory,
        on_mlp=on_mlp,
    )
    if cache is not None:
        cache.length += T
    return hidden_BTD


def run_blocks(
    model: BaseModel,
    ids: Tensor,
    *,
    attention: Attention,
    adapter: Adapter,
    kernels: Kernels | None = None,
    fast_memory: FastMemory | None = None,
    on_mlp: OnMlp | None = None,
) -> Tensor:
    """Embedding, every block and the final norm: ids (B, T) or (N,) -> (B, T, D) or (N, D)."""
    config, weights = model.config, model.weights
    kernels = kernels or TorchKernels()
    x = embed(model, ids)
    for index, layer in enumerate(weights.layers):
        if fast_memory is not None:
            x = fast_memory.at(index, x)
        x = decoder_block(
            x,
            config=config,
            weights=layer,
            layer=index,
            attention=attention,
            adapter=adapter,
            kernels=kernels,
            on_mlp=on_mlp,
        )
    if fast_memory is not None:
        x = fast_memory.at(config.n_layers, x)
    return kernels.rms_norm(x, weights.final_norm, config.norm_eps)


def embed(model: BaseModel, ids: Tensor) -> Tensor:
    """The input of the first block, (X,) -> (X, D)."""
    x = nnf.embedding(ids, model.weights.embedding)
    scale = model.config.embedding_scale
    return x if scale == 1.0 else x * scale


def logits(model: BaseModel, hidden: Tensor) -> Tensor:
    """Logits of the next token, (..., D) -> (..., V), in the dtype of the weights.

    Pass only the positions whose logits are needed: this product is a fifth of a small model's
    work.
    """
    # As a matrix: torch multiplies a strided (B, 1, D), the last states of prompts, hundreds of
    # times slower in bfloat16.
    head_VD = model.weights.lm_head
    products_NV = nnf.linear(hidden.reshape(-1, head_VD.shape[1]), head_VD)
    return finished_logits(model.config, products_NV.view(*hidden.shape[:-1], len(head_VD)))


def finished_logits(config: ModelConfig, products: Tensor) -> Tensor:
    """Logits from the products of hidden states with the head: divided and capped as the
    configuration says."""
    if config.logits_divisor != 1.0:
        products = products / config.logits_divisor
    return soft_capped(products, config.logits_softcap)
