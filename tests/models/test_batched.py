"""The batched pass: every row computes what it would alone, whatever lies beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.kernels.native import native_kernels
from hope_runtime.layers.kernels.torch_kernels import Kernels, TorchRowKernels
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.batched import RowInput, forward_rows, stacked
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel

CAPACITY = 48


@dataclass(frozen=True)
class Way:
    """A model in the dtype that its kernels know, and how near a row must come to what it computes
    alone."""

    model: BaseModel
    kernels: Kernels
    close: dict[str, float]


@pytest.fixture(scope="module", params=["torch", "float32", "bfloat16"])
def way(request: pytest.FixtureRequest, tiny_model: BaseModel) -> Way:
    """Torch's kernels, and the compiled ones where this machine can have them."""
    if request.param == "torch":
        return Way(tiny_model, TorchRowKernels(), {"rtol": 1e-6, "atol": 1e-8})
    dtype = getattr(torch, request.param)
    native = native_kernels(dtype)
    if native is None:
        pytest.skip("there are no compiled kernels on this machine")
    near = 1e-4 if dtype is torch.float32 else 5e-2
    return Way(tiny_model.to(dtype, "cpu"), native, {"rtol": near, "atol": near})


def terms_of(model: BaseModel, rank: int, seed: int) -> ServedAdapter | None:
    """A memory that changes much; None for rank 0."""
    if not rank:
        return None
    generator = torch.Generator().manual_seed(seed)
    tensors = initial(model.config, rank, seed).tensors()
    terms = {
        name: tensor
        if name.endswith("_a")
        else torch.randn(tensor.shape, generator=generator) * 0.3
        for name, tensor in tensors.items()
    }
    return ServedAdapter.of(LoraAdapter(**terms), model.dtype)


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


def together(way: Way, rows: list[RowInput]) -> list[torch.Tensor]:
    rows = sorted(rows, key=lambda row: len(row.ids) > 1)
    adapters = [row.adapter for row in rows if len(row.ids) == 1]
    stack = stacked(way.model, adapters, way.kernels)
    return forward_rows(way.model, rows, stack, kernels=way.kernels)


SHAPES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 6), st.sampled_from([0, 1, 3, 4])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(shapes=SHAPES)
def test_a_row_computes_what_it_would_alone(way: Way, shapes: list[tuple[int, int, int]]) -> None:
    model = way.model
    shapes = sorted(shapes, key=lambda shape: shape[1] > 1)
    rows = [row_of(model, *shape, seed=i) for i, shape in enumerate(shapes)]
    apart = [row_of(model, *shape, seed=i) for i, shape in enumerate(shapes)]
    found = together(way, rows)
    for (before, new, _), row, alone, hidden_TD in zip(shapes, rows, apart, found, strict=True):
        with torch.no_grad():
            expected = forward(
                model, torch.tensor([alone.ids]), cache=alone.cache, adapter=alone.adapter
            )
        torch.testing.assert_close(hidden_TD, expected[0], **way.close)
        assert row.cache.length == alone.cache.length == before + new
        filled = slice(0, before + new)
        for mine, other in ((row.cache.k, alone.cache.k), (row.cache.v, alone.cache.v)):
            torch.testing.assert_close(mine[..., filled, :], other[..., filled, :], **way.close)


def test_a_row_of_nan_changes_no_other(way: Way) -> None:
    shapes = [(9, 1, 3), (4, 1, 2), (7, 1, 0), (5, 4, 3)]
    rows = [row_of(way.model, *shape, seed=i) for i, shape in enumerate(shapes)]
    clean = together(way, rows)
    rows = [row_of(way.model, *shape, seed=i) for i, shape in enumerate(shapes)]
    adapter = rows[1].adapter
    assert adapter is not None
    broken = ServedAdapter(*(tensor * float("nan") for tensor in adapter.tensors()))
    rows[1] = replace(rows[1], adapter=broken)
    dirty = together(way, rows)
    assert dirty[1].isnan().all()
    for index in (0, 2, 3):
        assert torch.equal(dirty[index], clean[index])


def test_what_does_not_fit_is_refused_before_anything_is_read(way: Way) -> None:
    rows = [row_of(way.model, 3, 1, 2, 0), row_of(way.model, CAPACITY - 2, 4, 2, 1)]
    with pytest.raises(WindowOverflowError, match="cache capacity of 48"):
        together(way, rows)
    assert [row.cache.length for row in rows] == [3, CAPACITY - 2]


def test_a_row_of_one_token_computes_alone_what_it_computes_beside_others_to_the_bit(
    way: Way,
) -> None:
    if isinstance(way.kernels, TorchRowKernels):
        pytest.skip("torch promises this up to rounding only")
    shapes = [(9, 1, 3), (4, 1, 2), (17, 1, 0), (2, 1, 4), (11, 1, 1), (5, 3, 2)]
    found = together(way, [row_of(way.model, *shape, seed=i) for i, shape in enumerate(shapes)])
    for index, shape in enumerate(shapes[:5]):
        [alone] = together(way, [row_of(way.model, *shape, seed=index)])
        assert torch.equal(alone, found[index])
