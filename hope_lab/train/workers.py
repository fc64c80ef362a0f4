"""Processes that train one model together: each has some rows of a batch and all of the weights.

Knows torch.distributed and the environment that torchrun makes. One process without it is the
same code with nothing to add up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hope_lab.train.tasks.base import Batch
from hope_runtime.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among `count`; only the first writes files."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """This process's rows of a batch that all have drawn alike. Raises InvalidRequestError."""
        rows = len(batch.ids_BT)
        if rows % self.count:
            raise InvalidRequestError(
                f"{rows} rows cannot be divided evenly among {self.count} processes",
                field="batch_rows",
            )
        each = rows // self.count
        return batch.rows(slice(self.rank * each, (self.rank + 1) * each))

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor, in place, by its sum over the processes: one message for all."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined(device: str) -> Iterator[tuple[Workers, torch.device]]:
    """The processes that torchrun started, and this one's device; alone without torchrun."""
    chosen = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers(), chosen
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size()), chosen
    finally:
        dist.destroy_process_group()
