"""State of a Titans layer, and the division of a forward pass into runs.

Between boundaries a memory is two things: the snapshot that is read, and the running one that has
the writes since. A run ends where a snapshot changes, so any cut of a stream gives the same states.

Shape suffixes: B rows, T tokens, D model width, H heads, K head width, W taps of the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.layers.associative import Parameters, banks_of
from hope_runtime.layers.config import TitansConfig

TAPS = 4
# Runs of memories that are read exactly per token are at most this long, at fixed places.
EXACT_RUN = 64
# Linear memories are clipped at boundaries at least so many tokens apart.
CLIP_PERIOD = 16


@dataclass(frozen=True, slots=True)
class TitansWeights:
    """One layer, as the outer loop learns it. None where the configuration has no such part.

    norm (D,), conv (D, W), mix (D, D): what each head sees of x, with several heads of adaptive
    memories; static projections k, v, q (D, D) and gates eta, alpha (H, D); biases of the gates
    (H,); `initial`, the state in which each bank of memories begins, (H, ...) a parameter;
    out_norm (K,), gate (D, D), out (D, D).
    """

    norm: Tensor
    conv: Tensor
    mix: Tensor | None
    k: Tensor | None
    v: Tensor | None
    q: Tensor | None
    eta: Tensor | None
    alpha: Tensor | None
    eta_bias: Tensor | None
    alpha_bias: Tensor | None
    initial: tuple[Parameters, ...]
    out_norm: Tensor
    gate: Tensor
    out: Tensor


@dataclass(frozen=True, slots=True)
class BankState:
    """A bank of one layer for B rows: the snapshot that is read, the memory that is being written,
    and its velocity.

    `velocity` is empty without momentum.
    """

    snapshot: Parameters
    running: Parameters
    velocity: Parameters


@dataclass(frozen=True, slots=True)
class TitansState:
    """One layer's state: the last W - 1 inputs of the convolution (B, W-1, D), and the banks."""

    conv: Tensor
    banks: tuple[BankState, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens `start` to `stop` of a forward pass. `due` says, for each bank, which rows' snapshots
    change at its end: True for all, None for none, else a mask (B,). `clip` likewise for the bound
    on the norm.
    """

    start: int
    stop: int
    due: tuple[bool | Tensor | None, ...]
    clip: tuple[bool | Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Division of one forward pass into runs, shared by all layers, and the tokens that count.

    `write_BT` is None when all tokens write, and `silent` says that none does; `lengths_B` is None
    unless rows are padded at their ends.
    """

    runs: tuple[Run, ...]
    write_BT: Tensor | None
    lengths_B: Tensor | None
    silent: bool = False


def periods(config: TitansConfig) -> tuple[int, ...]:
    """Written tokens between changes of each bank's snapshot."""
    others = len(banks_of(config)) - 1
    return (config.chunk_other,) * others + (EXACT_RUN if config.per_token else config.chunk_mem,)


def cut_runs(
    config: TitansConfig, written_B: Tensor, write_BT: Tensor | None, T: int
) -> tuple[Run, ...]:
    """Cut a pass of T tokens into runs.

    `written_B` (int64, CPU) counts the tokens that each row has written before; `write_BT` marks
    those of the pass that write, None is all of them.
    """
    every = periods(config)
    apart = CLIP_PERIOD if config.depth == 1 else 1
    clips = [period * -(-apart // period) for period in every]
    B = len(written_B)
    if write_BT is None:
        counts_BT = written_B[:, None] + torch.arange(1, T + 1)
        at = {period: counts_BT % period == 0 for period in {*every, *clips}}
    else:
        write = write_BT.cpu()
        counts_BT = written_B[:, None] + write.cumsum(1)
        at = {period: (counts_BT % period == 0) & write for period in {*every, *clips}}
    count_T = {period: mask.sum(0).tolist() for period, mask in at.items()}
    cuts = [t for t in range(T) if any(count_T[period][t] for period in every)]

    def rows_due(period: int, t: int) -> bool | Tensor | None:
        count = count_T[period][t]
        if not count:
            return None
        return True if count == B else at[period][:, t]

    runs, start = [], 0
    for t in cuts:
        due = tuple(rows_due(period, t) for period in every)
        clip = tuple(rows_due(period, t) for period in clips)
        runs.append(Run(start, t + 1, due, clip))
        start = t + 1
    if start < T:
        runs.append(Run(start, T, (None,) * len(every), (None,) * len(every)))
    return tuple(runs)


def fresh(config: TitansConfig, weights: TitansWeights, rows: int) -> TitansState:
    """The state before the first token: every memory as the outer loop left it. Shares storage."""
    states = []
    for initial in weights.initial:
        parameters = tuple(tensor.expand(rows, *tensor.shape) for tensor in initial)
        velocity = tuple(torch.zeros_like(tensor) for tensor in parameters)
        states.append(BankState(parameters, parameters, velocity if config.momentum else ()))
    conv = weights.norm.new_zeros(rows, TAPS - 1, weights.norm.shape[0])
    return TitansState(conv, tuple(states))
