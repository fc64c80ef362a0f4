"""The forward pass against itself: cached, packed and padded runs give what a plain run gives."""

from __future__ import annotations

import pytest
import torch

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def random_ids(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 258, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def cache_for(model: BaseModel, capacity: int = 64, rows: int = 1) -> KVCache:
    return KVCache(model.config, capacity=capacity, rows=rows, dtype=model.dtype)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[24], [1] * 24, [7, 1, 1, 9, 6], [1, 23]])
def test_a_cache_changes_nothing_however_the_tokens_are_cut(
    tiny_model: BaseModel, cuts: list[int]
) -> None:
    ids = random_ids(3, 24)
    cache = cache_for(tiny_model, rows=3)
    parts = [forward(tiny_model, part, cache=cache) for part in ids.split(cuts, dim=1)]
    assert cache.length == 24
    torch.testing.assert_close(torch.cat(parts, 1), forward(tiny_model, ids), **TIGHT)


@torch.no_grad()
def test_truncating_a_cache_forgets(tiny_model: BaseModel) -> None:
    ids, other = random_ids(1, 10), random_ids(1, 6, seed=1)
    cache = cache_for(tiny_model)
    forward(tiny_model, ids, cache=cache)
    cache.truncate(4)
    after = forward(tiny_model, other, cache=cache)
    expected = forward(tiny_model, torch.cat((ids[:, :4], other), 1))[:, 4:]
    torch.testing.assert_close(after, expected, **TIGHT)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate(11)


@torch.no_grad()
def test_a_packed_row_equals_its_texts_alone(tiny_model: BaseModel) -> None:
    lengths = [5, 9, 1, 6]
    texts = [random_ids(1, n, seed=n) for n in lengths]
    owner = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    mask = (owner[:, None] == owner[None]).tril()[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = forward(tiny_model, torch.cat(texts, 1), positions_BT=positions, mask_BTS=mask)
    alone = torch.cat([forward(tiny_model, text) for text in texts], 1)
    torch.testing.assert_close(packed, alone, **TIGHT)


@torch.no_grad()
def test_padded_rows_decode_as_they_would_alone(tiny_model: BaseModel) -> None:
    lengths, T = [3, 8], 8
    texts = [random_ids(1, n, seed=n) for n in lengths]
    ids = torch.cat([torch.nn.functional.pad(text, (T - text.shape[1], 0)) for text in texts])
    offset = torch.tensor([[T - n] for n in lengths])
    keys, queries = torch.arange(T + 1), torch.arange(T)
    real = keys[None, None, :T] >= offset[:, None]
    # A padding token sees itself, because a row of nothing but masks has no softmax.
    mask = (real & (keys[:T] <= queries[:, None])) | torch.eye(T, dtype=torch.bool)
    cache = cache_for(tiny_model, rows=2)
    positions = (queries[None] - offset).clamp(min=0)
    forward(tiny_model, ids, positions_BT=positions, mask_BTS=mask, cache=cache)
    next_ids = random_ids(2, 1, seed=9)
    mask = (keys[None] >= offset)[:, None]
    positions = torch.tensor([[n] for n in lengths])
    hidden = forward(tiny_model, next_ids, positions_BT=positions, mask_BTS=mask, cache=cache)
    for row, text in enumerate(texts):
        alone = forward(tiny_model, torch.cat((text, next_ids[row : row + 1]), 1))[:, -1]
        torch.testing.assert_close(hidden[row], alone, **TIGHT)


@torch.no_grad()
def test_what_does_not_fit_is_refused_and_leaves_the_cache(tiny_model: BaseModel) -> None:
    cache = cache_for(tiny_model, capacity=8)
    forward(tiny_model, random_ids(1, 6), cache=cache)
    with pytest.raises(WindowOverflowError, match="cache capacity of 8"):
        forward(tiny_model, random_ids(1, 3), cache=cache)
    assert cache.length == 6
    with pytest.raises(WindowOverflowError, match="256 positions"):
        forward(tiny_model, random_ids(1, 257))


def test_a_cache_says_its_size(tiny_model: BaseModel) -> None:
    cache = cache_for(tiny_model, capacity=16, rows=2)
    assert (cache.rows, cache.capacity, cache.length) == (2, 16, 0)
    assert cache.k.shape == (2, 2, 2, 16, 8)
    assert cache.nbytes == 2 * cache.k.numel() * 8


@torch.no_grad()
def test_the_real_model_agrees_with_its_cached_self(base_model: BaseModel) -> None:
    ids = torch.tensor([base_model.tokenizer.encode("The river was wide, and the boat was small.")])
    cache = cache_for(base_model)
    parts = [forward(base_model, part, cache=cache) for part in (ids[:, :6], ids[:, 6:7])]
    cached, plain = torch.cat(parts, 1), forward(base_model, ids[:, :7])
    torch.testing.assert_close(
        logits(base_model, cached), logits(base_model, plain), rtol=1e-4, atol=1e-4
    )
