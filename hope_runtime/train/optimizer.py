"""Optimisers of the outer loop by name, and their state as tensors and plain values.

One place to name another optimiser; the loop knows only torch.optim.Optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hope_runtime.train.config import TrainConfig

Groups = list[dict[str, Any]]


def _adamw(groups: Groups, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), foreach=True
    )


OPTIMIZERS: Mapping[str, Callable[[Groups, TrainConfig], torch.optim.Optimizer]] = {"adamw": _adamw}


def make_optimizer(named: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser over weights by their names. Raises ValueError for a name that is not known.

    Weight decay pulls on matrices of static layers; norms, gates, convolutions and the states in
    which memories begin have no reason to be near zero.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"{config.optimizer!r} is no optimizer; there are {', '.join(OPTIMIZERS)}")
    decayed = {name for name, tensor in named.items() if _is_decayed(name, tensor)}
    groups = [
        {
            "params": [tensor for name, tensor in named.items() if name in decayed],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [tensor for name, tensor in named.items() if name not in decayed],
            "weight_decay": 0.0,
        },
    ]
    return OPTIMIZERS[config.optimizer]([group for group in groups if group["params"]], config)


def _is_decayed(name: str, tensor: Tensor) -> bool:
    return tensor.dim() == 2 and name.rpartition(".")[2] != "conv"


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimiser's own memory: tensors under "index.name", and values that JSON can hold."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, slots in optimizer.state_dict()["state"].items():
        for name, slot in slots.items():
            if isinstance(slot, Tensor):
                tensors[f"{index}.{name}"] = slot.detach().cpu().contiguous()
            else:
                values[f"{index}.{name}"] = slot
    return tensors, values


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """The inverse of `optimizer_state`, into a fresh optimiser over the same weights."""
    state: dict[int, dict[str, Any]] = {}
    for key, slot in [*tensors.items(), *values.items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = slot
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
