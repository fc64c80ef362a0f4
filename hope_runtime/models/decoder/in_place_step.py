"""The parts of a static step that read adapters and windows where they lie, by Triton's kernels.

The same as TableAdapters and SlotAttention (static_step.py), which gather them first. Needs Triton.

Shape suffixes: as in static_step.py.
"""

from __future__ import annotations

from torch import Tensor

from hope_runtime.layers.kernels.triton_kernels import add_low_rank, attend
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.models.decoder.static_step import AdapterTable, SlotWriter, StepInputs
from hope_runtime.models.decoder.weights import BaseModel


class InPlaceAdapters:
    """Adapter strategy: each row's own, read in the table."""

    def __init__(self, table: AdapterTable, rows_B: Tensor) -> None:
        self._table, self._rows_B = table, rows_B

    def gate_up(
        self, layer: int, x_BD: Tensor, gate_BF: Tensor, up_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gate and up, halves of one tensor in this order, with each row's own terms added."""
        B, F = gate_BF.shape
        across, along = gate_BF.stride()
        both_B2F = gate_BF.as_strided((B, 2, F), (across, F * along, along))
        first, second = self._table.gate_up_in[layer], self._table.gate_up_out[layer]
        added_B2F = add_low_rank(x_BD, both_B2F, first, second, self._rows_B)
        return added_B2F[:, 0], added_B2F[:, 1]

    def down(self, layer: int, h_BF: Tensor, out_BD: Tensor) -> Tensor:
        """The output with each row's own term added, (B, D)."""
        first, second = self._table.down_in[layer][:, None], self._table.down_out[layer][:, None]
        return add_low_rank(h_BF, out_BD[:, None], first, second, self._rows_B)[:, 0]


class InPlaceAttention:
    """Attention strategy: stores each row's key and value in its slot, and reads the slot as far as
    the row's window reaches."""

    def __init__(self, model: BaseModel, pool: KVPool, inputs: StepInputs) -> None:
        self._config = model.config
        self._slots_B, self._lengths_B = inputs.slots, inputs.lengths
        self._writer = SlotWriter(model, pool, inputs)

    def mix(self, layer: int, qkv_BX: Tensor) -> Tensor:
        """Attention of one layer, (B, (H+2G)*K) -> (B, H*K)."""
        config = self._config
        q_BHK, k_SGCK, v_SGCK = self._writer.write(layer, qkv_BX)
        return attend(
            q_BHK,
            k_SGCK,
            v_SGCK,
            self._slots_B,
            self._lengths_B,
            scale=config.attention_scale or config.head_dim**-0.5,
            softcap=config.attention_softcap,
            window=config.sliding_window if layer in config.sliding_layers else 0,
        )
