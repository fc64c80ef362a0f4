"""One decoded token for rows of different sessions, as a function of tensors of fixed shape.

Nothing is read back and no shape depends on the rows' content, so a step can be captured as a CUDA
graph and replayed; engine/static_decoder.py fills the tensors. Caches are the slots of one KVPool,
adapters the rows of one AdapterTable. Attention goes over whole slots, under a mask of what each
row's window holds. Rows are independent, as those of batched.py.

Serving only: not differentiable.

Shape suffixes: B rows of one token, L layers, S slots, C capacity of a slot, D model width, F MLP
width, R rank, H query heads, G key/value heads, K head width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import ref

import torch
from torch import Tensor

from hope_runtime.layers.attention import mix_heads, rotate
from hope_runtime.layers.kernels.torch_kernels import TorchRowKernels
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.layers.served_lora import AdapterRows, ServedAdapter
from hope_runtime.models.decoder.attention import as_bias, turns_at
from hope_runtime.models.decoder.block import Adapter, Attention
from hope_runtime.models.decoder.forward import FastMemory, run_blocks
from hope_runtime.models.decoder.weights import BaseModel


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The arguments of a step, int64, (B,) each.

    `ids` are the tokens that the rows read, `lengths` what their windows hold before, `slots` where
    those lie, and `adapters` rows of the AdapterTable. Rows that fill a batch up have a slot that
    no session uses.
    """

    ids: Tensor
    lengths: Tensor
    slots: Tensor
    adapters: Tensor

    @classmethod
    def of(cls, packed_4B: Tensor) -> StepInputs:
        """The four as rows of one tensor, which is copied to a device at once."""
        return cls(*packed_4B.unbind(0))


class AdapterTable(AdapterRows):
    """Adapters of the sessions that decode, resident in rows of the highest rank.

    Row 0 is the base model, and stays zero. A session that comes or goes changes its own row only.
    """

    def __init__(self, model: BaseModel, rows: int, rank: int) -> None:
        super().__init__(model.config, rows + 1, rank, model.dtype, model.device)
        self._free = list(range(rows, 0, -1))
        # The least recently used first. A row keeps no adapter alive that sessions have dropped.
        self._rows: OrderedDict[ref[ServedAdapter], int] = OrderedDict()

    def rows_of(self, adapters: Sequence[ServedAdapter | None]) -> list[int]:
        """The row of each adapter of a step, copied there first where it is new."""
        for adapter in adapters:
            if adapter is not None and ref(adapter) in self._rows:
                self._rows.move_to_end(ref(adapter))
        return [0 if adapter is None else self._row_of(adapter) for adapter in adapters]

    def _row_of(self, adapter: ServedAdapter) -> int:
        row = self._rows.get(ref(adapter))
        if row is None:
            row = self._free.pop() if self._free else self._rows.popitem(last=False)[1]
            self._rows[ref(adapter)] = row
            self.write(row, adapter)
        return row


class TableAdapters:
    """Adapter strategy: each row's own, gathered from the table."""

    def __init__(self, table: AdapterTable, rows_B: Tensor) -> None:
        self._table, self._rows_B = table, rows_B

    def gate_up(
        self, layer: int, x_BD: Tensor, gate_BF: Tensor, up_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gate and up with each row's own terms added, (B, F) each."""
        first = self._table.gate_up_in[layer].index_select(0, self._rows_B).flatten(1, 2)
        second = self._table.gate_up_out[layer].index_select(0, self._rows_B)
        inner_B2R = torch.bmm(first, x_BD[..., None]).view(len(x_BD), 2, -1)
        added_B2F = torch.matmul(inner_B2R[:, :, None], second)[:, :, 0]
        return gate_BF + added_B2F[:, 0], up_BF + added_B2F[:, 1]

    def down(self, layer: int, h_BF: Tensor, out_BD: Tensor) -> Tensor:
        """The output with each row's own term added, (B, D)."""
        first = self._table.down_in[layer].index_select(0, self._rows_B)
        second = self._table.down_out[layer].index_select(0, self._rows_B)
        inner_B1R = torch.bmm(first, h_BF[..., None]).mT
        return out_BD + torch.bmm(inner_B1R, second)[:, 0]


class SlotWriter:
    """Puts each row's key and value behind what its slot holds."""

    def __init__(self, model: BaseModel, pool: KVPool, inputs: StepInputs) -> None:
        self._config, self._pool = model.config, pool
        self._slots_B, self._lengths_B = inputs.slots, inputs.lengths
        self._turns = turns_at(model, inputs.lengths)

    def write(self, layer: int, qkv_BX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rows' queries, (B, H, K), turned, and the layer's keys and values of all slots,
        (S, G, C, K), which hold those of the rows from now on."""
        config = self._config
        H, G, K = config.n_heads, config.n_kv_heads, config.head_dim
        heads_BXK = qkv_BX.reshape(-1, H + 2 * G, K)
        turned = rotate(heads_BXK[:, : H + G], *self._turns[layer])
        k_SGCK, v_SGCK = self._pool.k[layer], self._pool.v[layer]
        k_SGCK[self._slots_B, :, self._lengths_B] = turned[:, H:]
        v_SGCK[self._slots_B, :, self._lengths_B] = heads_BXK[:, H + G :]
        return turned[:, :H], k_SGCK, v_SGCK


class SlotAttention:
    """Attention strategy: stores each row's key and value in its slot, and looks at the first
    `visible` places of it, as far as the row's window reaches."""

    def __init__(self, model: BaseModel, pool: KVPool, inputs: StepInputs, visible: int) -> None:
        config = model.config
        self._config, self._visible, self._slots_B = config, visible, inputs.slots
        self._writer = SlotWriter(model, pool, inputs)
        places_C = torch.arange(visible, device=inputs.lengths.device)
        seen_BC = places_C <= inputs.lengths[:, None]
        self._biases = [as_bias(seen_BC[:, None, None], model.dtype)] * config.n_layers
        if config.sliding_window:
            near_BC = seen_BC & (places_C > inputs.lengths[:, None] - config.sliding_window)
            near = as_bias(near_BC[:, None, None], model.dtype)
            for layer in config.sliding_layers:
                self._biases[layer] = near

    def mix(self, layer: int, qkv_BX: Tensor) -> Tensor:
        """Attention of one layer, (B, (H+2G)*K) -> (B, H*K)."""
        config = self._config
        q_BHK, k_SGCK, v_SGCK = self._writer.write(layer, qkv_BX)
        mixed_B1X = mix_heads(
            q_BHK[:, :, None],
            k_SGCK[:, :, : self._visible].index_select(0, self._slots_B),
            v_SGCK[:, :, : self._visible].index_select(0, self._slots_B),
            causal=False,
            bias=self._biases[layer],
            scale=config.attention_scale,
            softcap=config.attention_softcap,
        )
        return mixed_B1X[:, 0]


@torch.no_grad()
def static_step(
    model: BaseModel,
    pool: KVPool,
    table: AdapterTable,
    inputs: StepInputs,
    visible: int,
    fast_memory: FastMemory | None = None,
    *,
    in_place: bool = False,
) -> Tensor:
    """Hidden states after the final norm, (B, D); the slots hold one token more.

    All windows have less than `visible` tokens. `fast_memory` sees the rows' tokens, (B, D). With
    `in_place` Triton's kernels read adapters and windows where they lie, the same but for rounding.
    """
    attention: Attention
    adapter: Adapter
    if in_place:
        # Triton comes with torch's builds for GPUs only.
        from hope_runtime.models.decoder.in_place_step import InPlaceAdapters, InPlaceAttention

        attention = InPlaceAttention(model, pool, inputs)
        adapter = InPlaceAdapters(table, inputs.adapters)
    else:
        attention = SlotAttention(model, pool, inputs, visible)
        adapter = TableAdapters(table, inputs.adapters)
    return run_blocks(
        model,
        inputs.ids,
        attention=attention,
        adapter=adapter,
        kernels=TorchRowKernels(),
        fast_memory=fast_memory,
    )
