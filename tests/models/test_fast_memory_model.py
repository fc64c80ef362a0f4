"""A branch's memory: how a text is cut, who else is there and silent tokens change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import (
    RUN_TOKENS,
    FastMemoryPass,
    FastMemoryStream,
    fresh_carry,
    fresh_state,
    read,
    write,
)
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    check_fits,
    expected_shapes,
    init_weights,
)

SMALL = FastMemoryConfig(
    d_model=12,
    sources=(0, 2),
    target=3,
    n_heads=2,
    key_width=5,
    value_width=6,
    taps=3,
    input_width=7,
    hidden=9,
)


def weights_of(config: FastMemoryConfig, seed: int = 0) -> FastMemoryWeights:
    """Random everywhere, biases too: what training may make of them."""
    generator = torch.Generator().manual_seed(seed)
    return FastMemoryWeights.from_named(
        {
            name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            for name, shape in expected_shapes(config).items()
        }
    )


def hidden(rows: int, tokens: int, config: FastMemoryConfig = SMALL, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tokens, config.seen_width, generator=generator)


WEIGHTS = weights_of(SMALL)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_any_cut_of_a_text_gives_the_same_state_and_reads(cuts: list[int]) -> None:
    seen = hidden(2, sum(cuts))
    silent = torch.arange(sum(cuts)) % 3 != 0
    mask = silent.expand(2, -1)
    whole = write(SMALL, WEIGHTS, seen, fresh_state(SMALL, 2), mask)
    found, after = read(SMALL, WEIGHTS, seen, replace(whole, carry=fresh_carry(SMALL, 2)))
    state, reading, parts = fresh_state(SMALL, 2), after, []
    reading = replace(whole, carry=fresh_carry(SMALL, 2))
    for piece, of_mask in zip(seen.split(cuts, 1), mask.split(cuts, 1), strict=True):
        state = write(SMALL, WEIGHTS, piece, state, of_mask)
        part, reading = read(SMALL, WEIGHTS, piece, reading)
        parts.append(part)
    torch.testing.assert_close(state.memory, whole.memory, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.carry, whole.carry)
    torch.testing.assert_close(reading.carry, whole.carry)
    torch.testing.assert_close(torch.cat(parts, 1), found, rtol=1e-5, atol=1e-5)


def test_long_runs_are_folded_in_parts_and_stay_one_recurrence() -> None:
    """M <- M - eta (M k - v) kᵀ, token by token and in plain words."""
    tokens = RUN_TOKENS + 37
    seen = hidden(1, tokens)
    whole = write(SMALL, WEIGHTS, seen, fresh_state(SMALL, 1)).memory
    state = fresh_state(SMALL, 1)
    for token in seen.split(1, dim=1):
        state = write(SMALL, WEIGHTS, token, state)
    torch.testing.assert_close(whole, state.memory, rtol=1e-4, atol=1e-5)


def test_a_token_is_written_by_the_delta_rule() -> None:
    """With eta 1 a key reads exactly what was written under it last."""
    certain = replace(WEIGHTS, eta=torch.zeros_like(WEIGHTS.eta), eta_bias=torch.full((2,), 40.0))
    seen = hidden(1, 30)
    state = write(SMALL, certain, seen, fresh_state(SMALL, 1))
    # The query of the token before the last, by the key's own matrix, is the last token's key.
    same = replace(certain, query=certain.key, gate=torch.zeros(2, 9), gate_bias=torch.zeros(2))
    found, _ = read(SMALL, same, seen[:, :-1], replace(state, carry=fresh_carry(SMALL, 1)))
    embedding = seen[:, -1:, : SMALL.d_model]
    unit = embedding / embedding.square().mean(-1, keepdim=True).sqrt()
    expected = unit @ certain.value.T @ certain.out.T
    torch.testing.assert_close(found[:, -1:], expected, rtol=1e-3, atol=1e-4)


def test_rows_do_not_know_each_other() -> None:
    seen = hidden(3, 20)
    state = fresh_state(SMALL, 3)
    together = write(SMALL, WEIGHTS, seen, state)
    broken = seen.clone()
    broken[1] = float("nan")
    beside = write(SMALL, WEIGHTS, broken, state)
    for row in (0, 2):
        alone = write(SMALL, WEIGHTS, seen[row : row + 1], fresh_state(SMALL, 1))
        torch.testing.assert_close(beside.memory[row], together.memory[row])
        torch.testing.assert_close(alone.memory[0], together.memory[row], rtol=1e-5, atol=1e-6)
    found, _ = read(SMALL, WEIGHTS, broken, replace(beside, carry=fresh_carry(SMALL, 3)))
    assert bool(found[[0, 2]].isfinite().all())


def test_tokens_that_do_not_write_change_no_bit() -> None:
    state = write(SMALL, WEIGHTS, hidden(2, 25), fresh_state(SMALL, 2))
    silent = torch.zeros(2, 30, dtype=torch.bool)
    after = write(SMALL, WEIGHTS, hidden(2, 30, seed=5), state, silent)
    assert torch.equal(after.memory, state.memory)
    assert not torch.equal(after.carry, state.carry)


def test_an_empty_memory_adds_exactly_zero_and_the_base_stays_the_base(
    tiny_model: BaseModel,
) -> None:
    fast_memory = beside(tiny_model)
    ids = torch.randint(2, 258, (2, 16), generator=torch.Generator().manual_seed(0))
    plain = forward(tiny_model, ids)
    reading = FastMemoryPass(fast_memory, fresh_state(fast_memory.config, 2))
    assert torch.equal(forward(tiny_model, ids, fast_memory=reading), plain)
    only_seen = FastMemoryPass(fast_memory, None)
    assert torch.equal(forward(tiny_model, ids, fast_memory=only_seen), plain)
    assert only_seen.hidden.shape == (2, 16, fast_memory.config.seen_width)


@torch.no_grad()
def test_decoding_reads_what_one_pass_reads(tiny_model: BaseModel) -> None:
    fast_memory = beside(tiny_model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 258, (2, 18), generator=generator)
    first = FastMemoryPass(fast_memory, None)
    plain = forward(tiny_model, ids, fast_memory=first)
    written = write(
        fast_memory.config, fast_memory.weights, first.hidden, fresh_state(fast_memory.config, 2)
    )
    snapshot = replace(written, carry=fresh_carry(fast_memory.config, 2))
    whole = forward(tiny_model, ids, fast_memory=FastMemoryPass(fast_memory, snapshot))
    assert not torch.allclose(whole, plain)
    cache = KVCache(tiny_model.config, capacity=18, rows=2, dtype=tiny_model.dtype)
    state: FastMemoryStream | None = snapshot
    parts = []
    for piece in ids.split([7, 1, 1, 9], dim=1):
        reading = FastMemoryPass(fast_memory, state)
        parts.append(forward(tiny_model, piece, cache=cache, fast_memory=reading))
        state = reading.after
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


def test_gradients_go_through_the_write() -> None:
    config = replace(SMALL, taps=2, hidden=4, input_width=3, key_width=3, value_width=2)
    names = [name for name, _ in weights_of(config).named()]
    tensors = [tensor.double().requires_grad_() for _, tensor in weights_of(config).named()]
    told, asked = hidden(1, 5, config).double(), hidden(1, 3, config, seed=7).double()
    empty = fresh_state(config, 1)
    empty = FastMemoryStream(empty.memory.double(), empty.carry.double())

    def answer(*given: Tensor) -> Tensor:
        weights = FastMemoryWeights.from_named(dict(zip(names, given, strict=True)))
        state = write(config, weights, told, empty)
        found, _ = read(config, weights, asked, replace(state, carry=empty.carry))
        return found

    assert torch.autograd.gradcheck(answer, tensors)


def test_a_branch_of_another_shape_is_refused(tiny_model: BaseModel) -> None:
    fast_memory = beside(tiny_model)
    check_fits(fast_memory, tiny_model)
    wide = replace(fast_memory.config, d_model=fast_memory.config.d_model + 4)
    with pytest.raises(ValueError, match="another shape"):
        check_fits(FastMemory(wide, init_weights(wide, 0)), tiny_model)


@pytest.mark.parametrize("wrong", [{"sources": (3, 1)}, {"sources": (4,)}, {"taps": 0}])
def test_what_makes_no_sense_is_no_configuration(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        replace(SMALL, **wrong)  # type: ignore[arg-type]


def beside(model: BaseModel) -> FastMemory:
    config = FastMemoryConfig(
        d_model=model.config.d_model,
        sources=(0, 1),
        target=model.config.n_layers,
        key_width=8,
        value_width=8,
        input_width=8,
        hidden=8,
    )
    return FastMemory(config, weights_of(config))
