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

from hope_runtime.layers.kernels.native import Integers, NativeKernels
from hope_runtime.layers.lora import AdapterTensors, LayerAdapter, split_layers
from hope_runtime.layers.served_lora import AdapterRows, ServedAdapter
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
    """The adapters of rows that decode together, stacked as AdapterRows of the highest rank.

    Rows of a smaller rank, or without an adapter, are padded with zeros, which add exactly nothing.
    """

    def __init__(self, model: BaseModel, rows: Sequence[ServedAdapter | None]) -> None:
        self.rank = max((adapter.rank for adapter in rows if adapter is not None), default=0)
        if not self.rank:
            return
        held = AdapterRows(model.config, len(rows), self.rank, model.dtype, model.device)
        for row, adapter in enumerate(rows):
            if adapter is not None:
                held.write(row, adapter)
        tensors = (held.gate_up_in.flatten(2, 3), held.gate_up_out, held.down_in, held.down_out)
        self._layers = list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))

    def gate_up(
        self, layer: int, x_BD: Tensor, gate_BF: Tensor, up_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gate and up with each row's own terms added, (B, F) each."""
        if not self.rank:
            return gate_BF, up_BF
        gate_up_in, gate_up_out, _, _ = self._layers[layer]
        # On a CPU a product with the vector on the left is two to four times as fast.
        inner_B12R = torch.bmm(x_BD[:, None], gate_up_in.mT)
        gate_BF = gate_BF + torch.bmm(inner_B12R[..., : self.rank], gate_up_out[:, 0])[:, 0]
        up_BF = up_BF + torch.bmm(inner_B12R[..., self.rank :], gate_up_out[:, 1])[:, 0]
        return gate_BF, up_BF

    def down(self, layer: int, h_BF: Tensor, out_BD: Tensor) -> Tensor:
        """The output with each row's own term added, (B, D)."""
        if not self.rank:
            return out_BD
        _, _, down_in, down_out = self._layers[layer]
        inner_B1R = torch.bmm(h_BF[:, None], down_in.mT)
        return out_BD + torch.bmm(inner_B1R, down_out)[:, 0]


class NativeAdapters:
    """The adapters of rows that decode together, read where they lie by compiled kernels.

    Implements the methods of AdapterStack, but adds in place.
    """

    def __init__(self, kernels: NativeKernels, rows: Sequence[ServedAdapter | None]) -> None:
        self._kernels = kernels
        self._rows = rows  # which keeps the addresses valid
        ranks = [0 if adapter is None else adapter.rank for adapter in rows]
        self.rank = max(ranks, default=0)
        self._ranks = Integers.of(ranks)
        addresses = [
            (0, 0, 0, 0) if adapter is None else adapter.addresses() for adapter in rows
        ] or [()]
        self._addresses = [Integers.of(column) for column in zip(*addresses, strict=True)]

    def gate_up(
        self, layer: int, x_BD: Tensor, gate_BF: Tensor, up_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See AdapterStack.gate_up; gate and up are halves of one tensor, in this order."""
        if self.rank:
            a, b, _, _ = self._addresses
            both = gate_BF.as_strided((len(gate_BF), 2 * gate_BF.shape[1]), gate_BF.stride())
            self._kernels.add_low_rank(
                x_BD, both, parts=2, layer=layer, ranks=self._ranks, a=a, b=b
            )
        return gate_BF, up_BF

    def down(self, layer: int, h_BF: Tensor, out_BD: Tensor) -> Tensor:
        """See AdapterStack.down."""
        if self.rank:
            _, _, a, b = self._addresses
            self._kernels.add_low_rank(
                h_BF, out_BD, parts=1, layer=layer, ranks=self._ranks, a=a, b=b
            )
        return out_BD


class RowAdapters:
    """The adapters of a batch: `stack` for its B leading rows of one token, and one adapter or None
    for each of the longer rows behind them, whose lengths in tokens are `lengths`.

    Not differentiable: the terms of the longer rows are added in place.
    """

    def __init__(
        self,
        stack: AdapterStack | NativeAdapters,
        B: int,
        adapters: Sequence[ServedAdapter | None],
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
            gate_NF, up_NF = _with_first(gate_BF, gate_NF), _with_first(up_BF, up_NF)
        for tokens, layers in self._long:
            gate_a, gate_b, up_a, up_b, _, _ = layers[layer]
            gate_NF[tokens] += _low_rank(x_ND[tokens], gate_a, gate_b)
            up_NF[tokens] += _low_rank(x_ND[tokens], up_a, up_b)
        return gate_NF, up_NF

    def down(self, layer: int, h_NF: Tensor, out_ND: Tensor) -> Tensor:
        """The output with each row's own term added, (N, D)."""
        if self._stack.rank:
            B = self._B
            out_ND = _with_first(self._stack.down(layer, h_NF[:B], out_ND[:B]), out_ND)
        for tokens, layers in self._long:
            *_, down_a, down_b = layers[layer]
            out_ND[tokens] += _low_rank(h_NF[tokens], down_a, down_b)
        return out_ND


def _with_first(rows: Tensor, all_rows: Tensor) -> Tensor:
    """`all_rows` with `rows` in the place of its first ones."""
    B = len(rows)
    if rows.data_ptr() == all_rows.data_ptr():  # they were changed in place
        return all_rows
    return rows if len(all_rows) == B else torch.cat([rows, all_rows[B:]])


def _low_rank(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """B (A x), (.., in) -> (.., out)."""
    return nnf.linear(nnf.linear(x, a), b)
