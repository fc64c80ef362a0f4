"""Associative memories that are written by a rule: linear ones and residual two-layer ones.

A memory is (parameters, objective, rule, period): it maps keys to values, its objective is
1/2 |M(k) - v̂|² (the paper drops the factor 2) or -<M(k), v̂>, its rule turns the objective's
gradient into rank-one writes (delta_rule.py), and its period is its chunk (titans_state.py). All
memories of a layer share the key, the step and the keep fraction of a token (Nested Learning,
Eq. 88), so several that also share a period live side by side in one *bank* and are read and
written together.

Inner gradients are written out by hand and treat v̂ as given; autograd through these functions is
the outer loop's gradient.

Shape suffixes: B rows, H heads, T tokens, K head width, N memories of a bank, F hidden units,
O outputs of one memory, R = N * O outputs of a bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.config import Rule, TitansConfig
from hope_runtime.layers.delta_rule import Writes

Parameters = tuple[Tensor, ...]


class Bank(Protocol):
    """Memories that are read and written together. Parameters are (B, H, ...) a tensor."""

    def read(self, parameters: Parameters, z_BHTK: Tensor) -> Tensor:
        """M(z) of all memories, side by side: (B, H, T, R)."""
        ...

    def writes(
        self, parameters: Parameters, key_BHTK: Tensor, target_BHTR: Tensor, step: Step
    ) -> tuple[Writes, ...]:
        """Writes of a run to each parameter, with gradients taken at `parameters`."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """Strength of each token's write: eta (B, H, T), 0 where it must not, and the run's `decays`
    (B, H, T, 1 + T)."""

    rule: Rule
    eta_BHT: Tensor
    decay_BHTT: Tensor

    @property
    def erases(self) -> bool:
        """Whether the rule is one of delta gradient descent: M (alpha I - eta k kᵀ)."""
        return self.rule in ("delta", "paper_literal")

    @property
    def objective(self) -> Literal["dot", "l2"]:
        """Objective of the layer that is erased: the delta rule's erase already is the L2
        gradient's."""
        return "dot" if self.rule in ("delta", "hebbian") else "l2"


@dataclass(frozen=True, slots=True)
class LinearBank:
    """Linear memories M z without a skip: the rows of one matrix (R, K)."""

    def read(self, parameters: Parameters, z_BHTK: Tensor) -> Tensor:
        """See Bank.read."""
        (matrix,) = parameters
        return z_BHTK @ matrix.mT

    def writes(
        self, parameters: Parameters, key_BHTK: Tensor, target_BHTR: Tensor, step: Step
    ) -> tuple[Writes, ...]:
        """See Bank.writes."""
        eta = step.eta_BHT[..., None]
        error = target_BHTR
        if step.objective == "l2":
            error = target_BHTR - self.read(parameters, key_BHTK)
        erase = eta * key_BHTK if step.erases else None
        return (Writes(key_BHTK, eta * error, erase, step.decay_BHTT),)

    def writes_per_token(
        self, key_BHTK: Tensor, target_BHTR: Tensor | None, value_BHTK: Tensor, step: Step
    ) -> Writes:
        """The same with gradients at the running memory, which the fold itself reads.

        `target_BHTR` None is the self-generated target M v of the memory that the token finds.
        """
        eta = step.eta_BHT[..., None]
        # What a token erases of M k: by its gradient (gd), by the rule (delta), or by both.
        strength = {"hebbian": 0.0, "delta": 1.0, "gd": 1.0, "paper_literal": 2.0}[step.rule]
        erase = (strength * eta) * key_BHTK
        if target_BHTR is None:
            erase = erase - eta * value_BHTK
            return Writes(key_BHTK, torch.zeros_like(value_BHTK), erase, step.decay_BHTT)
        written = eta * target_BHTR
        return Writes(key_BHTK, written, erase if strength else None, step.decay_BHTT)


@dataclass(frozen=True, slots=True)
class ResidualBank:
    """Two-layer memories z + W1 silu(W2 z), or W1 silu(W2 z) where there is no skip (gates).

    Parameters are W2 (B, H, N*F, K), the memories side by side, and W1 (B, H, N, O, F).
    """

    memories: int
    skip: bool
    erase_layers: bool

    def read(self, parameters: Parameters, z_BHTK: Tensor) -> Tensor:
        """See Bank.read."""
        inner, outer = parameters
        hidden = nnf.silu(self._split(z_BHTK @ inner.mT))
        return self._output(outer, hidden, z_BHTK)

    def writes(
        self, parameters: Parameters, key_BHTK: Tensor, target_BHTR: Tensor, step: Step
    ) -> tuple[Writes, ...]:
        """See Bank.writes."""
        inner, outer = parameters
        before_BHNTF = self._split(key_BHTK @ inner.mT)
        gate = torch.sigmoid(before_BHNTF)
        hidden_BHNTF = before_BHNTF * gate
        target_BHNTO = self._split(target_BHTR)
        branch = hidden_BHNTF @ outer.mT
        left = target_BHNTO - key_BHTK[:, :, None] if self.skip else target_BHNTO
        error_BHNTO = branch - left
        slope = gate * (1 + before_BHNTF * (1 - gate))
        backward_BHNTF = (error_BHNTO @ outer) * slope
        eta_BHT1 = step.eta_BHT[..., None]
        inner_writes = Writes(
            key_BHTK,
            -eta_BHT1 * self._join(backward_BHNTF),
            eta_BHT1 * key_BHTK if step.erases else None,
            step.decay_BHTT,
        )
        eta = step.eta_BHT[:, :, None, :, None]
        decay = step.decay_BHTT[:, :, None]
        if not step.erases:
            return inner_writes, Writes(hidden_BHNTF, -eta * error_BHNTO, None, decay)
        # The hidden units are no unit vector: the proximal step of Eq. 57 for any norm.
        eta = eta / (1 + eta * hidden_BHNTF.square().sum(-1, keepdim=True))
        if not self.erase_layers:
            return inner_writes, Writes(hidden_BHNTF, -eta * error_BHNTO, None, decay)
        written = eta * (left if step.objective == "dot" else -error_BHNTO)
        return inner_writes, Writes(hidden_BHNTF, written, eta * hidden_BHNTF, decay)

    def _output(self, outer: Tensor, hidden_BHNTF: Tensor, z_BHTK: Tensor) -> Tensor:
        branch = hidden_BHNTF @ outer.mT
        return self._join(branch + z_BHTK[:, :, None] if self.skip else branch)

    def _split(self, joined: Tensor) -> Tensor:
        """(B, H, T, N * X) -> (B, H, N, T, X)."""
        B, H, T, _ = joined.shape
        return joined.view(B, H, T, self.memories, -1).transpose(2, 3)

    def _join(self, split: Tensor) -> Tensor:
        """(B, H, N, T, X) -> (B, H, T, N * X)."""
        return split.transpose(2, 3).flatten(-2)


def banks_of(config: TitansConfig) -> tuple[tuple[Bank, tuple[str, ...]], ...]:
    """The banks of a layer with the names of their memories, in order; the last is ("mem",)."""
    projections = tuple(name for name in ("k", "v", "q") if name in config.adaptive)
    gates = tuple(name for name in ("eta", "alpha") if name in config.adaptive)
    banks: list[tuple[Bank, tuple[str, ...]]] = []
    if config.depth == 1:
        if config.adaptive:
            banks.append((LinearBank(), projections + gates))
        return (*banks, (LinearBank(), ("mem",)))
    layers = config.deep_erase == "layers"
    if projections:
        banks.append((ResidualBank(len(projections), True, layers), projections))
    if gates:
        banks.append((ResidualBank(len(gates), False, layers), gates))
    return (*banks, (ResidualBank(1, True, layers), ("mem",)))
