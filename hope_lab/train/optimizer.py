"""Optimisers of the outer loop by name, and their state as tensors and plain values.

AdamW is torch's own; every other name is an update rule of `hope_runtime.optim`, the same code that
a level learns with. The loop knows only torch.optim.Optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hope_lab.train.config import TrainConfig
from hope_runtime.errors import HyperparameterError, UnknownRuleError
from hope_runtime.optim.outer import OuterOptimizer
from hope_runtime.optim.registry import RULES

Groups = list[dict[str, Any]]
# Rules that turn a matrix as a whole, so that its length says nothing: the customary place of
# everything else is Adam.
_OF_MATRICES = ("muon", "m3")
# One rate then fits the matrices and what Adam moves: a step of Muon has the size of one of Adam.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"muon": {"scale": "match_rms_adamw"}}


def _adamw(groups: Groups, config: TrainConfig) -> torch.optim.Optimizer:
    if config.hyperparameters:
        raise HyperparameterError("adamw accepts no hyper-parameters except beta1 and beta2")
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, foreach=True)


def _rule(name: str) -> Callable[[Groups, TrainConfig], torch.optim.Optimizer]:
    def make(groups: Groups, config: TrainConfig) -> torch.optim.Optimizer:
        if name in _OF_MATRICES:
            adam = {"rule": "adam", "hyperparameters": _adam_of(config)}
            groups = [group if group["matrices"] else group | adam for group in groups]
        chosen = {**_DEFAULTS.get(name, {}), **config.hyperparameters}
        return OuterOptimizer(groups, name, lr=config.learning_rate, **chosen)

    return make


def _adam_of(config: TrainConfig) -> dict[str, float]:
    return {"beta1": config.beta1, "beta2": config.beta2}


# What `dgd` needs, the inputs of every linear layer, a functional model does not keep.
OPTIMIZERS: Mapping[str, Callable[[Groups, TrainConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    **{name: _rule(name) for name, rule in RULES.items() if not rule.needs_inputs},
}


def make_optimizer(named: Mapping[str, Tensor], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser over weights by their names.

    Raises UnknownRuleError, and HyperparameterError for hyperparameters that the optimiser does
    not have or that are out of their range.

    Weight decay pulls on matrices of static layers; norms, gates, convolutions and the states in
    which memories begin have no reason to be near zero. Rules for matrices get those same ones,
    without the tables of embeddings and scores, whose rows are no directions of one map.
    """
    if config.optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise UnknownRuleError(
            f"optimizer {config.optimizer!r} does not exist; available optimizers: {known}"
        )
    kinds: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, tensor in named.items():
        decayed = tensor.dim() == 2 and name.rpartition(".")[2] != "conv"
        kinds.setdefault((decayed, decayed and not _is_table(name)), []).append(tensor)
    groups = [
        {
            "params": tensors,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "matrices": matrices,
        }
        for (decayed, matrices), tensors in kinds.items()
    ]
    return OPTIMIZERS[config.optimizer](groups, config)


def _is_table(name: str) -> bool:
    return name in ("embedding", "lm_head") or name.startswith("readout.")


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
