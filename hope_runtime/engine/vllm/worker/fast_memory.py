"""The trained fast memory inside vLLM's worker: read by each row's tokens, written by nobody here.

Within a turn a fast memory is a constant (it is written at boundaries, by the Learner), so nothing
of it has to live in vLLM's blocks. What changes from token to token is what queries are made of: a
token's own input and those of the few tokens before it. Those depend on the text alone, as keys and
values do, and are kept like them: one input for each slot of vLLM's own blocks, found through the
row's block table. So prefix caching, chunked prefill, preemption and batching need no care.

vLLM 0.32.0, eager: hooks see the residual stream of Llama's layers as (hidden, residual).

Shape suffixes: N tokens of the step, T tokens of a row, S slots, D model width, X values a token at
the sources, R width of an input, W taps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.forward_context import get_forward_context

from hope_runtime.engine.fast_memory import find_of_rows
from hope_runtime.models.fast_memory.memory import inputs
from hope_runtime.models.fast_memory.weights import FastMemory

# Where the number of a request's memory travels in vLLM's parameters.
KEY = "hope_memory"


class PagedFastMemory:
    """One fast memory beside one model runner's model, which must not be compiled."""

    def __init__(self, fast_memory: FastMemory, model_runner: Any) -> None:
        self._fast_memory = fast_memory
        self._runner = model_runner
        # By the number that a request carries: (H, V, K), float32.
        self.memories: dict[int, Tensor] = {}
        self._inputs_SR: Tensor | None = None
        self._block_tokens = 0
        self._seen: list[Tensor] = []
        model = model_runner.model.model
        config = fast_memory.config
        assert config.target == len(model.layers), (
            "the output of a fast memory must be added after the last layer"
        )
        for index in config.sources:
            place = model.norm if index == config.target else model.layers[index]
            place.register_forward_pre_hook(self._see)
        model.norm.register_forward_pre_hook(self._add)

    def _see(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        hidden_ND, residual_ND = arguments[-2:]
        self._seen.append(hidden_ND if residual_ND is None else hidden_ND + residual_ND)

    def _add(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        seen, self._seen = self._seen, []
        found = get_forward_context().attn_metadata
        if not found:  # vLLM measures what a step takes
            return None
        metadata = next(iter(found.values()))
        hidden_ND, residual_ND = arguments
        count = metadata.num_actual_tokens
        seen_NX = torch.cat(seen, dim=-1)[:count]
        input_NR = inputs(self._fast_memory.config, self._fast_memory.weights, seen_NX[None])[0]
        slots_SR = self._slots()
        slots_SR[metadata.slot_mapping[:count]] = input_NR
        memories = [self._memory_of(request) for request in self._runner.input_batch.req_ids]
        if all(memory is None for memory in memories):
            return None
        starts, lengths = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
        taps = [
            self._taps(slots_SR, metadata.block_table[row], starts[row + 1] - start, lengths[row])
            for row, start in enumerate(starts[: len(memories)])
        ]
        added_ND = find_of_rows(self._fast_memory, taps, memories)
        hidden_ND = hidden_ND.clone()
        hidden_ND[:count] += added_ND.to(hidden_ND.dtype)
        return hidden_ND, residual_ND

    def _memory_of(self, request: str) -> Tensor | None:
        extra = self._runner.requests[request].sampling_params.extra_args or {}
        # A number that is not there is a bug of the server's, and must not read as "none".
        return self.memories[extra[KEY]] if KEY in extra else None

    def _slots(self) -> Tensor:
        if self._inputs_SR is None:
            cache = self._runner.vllm_config.cache_config
            self._block_tokens = cache.block_size
            slots = cache.num_gpu_blocks * cache.block_size
            self._inputs_SR = torch.zeros(slots, self._fast_memory.config.input_width)
        return self._inputs_SR

    def _taps(self, slots_SR: Tensor, blocks: Tensor, read: int, length: int) -> Tensor:
        """Inputs of a row's last `read` tokens behind those of the W - 1 before them; zeros stand
        before the first token of a window. (W - 1 + T, R)"""
        first = length - read - (self._fast_memory.config.taps - 1)
        places = torch.arange(max(first, 0), length)
        blocks_of = blocks[places // self._block_tokens].long()
        taps = slots_SR[blocks_of * self._block_tokens + places % self._block_tokens]
        return taps if first >= 0 else torch.cat([taps.new_zeros(-first, taps.shape[1]), taps])
