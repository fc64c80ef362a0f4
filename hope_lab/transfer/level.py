"""A level: parameters that one update rule writes, every `period` steps (Eq. 71 with any f).

Immutable. Its state is named tensors, the optimiser's included. Knows no loss and no other level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hope_runtime.errors import CorruptStateError, GradientError
from hope_runtime.optim.hyperparameters import at_least, non_negative
from hope_runtime.optim.rule import State, UpdateRule, check_gradients, check_slots

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Level:
    """`parameters` change at multiples of `period` steps and nowhere else.

    `state` is the rule's. `summed` are the gradients since the last boundary, a sum and not a
    mean, and `inputs` the rows of each linear layer's inputs in that time, for rules that need
    them. The first `batch_dims` dimensions of all are rows that learn apart and step together.
    """

    parameters: Parameters
    rule: UpdateRule
    learning_rate: float
    period: int = 1
    batch_dims: int = 0
    steps: int = 0
    state: State = field(default_factory=dict)
    summed: Parameters = field(default_factory=dict)
    inputs: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        non_negative("learning_rate", self.learning_rate)
        at_least("period", self.period, 1)
        if not self.steps and not self.state:
            object.__setattr__(self, "state", self.rule.init(self.parameters, self.batch_dims))

    def receive(self, gradients: Parameters, inputs: Parameters | None = None) -> Level:
        """The level after one more step; it learns when this one ends its period.

        Raises GradientError; this level is never changed.
        """
        if gradients.keys() != self.parameters.keys():
            raise GradientError("the gradients of a level must have the names of its parameters")
        check_gradients((k, parameter, gradients[k]) for k, parameter in self.parameters.items())
        summed = {
            name: self.summed[name] + gradient if self.summed else gradient
            for name, gradient in gradients.items()
        }
        rows = {
            name: torch.cat((self.inputs[name], more), dim=-2) if name in self.inputs else more
            for name, more in (inputs or {}).items()
        }
        steps = self.steps + 1
        if steps % self.period:
            return replace(self, steps=steps, summed=summed, inputs=rows)
        parameters, state = self.rule.update(
            self.state,
            summed,
            self.parameters,
            self.learning_rate,
            batch_dims=self.batch_dims,
            inputs=rows if self.rule.needs_inputs else None,
        )
        return replace(self, parameters=parameters, state=state, steps=steps, summed={}, inputs={})

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes, by name, for a codec."""
        parts = {
            "parameters": self.parameters,
            "optimiser": self.state,
            "summed": self.summed,
            "inputs": self.inputs,
        }
        found = {
            f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()
        }
        return {**found, "steps": torch.tensor(self.steps)}

    def restored(self, tensors: Mapping[str, Tensor]) -> Level:
        """This level with what `tensors` holds.

        Raises CorruptStateError unless they have the names and shapes that this level's have.
        """
        parts: dict[str, dict[str, Tensor]] = {
            "parameters": {},
            "optimiser": {},
            "summed": {},
            "inputs": {},
        }
        for path, tensor in tensors.items():
            part, _, name = path.partition(".")
            if part in parts and name:
                parts[part][name] = tensor
            elif path != "steps":
                raise CorruptStateError(f"{path} is not the path of a linear layer or MLP")
        if "steps" not in tensors:
            raise CorruptStateError("the tensors of a level require its steps")
        shapes = {name: tensor.shape for name, tensor in self.parameters.items()}
        check_slots(parts["parameters"], shapes)
        check_slots(parts["optimiser"], {name: slot.shape for name, slot in self.state.items()})
        steps = int(tensors["steps"])
        check_slots(parts["summed"], shapes if steps % self.period else {})
        return replace(
            self,
            parameters=parts["parameters"],
            state=parts["optimiser"],
            summed=parts["summed"],
            inputs=parts["inputs"],
            steps=steps,
        )
