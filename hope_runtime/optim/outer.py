"""Update rules as a torch.optim.Optimizer, for outer loops: pretraining and memory training.

Adds to a rule what is an outer loop's: parameter groups, decoupled weight decay, closures and a
state_dict. A group may have a rule of its own, so one optimiser serves matrices with Muon and
gains with Adam:

  OuterOptimizer([{"params": matrices}, {"params": gains, "rule": "adam"}], "muon", lr=0.02)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn

from hope_runtime.errors import CorruptStateError, GradientError, HyperparameterError
from hope_runtime.optim.hyperparameters import non_negative, positive
from hope_runtime.optim.registry import make_rule
from hope_runtime.optim.rule import check_gradients, check_slots


class OuterOptimizer(torch.optim.Optimizer):
    """A rule of the registry over torch parameters.

    Each group holds "rule" and "hyperparameters" as plain values, beside "lr" and "weight_decay".
    The decay is decoupled: a parameter is multiplied by 1 - lr * weight_decay before its update.
    `inputs` is what `dgd` needs. A step raises GradientError, with nothing changed, when a gradient
    is not finite; parameters without a gradient are left alone.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        rule: str,
        *,
        lr: float,
        weight_decay: float = 0.0,
        inputs: LayerInputs | None = None,
        **hyperparameters: Any,
    ) -> None:
        self._inputs = inputs
        defaults = {
            "rule": rule,
            "hyperparameters": hyperparameters,
            "lr": lr,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises UnknownRuleError and HyperparameterError before anything is added."""
        group = dict(param_group)
        if group.get("rule", self.defaults["rule"]) != self.defaults["rule"]:
            # Another rule's hyper-parameters are not the default one's.
            group.setdefault("hyperparameters", {})
        self._check({**self.defaults, **group})
        super().add_param_group(group)

    def _check(self, group: dict[str, Any]) -> None:
        rule = make_rule(group["rule"], group["hyperparameters"])
        non_negative("lr", group["lr"])
        non_negative("weight_decay", group["weight_decay"])
        if rule.needs_inputs and self._inputs is None:
            raise HyperparameterError(f"{group['rule']} requires `inputs`, a LayerInputs object")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = []
        for index, group in enumerate(self.param_groups):
            # Schedulers change groups, so they are looked at again.
            self._check(group)
            rule = make_rule(group["rule"], group["hyperparameters"])
            for position, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    inputs = None
                    if rule.needs_inputs and self._inputs is not None:
                        inputs = self._inputs.of(parameter)
                    name = f"parameter {position} of group {index}"
                    work.append((name, parameter, rule, group, inputs))
        check_gradients((name, parameter, parameter.grad) for name, parameter, *_ in work)
        for _, parameter, rule, group, inputs in work:
            slots = self.state[parameter] or rule.start(parameter)
            value = parameter
            if group["weight_decay"]:
                value = parameter * (1 - group["lr"] * group["weight_decay"])
            new, slots = rule.step(value, parameter.grad, slots, group["lr"], inputs=inputs)
            self.state[parameter] = slots
            parameter.copy_(new)
        if self._inputs is not None:
            self._inputs.clear()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state exactly: torch alone would cast slots to the parameters' dtype.

        Raises CorruptStateError for one that does not fit these parameters; nothing is changed.
        """
        groups, saved = state_dict["param_groups"], state_dict["state"]
        if [len(g["params"]) for g in groups] != [len(g["params"]) for g in self.param_groups]:
            raise CorruptStateError("the stored state of the optimiser has other parameter groups")
        restored: list[tuple[Tensor, dict[str, Tensor]]] = []
        for group, own in zip(groups, self.param_groups, strict=True):
            if not group.keys() >= self.defaults.keys():
                raise CorruptStateError("the stored state belongs to another optimiser")
            self._check(group)
            rule = make_rule(group["rule"], group["hyperparameters"])
            for index, parameter in zip(group["params"], own["params"], strict=True):
                if index in saved:
                    check_slots(saved[index], rule.slot_shapes(parameter.shape))
                    restored.append((parameter, saved[index]))
        super().load_state_dict(state_dict)
        for parameter, slots in restored:
            for name, slot in slots.items():
                device = parameter.device if slot.is_floating_point() else slot.device
                self.state[parameter][name] = slot.detach().clone().to(device)


class LayerInputs:
    """Collects what enters the nn.Linear layers of a module, for rules that need it.

      with inputs.recording(weight=1 / targets):
          loss = mean loss over the targets
      loss.backward(); optimiser.step()

    `weight` is what one token's loss weighs in what is differentiated: 1 for a sum. Outside
    `recording` nothing is kept. A step clears what was collected; several recordings before a
    step add up, as their gradients do.
    """

    def __init__(self, module: nn.Module) -> None:
        self._weight: float | None = None
        self._rows: dict[Tensor, list[Tensor]] = {}
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                self._rows[layer.weight] = []
                layer.register_forward_pre_hook(self._collect)

    @contextmanager
    def recording(self, *, weight: float) -> Iterator[None]:
        """Collects the inputs of forward passes inside; raises HyperparameterError."""
        self._weight = positive("weight", weight)
        try:
            yield
        finally:
            self._weight = None

    def of(self, parameter: Tensor) -> Tensor | None:
        """Inputs (N, in) of the layer whose weight this is; None for other parameters.

        Raises GradientError when the layer ran outside `recording`, or its inputs are not finite.
        """
        if parameter not in self._rows:
            return None
        if not self._rows[parameter]:
            raise GradientError("a linear layer has a gradient but no recorded inputs")
        inputs_NI = torch.cat(self._rows[parameter])
        if not bool(inputs_NI.isfinite().all()):
            raise GradientError("the inputs of a linear layer are not finite")
        return inputs_NI

    def clear(self) -> None:
        for rows in self._rows.values():
            rows.clear()

    def _collect(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if self._weight is not None:
            weight = layer.get_parameter("weight")
            inputs_NI = arguments[0].detach().reshape(-1, weight.shape[-1])
            self._rows[weight].append(inputs_NI * self._weight**0.5)
