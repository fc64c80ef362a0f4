"""Update rules by the names that configurations use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hope_runtime.errors import HyperparameterError, UnknownRuleError
from hope_runtime.optim.adam import Adam, ElementwiseMemory
from hope_runtime.optim.deep_momentum import DeepMomentum
from hope_runtime.optim.gradient_descent import DeltaGradientDescent, GradientDescent
from hope_runtime.optim.momentum import DeltaMomentum, Momentum, ValuedMomentum
from hope_runtime.optim.muon import M3, Muon
from hope_runtime.optim.rule import UpdateRule

RULES: Mapping[str, type[UpdateRule]] = {
    "gd": GradientDescent,
    "dgd": DeltaGradientDescent,
    "momentum": Momentum,
    "valued_momentum": ValuedMomentum,
    "delta_momentum": DeltaMomentum,
    "dmgd": DeepMomentum,
    "elementwise": ElementwiseMemory,
    "adam": Adam,
    "muon": Muon,
    "m3": M3,
}


def make_rule(name: str, hyperparameters: Mapping[str, Any] | None = None) -> UpdateRule:
    """The rule called `name` with the given hyper-parameters, its defaults for the others.

    Raises UnknownRuleError, and HyperparameterError for one that the rule does not have or that
    is out of its range.
    """
    if name not in RULES:
        raise UnknownRuleError(
            f"update rule {name!r} does not exist; available rules: {', '.join(RULES)}"
        )
    kind = RULES[name]
    given = hyperparameters or {}
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise HyperparameterError(f"{name} has no hyper-parameter {key!r}; {has}")
    return kind(**given)
