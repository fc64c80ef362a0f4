"""A fast-memory layer as the paper writes it: one token after another, dense matrices, autograd.

Slow and plain, and shares nothing with memory/titans.py but the names of the weights. One row.

Legend: T tokens, D model width, K head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.config import TitansConfig
from hope_runtime.layers.titans_state import TitansWeights

EPS = 1e-5


@dataclass
class Memory:
    """One memory of one head: linear [M] or deep [W2, W1]; the snapshot is what is read."""

    running: list[Tensor]
    skip: bool
    snapshot: list[Tensor] = field(init=False)
    velocity: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.snapshot = self.running
        self.velocity = [torch.zeros_like(tensor) for tensor in self.running]

    def at(self, parameters: list[Tensor], z: Tensor) -> Tensor:
        if len(parameters) == 1:
            return parameters[0] @ z
        fast_memory = parameters[1] @ nnf.silu(parameters[0] @ z)
        return z + fast_memory if self.skip else fast_memory


def split_memories(config: TitansConfig, weights: TitansWeights, head: int) -> dict[str, Memory]:
    """The memories of one head by name, out of the banks that hold them side by side."""
    K = weights.out_norm.shape[0]
    projections = [name for name in ("k", "v", "q") if name in config.adaptive]
    gates = [name for name in ("eta", "alpha") if name in config.adaptive]
    found: dict[str, Memory] = {}
    banks = [bank for bank in (projections, gates) if bank]
    if config.depth == 1:
        at = 0
        for name in projections + gates:
            rows = 1 if name in gates else K
            found[name] = Memory([weights.initial[0][0][head, at : at + rows]], skip=False)
            at += rows
        found["mem"] = Memory([weights.initial[-1][0][head]], skip=False)
        return found
    for bank, names in enumerate([*banks, ["mem"]]):
        inner, outer = weights.initial[bank]
        for n, name in enumerate(names):
            F = config.hidden
            parts = [inner[head, n * F : (n + 1) * F], outer[head, n]]
            found[name] = Memory(parts, skip=name not in gates)
    return found


def gradients(config: TitansConfig, memory: Memory, key: Tensor, target: Tensor) -> list[Tensor]:
    """By autograd, of the objective that the rule takes for each matrix."""
    leaves = [tensor.detach().requires_grad_() for tensor in memory.snapshot]
    target = target.detach()
    out = memory.at(leaves, key)
    l2 = list(torch.autograd.grad(0.5 * (out - target).square().sum(), leaves, retain_graph=True))
    rest = target - key if memory.skip else target
    fast_memory = out - key if memory.skip else out
    dot = list(torch.autograd.grad(-(fast_memory * rest).sum(), leaves))
    if config.rule == "hebbian":
        return dot
    if config.rule == "delta" and (config.depth == 1 or config.deep_erase == "layers"):
        # The layer whose erase already is the L2 gradient's: the output layer.
        return [*l2[:-1], dot[-1]]
    return l2


def write(
    config: TitansConfig,
    memory: Memory,
    key: Tensor,
    target: Tensor,
    eta: Tensor,
    alpha: Tensor,
) -> None:
    """M <- M (alpha I - eta k kᵀ) - eta grad, in each matrix with its own input as the key."""
    erases = config.rule in ("delta", "paper_literal")
    inputs = [key]
    if config.depth == 2:
        inputs.append(nnf.silu(memory.snapshot[0] @ key))
    slopes = gradients(config, memory, key, target)
    for index, (slope, read) in enumerate(zip(slopes, inputs, strict=True)):
        rate, erase = eta, erases and (index == 0 or config.deep_erase == "layers")
        if erases and index == 1:
            rate = eta / (1 + eta * read @ read)
        factor = alpha * torch.eye(len(read), dtype=read.dtype)
        if erase:
            factor = factor - rate * torch.outer(read, read)
        memory.velocity[index] = config.momentum * memory.velocity[index] - rate * slope
        running = memory.running[index] @ factor + memory.velocity[index]
        memory.running = [*memory.running[:index], running, *memory.running[index + 1 :]]


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def layer(
    config: TitansConfig, weights: TitansWeights, x_TD: Tensor
) -> tuple[Tensor, list[dict[str, Memory]]]:
    """Outputs (T, D) from the first token on, and the memories of every head after the last."""
    H, K = config.n_heads, weights.out_norm.shape[0]
    memories = [split_memories(config, weights, head) for head in range(H)]
    normed = x_TD / (x_TD.square().mean(-1, keepdim=True) + EPS).sqrt() * weights.norm
    outputs = []
    for t in range(len(x_TD)):
        u = sum(weights.conv[:, 3 - back] * normed[t - back] for back in range(min(t, 3) + 1))
        reads = []
        for head in range(H):
            reads.append(_token(config, weights, memories[head], head, torch.as_tensor(u), t + 1))
        joined = torch.cat([o / (o.square().mean() + EPS).sqrt() * weights.out_norm for o in reads])
        outputs.append(weights.out @ (joined * nnf.silu(weights.gate @ normed[t])))
    assert outputs[0].shape == (H * K,)
    return torch.stack(outputs), memories


def _token(
    config: TitansConfig,
    weights: TitansWeights,
    memories: dict[str, Memory],
    head: int,
    u: Tensor,
    count: int,
) -> Tensor:
    K = weights.out_norm.shape[0]
    mine = slice(head * K, (head + 1) * K)
    mixed = u if weights.mix is None else weights.mix @ u
    made: dict[str, Tensor] = {}
    for name in ("k", "v", "q", "eta", "alpha"):
        if name in config.adaptive:
            made[name] = memories[name].at(memories[name].snapshot, unit(mixed[mine]))
        elif (matrix := getattr(weights, name)) is not None:
            made[name] = matrix[head] @ u if name in ("eta", "alpha") else matrix[mine] @ u
            if config.activation and name in ("k", "v", "q"):
                made[name] = nnf.silu(made[name])
    alpha = torch.ones((), dtype=u.dtype)
    eta = torch.ones((), dtype=u.dtype)
    if weights.alpha_bias is not None:
        alpha = torch.sigmoid(made["alpha"].squeeze() + weights.alpha_bias[head])
    if weights.eta_bias is not None:
        eta = config.eta_max * torch.sigmoid(made["eta"].squeeze() + weights.eta_bias[head])
        eta = eta * (1 + alpha) / 2
    key, query, value = unit(made["k"]), unit(made["q"]), made["v"]
    if config.self_targets:
        value = unit(value)
    mem = memories["mem"]
    output = mem.at(mem.snapshot, query)
    targets = {
        name: memory.at(memory.snapshot, value) if config.self_targets else value
        for name, memory in memories.items()
    }
    for name, memory in memories.items():
        write(config, memory, key, targets[name], eta, alpha)
        chunk = config.chunk_mem if name == "mem" else config.chunk_other
        if count % chunk == 0:
            memory.snapshot = list(memory.running)
    if config.read_after_write:
        output = mem.at(mem.running, query)
    assert math.isfinite(float(output.detach().sum()))
    return output
