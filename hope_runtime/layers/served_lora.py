"""An adapter as it is served: laid out so that a token's products read it once, in order.

Shape suffixes: L layers, R rank, D model width, F MLP width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
