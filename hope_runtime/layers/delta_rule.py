"""Rank-one writes to a linear associative memory, folded token by token or a whole run at once.

One token does M <- alpha M - (M a) kᵀ + w kᵀ, optionally with momentum on the written part. Every
rule of the fast memories is a choice of a (what is erased) and w (what is written). A run of T
tokens is folded by one triangular solve (Nested Learning, section 8.2; the WY form of DeltaNet), at
the cost of rank-one factors: no (K, K) transition is ever formed. Ratios of decays are exponentials
of differences of log alpha, so long products neither underflow nor divide by zero.

What is written and erased is decided in associative.py.

Shape suffixes: ... any leading axes, T tokens of the run, V outputs, K width of the key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Writes:
    """Writes of a run's tokens to one matrix.

    key (..., T, K), value w (..., T, V), erase a (..., T, K) or None, and the run's `decays`,
    (..., T, 1 + T). A token that must not count has zero value and erase, and log alpha zero.
    """

    key: Tensor
    value: Tensor
    erase: Tensor | None
    decay: Tensor


def fold(memory: Tensor, writes: Writes) -> tuple[Tensor, Tensor]:
    """The memory (..., V, K) after a run, and what each token added to it, d (..., T, V).

    d_i = w_i - M_{i-1} a_i and M_i = alpha_i M_{i-1} + d_i k_iᵀ.
    """
    key, value, erase, decay = writes.key, writes.value, writes.erase, writes.decay
    if erase is None:
        added = value
    elif key.shape[-2] == 1:
        added = value - erase @ memory.mT
    else:
        before = _shift(decay)
        system = (erase @ key.mT) * before[..., 1:]
        right = value - before[..., :1] * (erase @ memory.mT)
        added = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    weighted = added * decay[..., -1, 1:, None]
    # One token's write is a product of entries; as one of matrices it takes twice as long.
    written = weighted.mT * key if key.shape[-2] == 1 else weighted.mT @ key
    return torch.addcmul(written, decay[..., -1, :1, None], memory), added


def read_run(
    memory: Tensor, writes: Writes, added: Tensor, query: Tensor, *, after: bool
) -> Tensor:
    """M_{i-1} q_i, or M_i q_i when `after`, of every token of a run; query (..., T, K).

    `memory` is the one before the run, `added` what `fold` returned.
    """
    decay = writes.decay
    if not after:
        decay = _shift(decay)
    return decay[..., :1] * (query @ memory.mT) + ((query @ writes.key.mT) * decay[..., 1:]) @ added


@dataclass(frozen=True, slots=True)
class Inertia:
    """Decay of the velocity in a run, (..., T, 1 + T) each, shared by all matrices of a layer.

    `decay` of the velocity itself, and `pushed`: how much of the velocity before the run (column
    0), and of each token's write, has come into the memory by token i.
    """

    decay: Tensor
    pushed: Tensor

    @staticmethod
    def of(decay: Tensor, log_momentum: Tensor, counts: Tensor) -> Inertia:
        """Inertia from the memory's decay, log mu (..., T), and c (..., T): 1, or 0 for a token
        that must not count, whose log mu is 0."""
        inertia = decays(log_momentum)
        return Inertia(inertia, (decay[..., 1:] * counts[..., None, :]) @ inertia)


def fold_with_momentum(
    memory: Tensor, velocity: Tensor, writes: Writes, inertia: Inertia
) -> tuple[Tensor, Tensor]:
    """The memory and its velocity after a run (Titans, Eq. 10, with an erase; the ablation of
    Nested Learning, section 9): S_i = mu_i S_{i-1} + w_i k_iᵀ and
    M_i = alpha_i M_{i-1} - (M_{i-1} a_i) k_iᵀ + c_i S_i.
    """
    key, value, erase, decay = writes.key, writes.value, writes.erase, writes.decay
    pushed = inertia.pushed
    if erase is None:
        net = pushed[..., -1, 1:, None] * value
    else:
        before, pushed_before = _shift(decay), _shift(pushed, first=0.0)
        overlap = erase @ key.mT
        right = (
            before[..., :1] * (erase @ memory.mT)
            + pushed_before[..., :1] * (erase @ velocity.mT)
            + (overlap * pushed_before[..., 1:]) @ value
        )
        erased = torch.linalg.solve_triangular(
            overlap * before[..., 1:], right, upper=False, unitriangular=True
        )
        net = pushed[..., -1, 1:, None] * value - decay[..., -1, 1:, None] * erased
    memory_end = (
        decay[..., -1, :1, None] * memory + pushed[..., -1, :1, None] * velocity + net.mT @ key
    )
    driven = inertia.decay[..., -1, 1:, None] * value
    return memory_end, inertia.decay[..., -1, :1, None] * velocity + driven.mT @ key


def decays(log_keep: Tensor) -> Tensor:
    """(..., T) -> (..., T, 1 + T): how much of the start, and of each token, is left at token i.

    Column 0 is the product of alpha_1..alpha_i, column j that of alpha_{j+1}..alpha_i, 0 for j > i.
    """
    T = log_keep.shape[-1]
    if T == 1:
        keep = log_keep.exp()[..., None]
        return torch.cat((keep, torch.ones_like(keep)), dim=-1)
    total = log_keep.cumsum(-1)
    start = torch.cat((torch.zeros_like(total[..., :1]), total), dim=-1)
    ahead = torch.ones(T, T + 1, dtype=torch.bool, device=log_keep.device).triu(2)
    # Filled before the exponential: above the diagonal the differences are positive and large.
    differences = total[..., :, None] - start[..., None, :]
    return differences.masked_fill(ahead, float("-inf")).exp()


def _shift(decay: Tensor, first: float = 1.0) -> Tensor:
    """The same as of the token before: row i becomes row i - 1, and row 0 is the start itself."""
    head = torch.zeros_like(decay[..., :1, :])
    head[..., 0] = first
    return torch.cat((head, decay[..., :-1, :]), dim=-2)
