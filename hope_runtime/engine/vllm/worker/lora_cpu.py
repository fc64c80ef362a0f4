"""Low-rank terms of a batch on the CPU, each row its own.

The wrapper that vLLM 0.32.0 ships for the CPU reads terms at index -1 for a row without an adapter,
which is the last slot: in a batch of both kinds such a row silently computes with a stranger's
memory. This one leaves it alone. It also reads no weight twice: tokens that share an adapter are
one product, and rows of one token each are one batched product over the slots.

Shape suffixes: N tokens, S slots, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

# Runs of tokens up to this many are computed one after the other.
FEW_RUNS = 2


def install() -> None:
    """Every adapter layer that is made from now on uses `Rows`."""
    from vllm.platforms.cpu import CpuPlatform

    name = f"{Rows.__module__}.{Rows.__qualname__}"
    CpuPlatform.get_punica_wrapper = classmethod(lambda cls: name)


class Rows(PunicaWrapperCPU):  # type: ignore[misc]
    """Wrapper for linear layers only: those of the MLP are all that a memory changes."""

    def update_metadata(
        self,
        mapping: Any,
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        """Find the runs of tokens with one adapter in vLLM's mapping."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        slot_of = {adapter: slot for slot, adapter in enumerate(lora_index_to_id) if adapter}
        adapters = list(mapping.index_mapping)
        # Runs of neighbouring tokens with one adapter: slot, first, past the last.
        self._runs: list[tuple[int, int, int]] = []
        start = 0
        for at in range(1, len(adapters) + 1):
            if at == len(adapters) or adapters[at] != adapters[start]:
                if adapters[start] > 0:
                    self._runs.append((slot_of[adapters[start]], start, at))
                start = at
        slots = [slot for slot, _, _ in self._runs]
        single = all(stop - start == 1 for _, start, stop in self._runs)
        # One token for each adapter, and adapters for most of the slots up to the last.
        self._batched = (
            single
            and len(slots) > FEW_RUNS
            and len(set(slots)) == len(slots)
            and 4 * len(slots) >= 3 * (max(slots) + 1)
        )
        if self._batched:
            self._slots = torch.tensor(slots)
            self._rows = torch.tensor([start for _, start, _ in self._runs])
            self._reach = max(slots) + 1

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add each token's own terms to y, (N, out); x is (N, in). Stacks are (S, 1, R, in) and
        (S, 1, out, R)."""
        if not self._runs:
            return
        x = x.view(-1, x.shape[-1])
        y = y.view(-1, y.shape[-1])
        offset = 0
        for a_S1RI, b_S1OR, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            a_SRI, b_SOR = a_S1RI.squeeze(1), b_S1OR.squeeze(1)
            out_NO = y[:, offset : offset + size]
            if self._batched:
                # Inputs go to their slots, which is cheap; weights are read where they lie. The
                # vector stands on the left: on a CPU that order is two to three times as fast.
                x_S1I = x.new_zeros(self._reach, 1, x.shape[1])
                x_S1I[self._slots, 0] = x[self._rows]
                inner_S1R = torch.bmm(x_S1I, a_SRI[: self._reach].mT)
                added_SO = torch.bmm(inner_S1R, b_SOR[: self._reach].mT)[:, 0]
                out_NO[self._rows] += added_SO[self._slots] * scale
            else:
                for slot, start, stop in self._runs:
                    inner_NR = x[start:stop] @ a_SRI[slot].t()
                    out_NO[start:stop] += inner_NR @ b_SOR[slot].t() * scale
            offset += size
