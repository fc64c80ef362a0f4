"""An adapter as it is served: laid out so that a token's products read it once, in order.

Shape suffixes: L layers, P rows, R rank, D model width, F MLP width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.lora import AdapterTensors


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedAdapter:
    """The terms of a LoraAdapter; an AdapterTensors, too, whose tensors are views.

    Gate and up read the same input, so their factors lie together. Second factors have their rank
    first, which is the fastest layout for a single token.
    """

    gate_up_in: Tensor  # (L, 2R, D), gate before up
    gate_up_out: Tensor  # (L, 2, R, F)
    down_in: Tensor  # (L, R, F)
    down_out: Tensor  # (L, R, D)

    @classmethod
    def of(
        cls, adapter: AdapterTensors, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> ServedAdapter:
        """A copy of an adapter in this layout, in the precision and place of the base weights."""
        parts = (
            torch.cat([adapter.gate_a, adapter.up_a], dim=1),
            torch.stack([adapter.gate_b.mT, adapter.up_b.mT], dim=1),
            adapter.down_a,
            adapter.down_b.mT,
        )
        return cls(*(part.to(device, dtype).contiguous() for part in parts))

    @property
    def rank(self) -> int:
        """R."""
        return self.down_in.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(part.nbytes for part in self.tensors())

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, in the order of their declaration."""
        return self.gate_up_in, self.gate_up_out, self.down_in, self.down_out

    def addresses(self) -> tuple[int, ...]:
        """Addresses of the four tensors, which are contiguous."""
        return tuple(part.data_ptr() for part in self.tensors())

    # As AdapterTensors names them.

    @property
    def gate_a(self) -> Tensor:
        """(L, R, D)."""
        return self.gate_up_in[:, : self.rank]

    @property
    def gate_b(self) -> Tensor:
        """(L, F, R)."""
        return self.gate_up_out[:, 0].mT

    @property
    def up_a(self) -> Tensor:
        """(L, R, D)."""
        return self.gate_up_in[:, self.rank :]

    @property
    def up_b(self) -> Tensor:
        """(L, F, R)."""
        return self.gate_up_out[:, 1].mT

    @property
    def down_a(self) -> Tensor:
        """(L, R, F)."""
        return self.down_in

    @property
    def down_b(self) -> Tensor:
        """(L, D, R)."""
        return self.down_out.mT


class AdapterRows:
    """Adapters of several sessions in tensors of one rank, so that one product serves all.

    The tensors are those of ServedAdapter with rows behind the layers: gate_up_in (L, P, 2, R, D),
    gate_up_out (L, P, 2, R, F), down_in (L, P, R, F), down_out (L, P, R, D). What a row does not
    fill, and a row that nothing was written to, is zero, which adds exactly nothing.
    """

    def __init__(
        self, config: ModelConfig, rows: int, rank: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        D, F = config.d_model, config.d_ff

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(config.n_layers, rows, *shape, dtype=dtype, device=device)

        self.rank = rank
        self.gate_up_in, self.gate_up_out = zeros(2, rank, D), zeros(2, rank, F)
        self.down_in, self.down_out = zeros(rank, F), zeros(rank, D)

    @staticmethod
    def bytes_of(config: ModelConfig, rows: int, rank: int, dtype: torch.dtype) -> int:
        """Bytes of the tensors."""
        values = 3 * config.n_layers * rank * (config.d_model + config.d_ff)
        return rows * values * dtype.itemsize

    def write(self, row: int, adapter: ServedAdapter) -> None:
        """Put an adapter of at most this rank in the place of a row's."""
        r = adapter.rank
        assert r <= self.rank, "the rows are of a lower rank than the adapter"
        halves = adapter.gate_up_in.view(len(adapter.gate_up_in), 2, r, -1)
        for held, new in (
            (self.gate_up_in, halves),
            (self.gate_up_out, adapter.gate_up_out),
            (self.down_in, adapter.down_in),
            (self.down_out, adapter.down_out),
        ):
            held[:, row, ..., :r, :] = new
            held[:, row, ..., r:, :] = 0
