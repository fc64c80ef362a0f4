"""The fast-memory layer against the paper's recurrence, written out token by token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import assert_same, random_ids, tiny
from titans_reference import layer as reference_layer
from torch import Tensor

from hope_runtime.layers import titans
from hope_runtime.layers.config import TitansConfig
from hope_runtime.layers.titans import titans_memory
from hope_runtime.layers.titans_state import RunPlan, TitansState, TitansWeights, cut_runs, fresh
from hope_runtime.models.hope.model import forward

CLOSE = {"rtol": 1e-8, "atol": 1e-8}
EPS = 1e-5

LINEAR: dict[str, Any] = {"depth": 1, "hidden": 0}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"deep_erase": "layers"},
    {"rule": "paper_literal"},
    {"rule": "paper_literal", "deep_erase": "layers"},
    {"rule": "gd"},
    {"momentum": 0.7},
    {"momentum": 0.7, "deep_erase": "layers"},
    {"adaptive": ("k", "v", "q", "eta", "alpha")},
    {"adaptive": ("v", "alpha")},
    {"adaptive": (), "self_targets": False, "rule": "gd", "momentum": 0.9, "activation": True},
    LINEAR,
    LINEAR | {"eta_max": 2.0},
    LINEAR | {"rule": "paper_literal"},
    LINEAR | {"rule": "gd"},
    LINEAR | {"rule": "hebbian"},
    LINEAR | {"momentum": 0.7},
    LINEAR | {"adaptive": ("k", "v", "q", "eta", "alpha")},
    LINEAR | {"adaptive": ("k", "v"), "alpha_gate": False},
    LINEAR | {"adaptive": (), "self_targets": False, "eta_gate": False},
]
CHUNKS = [(1, 1), (4, 4), (2, 5), (5, 2), (1, 3), (100, 100)]
EXACT: list[dict[str, Any]] = [
    LINEAR | {"rule": rule, "read_after_write": after, "self_targets": own, "adaptive": adaptive}
    for rule in ("delta", "paper_literal", "gd", "hebbian")
    for after in (True, False)
    for own, adaptive in ((False, ()), (True, ()), (True, ("k", "eta")))
]


def make(variant: dict[str, Any]) -> tuple[TitansConfig, TitansWeights]:
    name = "hope" if variant.get("adaptive", True) else "titans"
    base = {"eta_max": 1.0, "momentum": 0.0, "activation": False, "rule": "delta"}
    config, weights = tiny(name, fast=base | variant)
    assert config.fast is not None
    fast = weights.blocks[0].fast
    assert fast is not None
    # Gates that differ from token to token, and steps large enough to matter; a deep memory with
    # more of them diverges, which the last test but two is about.
    scale = 3.0 if config.fast.depth == 1 else 1.0
    initial = tuple(tuple(scale * tensor for tensor in bank) for bank in fast.initial)
    eta_bias = None if fast.eta_bias is None else fast.eta_bias + (scale - 1)
    alpha_bias = None if fast.alpha_bias is None else fast.alpha_bias - 3
    return config.fast, replace(fast, initial=initial, eta_bias=eta_bias, alpha_bias=alpha_bias)


def run(
    config: TitansConfig,
    weights: TitansWeights,
    x_BTD: Tensor,
    *,
    state: TitansState | None = None,
    written: int = 0,
    write_BT: Tensor | None = None,
) -> tuple[Tensor, TitansState]:
    B, T, _ = x_BTD.shape
    runs = cut_runs(config, torch.full((B,), written), write_BT, T)
    state = state or fresh(config, weights, B)
    plan = RunPlan(runs, write_BT, None)
    return titans_memory(x_BTD, config=config, weights=weights, state=state, plan=plan, eps=EPS)


def inputs(T: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, T, 16, generator=torch.Generator().manual_seed(T)).double()


@pytest.fixture
def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on rows is ours, not the recurrence's."""
    monkeypatch.setattr(titans, "CLIP_NORM", 1e9)


@pytest.mark.usefixtures("unclipped")
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_is_the_recurrence_of_the_paper(
    variant: dict[str, Any], chunks: tuple[int, int]
) -> None:
    """Invariant 7, 9, 12 and the snapshots of 2.3 (xi = C floor((t - 1) / C)), for every rule,
    depth and reading. Fails when a bank is read after its write, when the two chunk sizes are mixed
    up, or when a snapshot changes a token early or late."""
    sizes = {"chunk_mem": chunks[0], "chunk_other": chunks[1]}
    config, weights = make(variant | sizes)
    x = inputs(11)
    out, state = run(config, weights, x)
    for row in range(2):
        expected, memories = reference_layer(config, weights, x[row])
        torch.testing.assert_close(out[row], expected.detach(), **CLOSE)
        for head, of in enumerate(memories):
            for index, memory in enumerate(of["mem"].running):
                mine = state.banks[-1].running[index][row, head]
                torch.testing.assert_close(mine.view_as(memory), memory.detach(), **CLOSE)


@pytest.mark.usefixtures("unclipped")
@pytest.mark.parametrize("variant", EXACT)
def test_reading_every_token_in_one_pass_is_the_recurrence(variant: dict[str, Any]) -> None:
    """Invariant 7 with C_mem = 1 under projections that change more rarely: linear attention and
    gated DeltaNet among them. Fails when the read of a token misses the decay of its own step."""
    config, weights = make(variant | {"chunk_mem": 1, "chunk_other": 6})
    assert config.per_token
    x = inputs(15, rows=1)
    out, _ = run(config, weights, x)
    expected, _ = reference_layer(config, weights, x[0])
    torch.testing.assert_close(out[0], expected.detach(), **CLOSE)


@pytest.mark.usefixtures("unclipped")
def test_forms_agree_in_float32() -> None:
    """The chunked, exact and recurrent forms agree to 1e-5 in single precision, over 130 tokens.
    Fails when decays are computed as quotients of products."""
    config, weights = make(LINEAR | {"chunk_mem": 1, "chunk_other": 64})
    single = replace(weights, initial=tuple(tuple(t / 3 for t in b) for b in weights.initial))
    x = inputs(130, rows=1)
    exact, _ = run(config, single, x)
    to32 = titans_map(single)
    folded, _ = run(config, to32, x.float())
    torch.testing.assert_close(folded, exact.float(), rtol=1e-5, atol=1e-5)
    parts, state = [], None
    for t in range(130):
        part, state = run(config, to32, x[:, t : t + 1].float(), state=state, written=t)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), folded, rtol=1e-5, atol=1e-5)


def titans_map(weights: TitansWeights) -> TitansWeights:
    from hope_runtime.layers.tree import map_tensors

    return map_tensors(lambda tensor: tensor.float(), weights)


@pytest.mark.parametrize("variant", [{}, LINEAR])
def test_tokens_of_one_chunk_do_not_see_each_other(variant: dict[str, Any]) -> None:
    """Invariant 8, 9: with the convolution reduced to the token itself, outputs of the first chunk
    are those of M_0 alone, whatever the other tokens are. Fails when a run reads what it writes."""
    config, weights = make(variant | {"chunk_mem": 6, "chunk_other": 6})
    taps = torch.zeros_like(weights.conv)
    taps[:, -1] = 1
    weights = replace(weights, conv=taps)
    x, other = inputs(9), inputs(9).flip(1)
    mixed = x.clone()
    mixed[:, :3], mixed[:, 4:6] = other[:, :3], other[:, 4:6]
    out, changed = run(config, weights, x)[0], run(config, weights, mixed)[0]
    torch.testing.assert_close(changed[:, 3], out[:, 3], **CLOSE)
    first = run(config, weights, x[:, 3:4])[0]
    torch.testing.assert_close(first[:, 0], out[:, 3], **CLOSE)
    assert (changed[:, 6:] - out[:, 6:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["hope", "titans", "gated_deltanet", "hope_attention"])
def test_a_later_token_changes_nothing_before_it(name: str) -> None:
    """Invariant 8. Fails at any look ahead, in the convolution, in a chunk or in attention."""
    config, weights = tiny(name)
    ids = random_ids(2, 20)
    other = ids.clone()
    other[:, 11] = (other[:, 11] + 1) % 40
    out, changed = forward(config, weights, ids)[0], forward(config, weights, other)[0]
    assert torch.equal(out[:, :11], changed[:, :11])
    assert (out[:, 11:] - changed[:, 11:]).abs().amax(-1).min() > 0


@pytest.mark.parametrize("chunks", [(3, 4), (4, 3), (1, 5)])
@pytest.mark.parametrize("variant", [{}, LINEAR])
def test_each_memory_changes_at_its_own_multiples(
    variant: dict[str, Any], chunks: tuple[int, int]
) -> None:
    """Invariant 12. Fails when one chunk size is used for both kinds."""
    config, weights = make(variant | {"chunk_mem": chunks[0], "chunk_other": chunks[1]})
    x, state = inputs(13), fresh(config, weights, 2)
    for t in range(13):
        before = state
        _, state = run(config, weights, x[:, t : t + 1], state=state, written=t)
        for bank, (old, new) in enumerate(zip(before.banks, state.banks, strict=True)):
            period = chunks[0] if bank == len(state.banks) - 1 else chunks[1]
            read = "running" if config.per_token and bank == len(state.banks) - 1 else "snapshot"
            same = torch.equal(getattr(old, read)[0], getattr(new, read)[0])
            assert same == bool((t + 1) % period), (t, bank)


def test_keys_and_queries_are_unit_vectors_and_nought_is_safe() -> None:
    """Invariant 10. Fails when the norm of zero is divided by, forward or backward."""
    x = torch.randn(5, 8)
    norms = titans.unit(x).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(5), rtol=1e-6, atol=1e-6)
    zero = torch.zeros(8, requires_grad=True)
    titans.unit(zero).sum().backward()
    assert not titans.unit(zero).any()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()
    huge = titans.unit(torch.full((8,), 3e38))
    assert huge.isfinite().all()


def test_a_static_query_has_no_memory_and_an_adaptive_one_no_projection() -> None:
    """Invariant 11. Fails when a model holds both: one would be dead weight."""
    _, weights = make({})
    assert weights.q is not None
    _, other = make({"adaptive": ("k", "v", "q", "eta", "alpha")})
    assert other.q is None
    assert [len(bank) for bank in weights.initial] == [len(bank) for bank in other.initial]
    assert weights.initial[0][1].shape[1] == 2
    assert other.initial[0][1].shape[1] == 3


@pytest.mark.parametrize("variant", [{}, LINEAR, {"momentum": 0.7}, LINEAR | {"chunk_mem": 1}])
def test_tokens_that_do_not_write_leave_every_bit(variant: dict[str, Any]) -> None:
    """Invariant 24, 25, 3. Fails when a silent token decays a memory or its velocity, or counts."""
    config, weights = make({"chunk_mem": 4, "chunk_other": 3} | variant)
    x = inputs(10)
    _, state = run(config, weights, x)
    silent = torch.zeros(2, 7, dtype=torch.bool)
    _, after = run(config, weights, inputs(7), state=state, written=10, write_BT=silent)
    assert_same(after.banks, state.banks)
    mixed = torch.tensor([[True, False, True, True, False, False, True]] * 2)
    out, some = run(config, weights, inputs(7), state=state, written=10, write_BT=mixed)
    assert out.isfinite().all()
    assert not torch.equal(some.banks[-1].running[0], state.banks[-1].running[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_token_repeated_for_long_stays_finite(variant: dict[str, Any]) -> None:
    """Invariant 28: every rule, with gates at their strongest. Fails without the bound on rows."""
    config, weights = make({"chunk_mem": 8, "chunk_other": 8} | variant)
    if weights.eta_bias is not None:
        weights = replace(weights, eta_bias=weights.eta_bias + 50)
    if weights.alpha_bias is not None:
        weights = replace(weights, alpha_bias=weights.alpha_bias + 50)
    x = inputs(1).expand(-1, 640, -1)
    out, state = run(config, weights, x)
    assert out.isfinite().all()
    for bank in state.banks:
        for tensor in bank.snapshot:
            norm = tensor.norm(dim=-1)
            limit = titans.CLIP_NORM * (1 if config.self_targets else 8**0.5)
            assert float(norm.max()) <= limit * (1 + 1e-9)


def test_the_outer_gradient_flows_through_the_writes() -> None:
    """Section 2.2: M_0 of every memory, gates included, learns from tokens of later chunks. Fails
    when a write is taken out of the graph."""
    for variant in ({}, LINEAR, LINEAR | {"chunk_mem": 1}):
        config, weights = make({"chunk_mem": 4, "chunk_other": 4} | variant)
        leaves = [tensor.clone().requires_grad_() for bank in weights.initial for tensor in bank]
        sizes = iter(leaves)
        initial = tuple(tuple(next(sizes) for _ in bank) for bank in weights.initial)
        out, _ = run(config, replace(weights, initial=initial), inputs(12))
        for gradient in torch.autograd.grad(out[:, 8:].square().sum(), leaves):
            assert float(gradient.abs().sum()) > 0


def test_the_gradient_of_a_layer_is_right() -> None:
    """By finite differences, through two boundaries. Fails when stop-gradients sit elsewhere."""
    config, weights = make({"chunk_mem": 2, "chunk_other": 3})
    x = inputs(6, rows=1).requires_grad_()

    def of(x_BTD: Tensor, inner: Tensor) -> Tensor:
        bank = (inner, weights.initial[0][1])
        return run(config, replace(weights, initial=(bank, *weights.initial[1:])), x_BTD)[0]

    inner = weights.initial[0][0].clone().requires_grad_()
    assert torch.autograd.gradcheck(of, (x, inner))
