"""Self-modifying Titans: a layer whose projections, gates and memory are memories themselves.

One layer of Nested Learning, sections 8.1 and 8.2, for training and streaming alike: a pure
function of (weights, state, inputs). Tokens are taken in *runs* (titans_state.py), between which no
snapshot changes: all keys, values and gates of a run are generated in one pass from the snapshots,
its reads see no write of the run, and its writes are folded at once (delta_rule.py).

Not in the paper, and ours: inputs of memories (x, v and q beside k) are unit vectors per head,
because self-generated targets feed values back into the memories; eta is scaled by (1 + alpha) / 2,
which keeps repeated writes bounded; the rows of a memory are clipped at boundaries.

Shape suffixes: B rows, T tokens, D model width, H heads, K head width, W taps of the convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.associative import LinearBank, Step, banks_of
from hope_runtime.layers.config import TitansConfig
from hope_runtime.layers.delta_rule import (
    Inertia,
    Writes,
    decays,
    fold,
    fold_with_momentum,
    read_run,
)
from hope_runtime.layers.norm import rms_norm
from hope_runtime.layers.titans_state import (
    BankState,
    Run,
    RunPlan,
    TitansState,
    TitansWeights,
)

# Rows of memories are clipped at boundaries to this norm, those that hold raw values to sqrt(K)
# times as much.
CLIP_NORM = 8.0


def titans_memory(
    x_BTD: Tensor,
    *,
    config: TitansConfig,
    weights: TitansWeights,
    state: TitansState,
    plan: RunPlan,
    eps: float,
) -> tuple[Tensor, TitansState]:
    """One layer without its residual: (B, T, D) -> (B, T, D), and the state after it.

    Every read sees the memory before its own token's write (unless `read_after_write`), and every
    bank changes its snapshot at multiples of its chunk, counted in written tokens.
    """
    normed = rms_norm(x_BTD, weights.norm, eps)
    u_BTD, conv = causal_conv(normed, weights.conv, state.conv, plan.lengths_B)
    layer = _Layer(config, weights, u_BTD)
    states = list(state.banks)
    outputs = []
    for run in plan.runs:
        write = None if plan.write_BT is None else plan.write_BT[:, run.start : run.stop]
        outputs.append(layer.run(run, states, write, plan.silent))
    o_BHTK = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    o_BTD = rms_norm(o_BHTK, weights.out_norm, eps).transpose(1, 2).flatten(2)
    gated = o_BTD * nnf.silu(nnf.linear(normed, weights.gate))
    return nnf.linear(gated, weights.out), TitansState(conv, tuple(states))


def causal_conv(
    x_BTD: Tensor, taps_DW: Tensor, tail_BSD: Tensor, lengths_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution over each token and the W - 1 before it, and the new tail."""
    W, T = taps_DW.shape[1], x_BTD.shape[1]
    joined = torch.cat((tail_BSD, x_BTD), dim=1)
    mixed = joined[:, W - 1 :] * taps_DW[:, W - 1]
    for tap in range(W - 1):
        mixed = torch.addcmul(mixed, joined[:, tap : tap + T], taps_DW[:, tap])
    if lengths_B is None:
        return mixed, joined[:, T:]
    last = lengths_B[:, None] + torch.arange(W - 1, device=lengths_B.device)
    return mixed, joined.gather(1, last[..., None].expand(-1, -1, joined.shape[2]))


def unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis; a zero vector stays zero, with a bounded gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-12)


class _Layer:
    """One pass of one layer: what static weights give for all tokens at once, then run by run."""

    def __init__(self, config: TitansConfig, weights: TitansWeights, u_BTD: Tensor) -> None:
        self.config, self.weights = config, weights
        self.banks = banks_of(config)
        self.width = u_BTD.shape[2] // config.n_heads
        self.static = self._static(u_BTD)
        # Of the run at hand; None without momentum.
        self.inertia: Inertia | None = None
        self.z_BHTK: Tensor | None = None
        if config.adaptive:
            mixed = u_BTD if weights.mix is None else nnf.linear(u_BTD, weights.mix)
            self.z_BHTK = unit(self._heads(mixed))

    def run(
        self, run: Run, states: list[BankState], write_BT: Tensor | None, silent: bool
    ) -> Tensor:
        """Reads of a run, (B, H, T, K); `states` become those after it."""
        config = self.config
        made = {name: value[:, :, run.start : run.stop] for name, value in self.static.items()}
        if self.z_BHTK is not None:
            self._generate(made, self.z_BHTK[:, :, run.start : run.stop], states)
        query, key, value = unit(made["q"]), unit(made["k"]), made["v"]
        if config.self_targets:
            value = unit(value)
        mem, last = states[-1], len(states) - 1
        bank, _ = self.banks[-1]
        if silent:
            return bank.read(mem.running if config.per_token else mem.snapshot, query)
        step = self._step(made, key, write_BT)
        if config.per_token:
            assert isinstance(bank, LinearBank)
            target = None if config.self_targets else value
            writes = bank.writes_per_token(key, target, value, step)
            (before,) = mem.running
            (after, added) = fold(before, writes)
            output = read_run(before, writes, added, query, after=config.read_after_write)
            states[last] = self._close(BankState(mem.snapshot, (after,), ()), run, last)
        else:
            output = bank.read(mem.snapshot, query)
            self._write(last, run, states, key, value, step)
        for index in range(last):
            self._write(index, run, states, key, value, step)
        return output

    def _write(
        self,
        index: int,
        run: Run,
        states: list[BankState],
        key: Tensor,
        value: Tensor,
        step: Step,
    ) -> None:
        bank, _ = self.banks[index]
        state = states[index]
        target = bank.read(state.snapshot, value) if self.config.self_targets else value
        writes = bank.writes(state.snapshot, key, target, step)
        if self.inertia is not None:
            state = _with_momentum(state, writes, self.inertia)
        else:
            running = tuple(
                fold(memory, of)[0] for memory, of in zip(state.running, writes, strict=True)
            )
            state = BankState(state.snapshot, running, ())
        states[index] = self._close(state, run, index)

    def _close(self, state: BankState, run: Run, index: int) -> BankState:
        """The bank after a run: at its boundary the running memory is bounded, and is read next."""
        due, clip = run.due[index], run.clip[index]
        if due is None:
            return state
        running, velocity = state.running, state.velocity
        if clip is not None:
            limit = CLIP_NORM if self.config.self_targets else CLIP_NORM * math.sqrt(self.width)
            running = tuple(_chosen(clip, _bounded(old, limit), old) for old in running)
            velocity = tuple(_chosen(clip, _bounded(old, limit), old) for old in velocity)
        snapshot = tuple(
            _chosen(due, new, old) for new, old in zip(running, state.snapshot, strict=True)
        )
        return BankState(snapshot, running, velocity)

    def _static(self, u_BTD: Tensor) -> dict[str, Tensor]:
        """Projections and gates that no memory makes: (B, H, T, K), and raw gates (B, H, T)."""
        weights, made = self.weights, {}
        for name in ("k", "v", "q"):
            matrix = getattr(weights, name)
            if matrix is not None:
                projected = nnf.linear(u_BTD, matrix)
                made[name] = self._heads(
                    nnf.silu(projected) if self.config.activation else projected
                )
        for name in ("eta", "alpha"):
            matrix = getattr(weights, name)
            if matrix is not None:
                made[name] = nnf.linear(u_BTD, matrix).transpose(1, 2)
        return made

    def _generate(
        self, made: dict[str, Tensor], z_BHTK: Tensor, states: Sequence[BankState]
    ) -> None:
        """Add what the adaptive memories say of a run's tokens, from their snapshots."""
        for (bank, names), state in zip(self.banks[:-1], states[:-1], strict=True):
            sizes = [1 if name in ("eta", "alpha") else self.width for name in names]
            parts = torch.split(bank.read(state.snapshot, z_BHTK), sizes, dim=-1)
            for name, part in zip(names, parts, strict=True):
                made[name] = part[..., 0] if name in ("eta", "alpha") else part

    def _step(self, made: dict[str, Tensor], key_BHTK: Tensor, write_BT: Tensor | None) -> Step:
        config, weights = self.config, self.weights
        log_keep = torch.zeros_like(key_BHTK[..., 0])
        if weights.alpha_bias is not None:
            log_keep = nnf.logsigmoid(made["alpha"] + weights.alpha_bias[:, None])
        eta = torch.ones_like(log_keep)
        if weights.eta_bias is not None:
            eta = config.eta_max * torch.sigmoid(made["eta"] + weights.eta_bias[:, None])
            if weights.alpha_bias is not None:
                eta = eta * (0.5 + 0.5 * log_keep.exp())
        if write_BT is not None:
            silent = ~write_BT[:, None]
            eta, log_keep = eta.masked_fill(silent, 0.0), log_keep.masked_fill(silent, 0.0)
        decay = decays(log_keep)
        if config.momentum:
            counts = torch.ones_like(log_keep)
            if write_BT is not None:
                counts = counts * write_BT[:, None]
            self.inertia = Inertia.of(decay, counts * math.log(config.momentum), counts)
        return Step(config.rule, eta, decay)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        return x_BTD.view(B, T, self.config.n_heads, self.width).transpose(1, 2)


def _with_momentum(state: BankState, writes: Sequence[Writes], inertia: Inertia) -> BankState:
    running, velocity = [], []
    for memory, speed, of in zip(state.running, state.velocity, writes, strict=True):
        # The output matrices of deep memories have an axis of memories after that of heads.
        if of.key.dim() > inertia.decay.dim():
            inertia = Inertia(inertia.decay[:, :, None], inertia.pushed[:, :, None])
        ended, moved = fold_with_momentum(memory, speed, of, inertia)
        running.append(ended)
        velocity.append(moved)
    return BankState(state.snapshot, tuple(running), tuple(velocity))


def _chosen(rows: bool | Tensor, new: Tensor, old: Tensor) -> Tensor:
    if isinstance(rows, bool):
        return new
    return torch.where(rows.to(new.device).view(-1, *(1,) * (new.dim() - 1)), new, old)


def _bounded(memory: Tensor, limit: float) -> Tensor:
    """Rows of at most this norm: a factor of exactly 1 for those within it."""
    norm = torch.linalg.vector_norm(memory, dim=-1, keepdim=True)
    factor: Tensor = limit / norm.clamp_min(limit)
    return memory * factor
