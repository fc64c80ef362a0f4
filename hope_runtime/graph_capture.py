"""Captures a function of fixed tensors as a CUDA graph; elsewhere it is called as it stands."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

_Result = TypeVar("_Result")
# Libraries choose their algorithms and allocate their workspaces in the first calls.
_WARM_UP_CALLS = 3
_TIMED_CALLS = 10
# A capture waits for the whole device first, which another thread's capture does not survive.
_one_at_a_time = threading.Lock()
_log = logging.getLogger(__name__)


def few_shapes(count: int, least: int = 1) -> int:
    """The next power of two, at least `least`, that a size is filled up to, so that few shapes are
    captured."""
    return max(least, 1 << (count - 1).bit_length())


class Captured(Generic[_Result]):
    """`compute`, whose inputs and outputs are tensors that stay where they are.

    On CUDA it is captured now, which calls it a few times, and `replay` launches it as one graph:
    nothing of its Python runs again. On other devices, and where the capture fails, which is
    logged, `replay` calls it. Functions whose results are never needed at once may share a `pool`,
    a torch.cuda.graph_pool_handle(), of memory.
    """

    def __init__(
        self, compute: Callable[[], _Result], device: torch.device, pool: Any = None
    ) -> None:
        self._compute = compute
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type != "cuda":
            return
        try:
            self._graph, self._result = self._capture(device, pool)
        except RuntimeError as error:
            _log.warning(
                "a step runs without a CUDA graph, slower, since capturing failed: %s", error
            )

    def _capture(self, device: torch.device, pool: Any) -> tuple[torch.cuda.CUDAGraph, _Result]:
        with _one_at_a_time, torch.cuda.device(device):
            here = torch.cuda.current_stream(device)
            # A graph's kernels have the priority of the stream on which they were captured.
            stream = torch.cuda.Stream(device, priority=here.priority)  # type: ignore[no-untyped-call]
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_CALLS):
                    self._compute()
            here.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may launch work meanwhile.
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                result = self._compute()
        return graph, result

    def replay(self) -> _Result:
        """The result for what the inputs hold now; the next replay overwrites it."""
        if self._graph is None:
            return self._compute()
        self._graph.replay()
        return self._result

    def milliseconds(self) -> float:
        """Time of a replay on the device, where there is a graph, in the mean of a few."""
        assert self._graph is not None, "only a graph is timed"
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        for _ in range(_TIMED_CALLS):
            self._graph.replay()
        ended.record()
        # Waits for these replays, not for the device.
        ended.synchronize()
        return float(began.elapsed_time(ended)) / _TIMED_CALLS
