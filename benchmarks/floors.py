"""Upper bounds of a machine: bytes over its measured bandwidth, operations over its rate.

Beside a figure stands what it would be if nothing but these bytes were read, or these operations
done, with the threads and in the precision of the run, by the clock that the figure is taken by.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.weights import BaseModel

Clock = Callable[[], float]
_READ_BYTES = 256 << 20
_WIDTH = 1024
_ROUNDS = 5


def read_bytes_per_second(clock: Clock = time.process_time) -> float:
    """Bandwidth of reading main memory in order."""
    values = torch.ones(_READ_BYTES // 4)
    return _READ_BYTES / _median_seconds(values.sum, clock)


def operations_per_second(model: BaseModel, clock: Clock = time.process_time) -> float:
    """Additions and multiplications of a square product in the model's precision."""
    a, b = (torch.ones(_WIDTH, _WIDTH, dtype=model.dtype) for _ in range(2))
    return 2 * _WIDTH**3 / _median_seconds(lambda: a @ b, clock)


def decoding_floor(
    model: BaseModel,
    adapters: Sequence[ServedAdapter | None],
    windows: Sequence[int] = (),
    clock: Clock = time.process_time,
) -> float:
    """Tokens per second that reading the bytes of a step allows: the weights once, and each row's
    adapter and window, whose lengths in tokens are `windows`."""
    config = model.config
    weights = sum(tensor.nbytes for _, tensor in model.weights.named())
    private = sum(adapter.nbytes for adapter in adapters if adapter is not None)
    token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * model.dtype.itemsize
    read = weights + private + token * sum(windows)
    return len(adapters) * read_bytes_per_second(clock) / read


def reading_floor(model: BaseModel, clock: Clock = time.process_time) -> float:
    """Tokens per second that the operations of a forward pass allow, without attention and head."""
    return operations_per_second(model, clock) / (2 * _block_values(model))


def training_floor(model: BaseModel, clock: Clock = time.process_time) -> float:
    """Tokens per second that a pass forward and one backward through frozen weights allow."""
    return reading_floor(model, clock) / 2


def _block_values(model: BaseModel) -> int:
    return sum(
        tensor.numel()
        for layer in model.weights.layers
        for tensor in (layer.qkv, layer.out, layer.gate_up, layer.down)
    )


def _median_seconds(work: Callable[[], object], clock: Clock) -> float:
    spent = []
    for _ in range(_ROUNDS + 1):
        started = clock()
        work()
        spent.append(clock() - started)
    return statistics.median(spent[1:])  # the first one warms up
