"""A session's low-rank terms: the same as changing the weights, without changing them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel


@dataclass
class Terms:
    gate_a: Tensor
    gate_b: Tensor
    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def random_adapter(model: BaseModel, rank: int = 3, scale: float = 0.1) -> Terms:
    L, D, F = model.config.n_layers, model.config.d_model, model.config.d_ff
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return scale * torch.randn(shape, generator=generator, dtype=model.dtype)

    into = (draw(L, rank, D), draw(L, F, rank))
    again = (draw(L, rank, D), draw(L, F, rank))
    return Terms(*into, *again, draw(L, rank, F), draw(L, D, rank))


def materialised(model: BaseModel, adapter: Terms) -> BaseModel:
    """The model whose weights are W + B A."""
    layers = tuple(
        dataclasses.replace(
            layer,
            gate_up=layer.gate_up
            + torch.cat((adapter.gate_b[i] @ adapter.gate_a[i], adapter.up_b[i] @ adapter.up_a[i])),
            down=layer.down + adapter.down_b[i] @ adapter.down_a[i],
        )
        for i, layer in enumerate(model.weights.layers)
    )
    return dataclasses.replace(model, weights=dataclasses.replace(model.weights, layers=layers))


IDS = torch.randint(2, 258, (2, 12), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_terms_equal_changed_weights(tiny_model: BaseModel) -> None:
    adapter = random_adapter(tiny_model)
    changed = forward(materialised(tiny_model, adapter), IDS)
    torch.testing.assert_close(
        forward(tiny_model, IDS, adapter=adapter), changed, rtol=1e-10, atol=1e-10
    )
    assert not torch.allclose(changed, forward(tiny_model, IDS), atol=1e-2)


@torch.no_grad()
def test_terms_hold_while_decoding_with_a_cache(tiny_model: BaseModel) -> None:
    adapter = random_adapter(tiny_model)
    cache = KVCache(tiny_model.config, capacity=16, rows=2, dtype=tiny_model.dtype)
    parts = [
        forward(tiny_model, part, cache=cache, adapter=adapter)
        for part in IDS.split([5, 1, 1, 5], dim=1)
    ]
    whole = forward(tiny_model, IDS, adapter=adapter)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_those_through_changed_weights(tiny_model: BaseModel, masked: bool) -> None:
    mask = torch.ones(2, 12, 12, dtype=torch.bool).tril() if masked else None

    def gradients(direct: bool) -> dict[str, Tensor]:
        adapter = random_adapter(tiny_model)
        for tensor in adapter.tensors().values():
            tensor.requires_grad_()
        if direct:
            hidden = forward(tiny_model, IDS, adapter=adapter, mask_BTS=mask)
        else:
            hidden = forward(materialised(tiny_model, adapter), IDS, mask_BTS=mask)
        scores = logits(tiny_model, hidden)[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(scores, IDS[:, 1:].flatten()).backward()
        return {name: tensor.grad for name, tensor in adapter.tensors().items()}  # type: ignore[misc]

    ours, reference = gradients(direct=True), gradients(direct=False)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, reference[name], rtol=1e-8, atol=1e-12)
        assert gradient.abs().max() > 0, name
    assert not any(tensor.requires_grad for _, tensor in tiny_model.weights.named())


@torch.no_grad()
def test_a_fresh_session_is_the_base_model_bit_for_bit(base_model: BaseModel) -> None:
    adapter = random_adapter(base_model, rank=8)
    for name in ("gate_b", "up_b", "down_b"):
        getattr(adapter, name).zero_()
    ids = torch.tensor([base_model.tokenizer.encode("A fresh session knows nothing yet.")])
    assert torch.equal(forward(base_model, ids, adapter=adapter), forward(base_model, ids))
