"""Copies between the host and a device that neither side waits for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(
    values: Sequence[int] | Sequence[float] | Sequence[bool],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Values as a tensor, (len(values),); the host goes on while it is copied to a GPU."""
    return sent(torch.tensor(values, dtype=dtype), device)


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on a device; the host goes on while it is copied to a GPU."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopy:
    """A tensor's values on the host, whose copy begins now and is waited for when it is read."""

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = tensor.detach()
        if tensor.device.type == "cuda":
            # Pinned, for copies from a device into other memory are waited for.
            held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values = held.copy_(self._values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """The values, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.cpu()
