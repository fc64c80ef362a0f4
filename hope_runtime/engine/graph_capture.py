"""Captures a function of fixed tensors as a CUDA graph; elsewhere it is called as it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

_Result = TypeVar("_Result")
# Libraries choose their algorithms and allocate their workspaces in the first calls.
_WARM_UP_CALLS = 3


class Captured(Generic[_Result]):
    """`compute`, whose inputs and outputs are tensors that stay where they are.

    On CUDA it is captured now, which calls it a few times, and `replay` launches it as one graph:
    nothing of its Python runs again. On other devices `replay` calls it.
    """

    def __init__(self, compute: Callable[[], _Result], device: torch.device) -> None:
        self._compute = compute
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type != "cuda":
            return
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):
                compute()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Learning may launch work on another thread meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = compute()

    def replay(self) -> _Result:
        """The result for what the inputs hold now; the next replay overwrites it."""
        if self._graph is None:
            return self._compute()
        self._graph.replay()
        return self._result
