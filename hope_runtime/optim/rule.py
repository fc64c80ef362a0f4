"""An update rule: what an optimiser is when it is a level's inner rule and an outer loop's alike.

A rule is a frozen dataclass of hyper-parameters and a pure pair of functions. `start` gives the
memory that a rule keeps beside one parameter, as tensors under names (its slots); `step` turns
(parameter, gradient, slots) into the next parameter and slots. `init` and `update` do the same
for named parameters, with all slots in one flat mapping that a codec can store. Nothing is changed
in place, so a caller may differentiate through an update, keep the state before it, or drop it.

Knows nothing of any single rule, of weight decay or of torch.optim (outer.py does).

Shape: a parameter has `batch_dims` leading dimensions of independent rows (sessions of a level,
say; they step together), and what follows them is the tensor that is learnt.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hope_runtime.errors import CorruptStateError, GradientError
from hope_runtime.optim.hyperparameters import non_negative

Slots = dict[str, Tensor]
Shape = Sequence[int]
# Every slot of every parameter, as "{parameter}.{slot}".
State = dict[str, Tensor]


class UpdateRule(ABC):
    """One way of writing gradients into a memory and the memory into parameters.

    Slots are float32, or float64 for float64 parameters; a "count" is an int64 scalar. A rule with
    `needs_inputs` is given the inputs X of each linear layer too.
    """

    needs_inputs = False

    @abstractmethod
    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        """The slots that this rule keeps beside a parameter of `shape`."""

    def start(self, parameter: Tensor, batch_dims: int = 0) -> Slots:
        """The memory before the first gradient, on the parameter's device: zeros."""
        dtype = state_dtype(parameter)
        return {
            name: torch.zeros((), dtype=torch.int64)
            if name == "count"
            else torch.zeros(shape, dtype=dtype, device=parameter.device)
            for name, shape in self.slot_shapes(parameter.shape, batch_dims).items()
        }

    @abstractmethod
    def step(
        self,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        learning_rate: float,
        *,
        batch_dims: int = 0,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Slots]:
        """One update: the new parameter, in its old dtype, and the new slots.

        `gradient` has the parameter's shape. `inputs` (*rows, N, in) are those of the linear layer
        whose weight (*rows, out, in) the parameter is. All are taken to be finite.
        """

    def init(self, parameters: Mapping[str, Tensor], batch_dims: int = 0) -> State:
        """The state before the first gradient, for named parameters."""
        return {
            f"{name}.{slot}": tensor
            for name, parameter in parameters.items()
            for slot, tensor in self.start(parameter, batch_dims).items()
        }

    def update(
        self,
        state: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        learning_rate: float,
        *,
        batch_dims: int = 0,
        inputs: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """One update of all `parameters`; their values and `state` stay as they were.

        Raises GradientError for a gradient or an input that is missing, misshapen or not finite,
        HyperparameterError for a learning rate that is none, and CorruptStateError for a state
        that `init` did not make for these parameters.
        """
        non_negative("learning_rate", learning_rate)
        if gradients.keys() != parameters.keys():
            odd = ", ".join(sorted(gradients.keys() ^ parameters.keys()))
            raise GradientError(
                f"parameters and gradients must have the same names; different: {odd}"
            )
        if any(parameter.ndim < batch_dims for parameter in parameters.values()):
            raise GradientError(f"a parameter has fewer dimensions than batch_dims = {batch_dims}")
        check_gradients((name, parameters[name], gradients[name]) for name in parameters)
        if self.needs_inputs:
            inputs = _checked_inputs(inputs, parameters, batch_dims)
        shapes = {name: self.slot_shapes(parameters[name].shape, batch_dims) for name in parameters}
        check_slots(
            state,
            {f"{name}.{slot}": shapes[name][slot] for name in shapes for slot in shapes[name]},
        )
        new_parameters: dict[str, Tensor] = {}
        new_state: State = {}
        for name, parameter in parameters.items():
            new_parameters[name], new_slots = self.step(
                parameter,
                gradients[name],
                {slot: state[f"{name}.{slot}"] for slot in shapes[name]},
                learning_rate,
                batch_dims=batch_dims,
                inputs=None if inputs is None else inputs.get(name),
            )
            new_state.update((f"{name}.{slot}", tensor) for slot, tensor in new_slots.items())
        return new_parameters, new_state


class InPlace:
    """A rule at work on tensors that are changed in place, such as a level's float32 copy."""

    def __init__(self, rule: UpdateRule, parameters: Sequence[Tensor]) -> None:
        self._rule = rule
        self._parameters = list(parameters)
        self._slots = [rule.start(parameter.detach()) for parameter in self._parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """One update with `gradients`, in the parameters' order.

        Raises GradientError, before anything is changed, when one is missing or not finite.
        """
        non_negative("learning_rate", learning_rate)
        if len(gradients) != len(self._parameters):
            raise GradientError(
                f"expected {len(self._parameters)} gradients, one per parameter, but got "
                f"{len(gradients)}"
            )
        pairs = zip(self._parameters, gradients, strict=True)
        check_gradients((f"parameter {i}", p, g) for i, (p, g) in enumerate(pairs))
        self.apply(gradients, learning_rate)

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """The same for gradients that fit the parameters and are looked at by the caller: it waits
        for no device."""
        pairs = zip(self._parameters, gradients, strict=True)
        for index, (parameter, gradient) in enumerate(pairs):
            new, self._slots[index] = self._rule.step(
                parameter, gradient, self._slots[index], learning_rate
            )
            parameter.copy_(new)


def state_dtype(parameter: Tensor) -> torch.dtype:
    """Dtype of a parameter's slots: at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def matrix_shape(shape: Shape, batch_dims: int) -> tuple[int, ...]:
    """(*rows, out, in) of a parameter's shape, whatever its dimensions.

    A vector is a matrix of one column, as a bias is the weight of a constant input; a scalar is
    1 x 1; a kernel of more than two dimensions keeps its first one and flattens the others.
    """
    rows, own = shape[:batch_dims], shape[batch_dims:]
    return (*rows, own[0] if own else 1, math.prod(own[1:]))


def as_matrix(tensor: Tensor, batch_dims: int) -> Tensor:
    """The tensor in its `matrix_shape`, a view where possible."""
    return tensor.reshape(matrix_shape(tensor.shape, batch_dims))


def check_gradients(named: Iterable[tuple[str, Tensor, Tensor]]) -> None:
    """For (name, parameter, gradient): raises GradientError unless all are usable."""
    finite: list[Tensor] = []
    names: list[str] = []
    for name, parameter, gradient in named:
        if gradient.shape != parameter.shape:
            raise GradientError(f"the gradient of {name} has another shape than the parameter")
        if gradient.is_sparse or not gradient.is_floating_point():
            raise GradientError(f"the gradient of {name} must be dense and real")
        finite.append(_extremes(gradient).isfinite().all())
        names.append(name)
    # One answer for all, since each one that is asked for waits for the device.
    if finite and not bool(torch.stack([each.to(finite[0].device) for each in finite]).all()):
        bad = next(name for name, each in zip(names, finite, strict=True) if not bool(each))
        raise GradientError(f"the gradient of {bad} is not finite")


def _extremes(tensor: Tensor) -> Tensor:
    """Least and greatest entry, (2,), in one pass and without a copy; NaN where there is one."""
    if not tensor.numel():
        return tensor.new_zeros(2)
    return torch.stack(torch.aminmax(tensor.detach()))


def check_slots(slots: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> None:
    """Raises CorruptStateError unless `slots` have these names and shapes."""
    if slots.keys() != shapes.keys():
        odd = ", ".join(sorted(slots.keys() ^ shapes.keys()))
        raise CorruptStateError(f"the stored tensors have other names; different: {odd}")
    for name, shape in shapes.items():
        if slots[name].shape != tuple(shape):
            raise CorruptStateError(f"the stored tensor {name} has another shape")


def _checked_inputs(
    inputs: Mapping[str, Tensor] | None, parameters: Mapping[str, Tensor], batch_dims: int
) -> Mapping[str, Tensor]:
    if inputs is None:
        raise GradientError("the update rule requires the inputs of the linear layers")
    for name, inputs_NI in inputs.items():
        if name not in parameters:
            raise GradientError(f"inputs were given for {name}, which is not a parameter")
        weight = parameters[name]
        rows = weight.shape[:batch_dims]
        if (
            weight.ndim != batch_dims + 2
            or inputs_NI.ndim != batch_dims + 2
            or (*inputs_NI.shape[:batch_dims], inputs_NI.shape[-1]) != (*rows, weight.shape[-1])
        ):
            raise GradientError(f"the inputs of {name} do not match the shape of its weight")
        if not bool(inputs_NI.detach().isfinite().all()):
            raise GradientError(f"the inputs of {name} are not finite")
    return inputs
