"""The batched pass: every row computes what it would alone, whatever lies beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.models.decoder.batched import AdapterStack, RowInput, forward_rows
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel

CAPACITY = 48


def terms_of(model: BaseModel, rank: int, seed: int) -> LoraAdapter | None:
    """A memory that changes much; None for rank 0."""
    if not rank:
        return None
    generator = torch.Generator().manual_seed(seed)
    tensors = initial(model.config, rank, seed).tensors()
    return LoraAdapter(
        **{
            name: tensor
            if name.endswith("_a")
            else torch.randn(tensor.shape, generator=generator) * 0.3
            for name, tensor in tensors.items()
        }
    ).to(model.dtype)


def row_of(model: BaseModel, before: int, new: int, rank: int, seed: int) -> RowInput:
    """A row that has read `before` tokens under its terms and reads `new` ones next."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.vocab_size
    ids = torch.randint(vocabulary, (before + new,), generator=generator).tolist()
    cache = KVCache(model.config, capacity=CAPACITY, dtype=model.dtype)
    adapter = terms_of(model, rank, seed)
    if before:
        with torch.no_grad():
            forward(model, torch.tensor([ids[:before]]), cache=cache, adapter=adapter)
    return RowInput(tuple(ids[before:]), cache, adapter)


def together(model: BaseModel, rows: list[RowInput]) -> list[torch.Tensor]:
    rows = sorted(rows, key=lambda row: len(row.ids) > 1)
    stack = AdapterStack(model, [row.adapter for row in rows if len(row.ids) == 1])
    return forward_rows(model, rows, stack)


SHAPES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from([0, 1, 3, 4])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES)
def test_a_row_computes_what_it_would_alone(
    tiny_model: BaseModel, shapes: list[tuple[int, int, int]]
) -> None:
    shapes = sorted(shapes, key=lambda shape: shape[1] > 1)
    rows = [row_of(tiny_model, *shape, seed=i) for i, shape in enumerate(shapes)]
    apart = [row_of(tiny_model, *shape, seed=i) for i, shape in enumerate(shapes)]
    found = together(tiny_model, rows)
    for (before, new, _), row, alone, hidden_TD in zip(shapes, rows, apart, found, strict=True):
        with torch.no_grad():
            expected = forward(
                tiny_model, torch.tensor([alone.ids]), cache=alone.cache, adapter=alone.adapter
            )
        torch.testing.assert_close(hidden_TD, expected[0], rtol=1e-6, atol=1e-8)
        assert row.cache.length == alone.cache.length == before + new
        filled = slice(0, before + new)
        torch.testing.assert_close(row.cache.k[..., filled, :], alone.cache.k[..., filled, :])
        torch.testing.assert_close(row.cache.v[..., filled, :], alone.cache.v[..., filled, :])


def test_a_row_of_nan_changes_no_other(tiny_model: BaseModel) -> None:
    shapes = [(9, 1, 3), (4, 1, 2), (7, 1, 0), (5, 4, 3)]
    rows = [row_of(tiny_model, *shape, seed=i) for i, shape in enumerate(shapes)]
    clean = together(tiny_model, rows)
    rows = [row_of(tiny_model, *shape, seed=i) for i, shape in enumerate(shapes)]
    adapter = rows[1].adapter
    assert adapter is not None
    broken = LoraAdapter(**{name: t * float("nan") for name, t in adapter.tensors().items()})
    rows[1] = replace(rows[1], adapter=broken)
    dirty = together(tiny_model, rows)
    assert dirty[1].isnan().all()
    for index in (0, 2, 3):
        assert torch.equal(dirty[index], clean[index])


def test_what_does_not_fit_is_refused_before_anything_is_read(tiny_model: BaseModel) -> None:
    rows = [row_of(tiny_model, 3, 1, 2, 0), row_of(tiny_model, CAPACITY - 2, 4, 2, 1)]
    with pytest.raises(WindowOverflowError, match="cache capacity of 48"):
        together(tiny_model, rows)
    assert [row.cache.length for row in rows] == [3, CAPACITY - 2]
