"""Adapter strategies of the decoder block: none, one for all tokens, or one for each row.

The effective weight of a matrix is W + B A. It is never formed: W x + B (A x) costs two thin
products, where B A would cost a full matrix for each layer and session.

Shape suffixes: N tokens of all rows, B rows of one token, D model width, F MLP width, R rank,
L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.lora import AdapterTensors, LayerAdapter, LoraAdapter, split_layers
from hope_runtime.models.decoder.weights import BaseModel


class NoAdapter:
    """The frozen base model, bit for bit."""

    def gate_up(self, layer: int, x: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and up unchanged."""
        return gate, up

    def down(self, layer: int, h: Tensor, out: Tensor) -> Tensor:
        """The output unchanged."""
        return out


class OneAdapter:
    """One adapter for every token; differentiable with respect to its tensors."""

    def __init__(self, adapter: AdapterTensors) -> None:
        self._layers = split_layers(adapter)

    def gate_up(self, layer: int, x: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and up with the adapter's terms added, (.., F) each."""
        gate_a, gate_b, up_a, up_b, _, _ = self._layers[layer]
        gate = gate + _low_rank(x, gate_a, gate_b)
        return gate, up + _low_rank(x, up_a, up_b)

    def down(self, layer: int, h: Tensor, out: Tensor) -> Tensor:
        """The output with the adapter's term added, (.., D)."""
        *_, down_a, down_b = self._layers[layer]
        return out + _low_rank(h, down_a, down_b)


def adapter_strategy(adapter: AdapterTensors | None) -> NoAdapter | OneAdapter:
    """The strategy for one adapter or none."""
    return NoAdapter() if adapter is None else OneAdapter(adapter)


class AdapterStack:
    """The adapters of rows that decode together, stacked so that one product serves all.

    Rows of a smaller rank, or without an adapter, are padded with zeros, which add exactly nothing.
    Gate and up read the same input, so their first factors are stored together. The tensors are
    gate_up_a (L, B, 2R, D), gate_b and up_b (L, B, R, F), down_a (L, B, R, F), down_b (L, B, R, D);
    second factors have their rank first, which is the fastest layout for a single token.
    """

    def __init__(self, model: BaseModel, rows: Sequence[LoraAdapter | None]) -> None:
        config, B = model.config, len(rows)
        L, D, F = config.n_layers, config.d_model, config.d_ff
        self.rank = R = max((adapter.rank for adapter in rows if adapter is not None), default=0)
        if not R:
            return

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(L, B, *shape, dtype=model.dtype, device=model.device)

        gate_up_a, gate_b, up_b = zeros(2 * R, D), zeros(R, F), zeros(R, F)
        down_a, down_b = zeros(R, F), zeros(R, D)
        for row, adapter in enumerate(rows):
            if adapter is None:
                continue
            r = adapter.rank
            gate_up_a[:, row, :r], gate_up_a[:, row, R : R + r] = adapter.gate_a, adapter.up_a
            gate_b[:, row, :r], up_b[:, row, :r] = adapter.gate_b.mT, adapter.up_b.mT
            down_a[:, row, :r], down_b[:, row, :r] = adapter.down_a, adapter.down_b.mT
        tensors = (gate_up_a, gate_b, up_b, down_a, down_b)
        self._layers = list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))

    def gate_up(
        self, layer: int, x_BD: Tensor, gate_BF: Tensor, up_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gate and up with each row's own terms added, (B, F) each."""
        if not self.rank:
            return gate_BF, up_BF
        gate_up_a, gate_b, up_b, _, _ = self._layers[layer]
        # On a CPU a product with the vector on the left is two to four times as fast.
        inner_B12R = torch.bmm(x_BD[:, None], gate_up_a.mT)
        gate_BF = gate_BF + torch.bmm(inner_B12R[..., : self.rank], gate_b)[:, 0]
        up_BF = up_BF + torch.bmm(inner_B12R[..., self.rank :], up_b)[:, 0]
        return gate_BF, up_BF

    def down(self, layer: int, h_BF: Tensor, out_BD: Tensor) -> Tensor:
        """The output with each row's own term added, (B, D)."""
        if not self.rank:
            return out_BD
        _, _, _, down_a, down_b = self._layers[layer]
        inner_B1R = torch.bmm(h_BF[:, None], down_a.mT)
        return out_BD + torch.bmm(inner_B1R, down_b)[:, 0]


class RowAdapters:
    """The adapters of a batch: `stack` for its B leading rows of one token, and one adapter or None
    for each of the longer rows behind them, whose lengths in tokens are `lengths`.

    Not differentiable: the terms of the longer rows are added in place.
    """

    def __init__(
        self,
        stack: AdapterStack,
        B: int,
        adapters: Sequence[LoraAdapter | None],
        lengths: Sequence[int],
    ) -> None:
        self._stack = stack
        self._B = B
        self._long: list[tuple[slice, list[LayerAdapter]]] = []
        start = B
        for adapter, length in zip(adapters, lengths, strict=True):
            if adapter is not None:
                self._long.append((slice(start, start + length), split_layers(adapter)))
            start += length

    def gate_up(
        self, layer: int, x_ND: Tensor, gate_NF: Tensor, up_NF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gate and up with each row's own terms added, (N, F) each."""
        if self._stack.rank:
            B = self._B
            gate_BF, up_BF = self._stack.gate_up(layer, x_ND[:B], gate_NF[:B], up_NF[:B])
            gate_NF = torch.cat([gate_BF, gate_NF[B:]])
            up_NF = torch.cat([up_BF, up_NF[B:]])
        for tokens, layers in self._long:
            gate_a, gate_b, up_a, up_b, _, _ = layers[layer]
            gate_NF[tokens] += _low_rank(x_ND[tokens], gate_a, gate_b)
            up_NF[tokens] += _low_rank(x_ND[tokens], up_a, up_b)
        return gate_NF, up_NF

    def down(self, layer: int, h_NF: Tensor, out_ND: Tensor) -> Tensor:
        """The output with each row's own term added, (N, D)."""
        if self._stack.rank:
            B = self._B
            out_ND = torch.cat([self._stack.down(layer, h_NF[:B], out_ND[:B]), out_ND[B:]])
        for tokens, layers in self._long:
            *_, down_a, down_b = layers[layer]
            out_ND[tokens] += _low_rank(h_NF[tokens], down_a, down_b)
        return out_ND


def _low_rank(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """B (A x), (.., in) -> (.., out)."""
    return nnf.linear(nnf.linear(x, a), b)
