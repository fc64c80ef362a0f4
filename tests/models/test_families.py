"""Families of models against `transformers`: logits, gradients and greedy replies, however the
tokens come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from family_variants import GEMMA, VARIANTS, VOCAB, Variant, saved
from safetensors.torch import load_file, save_file
from torch import Tensor

from hope_runtime.checkpoints import load_base_model
from hope_runtime.layers.kernels.native import native_kernels
from hope_runtime.layers.kernels.torch_kernels import Kernels, TorchRowKernels
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.learning.packing import Example, pack
from hope_runtime.learning.recipes.specific.batch import Batch, Item
from hope_runtime.learning.recipes.specific.lean import losses
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.reference import scores
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.batched import (
    RowInput,
    forward_rows,
    logits_of_rows,
    stacked,
)
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
IDS = torch.randint(3, 259, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def pair(
    request: pytest.FixtureRequest,
    tiny_tokenizer_json: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, BaseModel]:
    """A model of transformers', and ours from its directory."""
    variant: Variant = request.param
    reference = variant.make()
    directory = saved(reference, tmp_path_factory.mktemp("family"), tiny_tokenizer_json)
    cache = tmp_path_factory.mktemp("cache")
    return reference, load_base_model(directory, dtype="float32", cache_dir=cache)


@pytest.fixture(params=["torch", "native"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """Torch's kernels, and the compiled ones where this machine can have them."""
    if request.param == "torch":
        return TorchRowKernels()
    native = native_kernels(torch.float32)
    if native is None:
        pytest.skip("there are no compiled kernels on this machine")
    return native


def adapter_of(model: BaseModel, rank: int = 3) -> LoraAdapter:
    generator = torch.Generator().manual_seed(1)
    tensors = initial(model.config, rank, seed=0).tensors()
    return LoraAdapter(
        **{
            name: part
            if name.endswith("_a")
            else torch.randn(part.shape, generator=generator) * 0.1
            for name, part in tensors.items()
        }
    )


def mlps(reference: Any) -> list[dict[str, Tensor]]:
    """The matrices of each layer's MLP: views into the reference's parameters."""
    return [split(layer.mlp, lambda parameter: parameter.data) for layer in reference.model.layers]


def split(mlp: Any, of: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    """Gate, up and down of an MLP, which Phi has partly fused."""
    if hasattr(mlp, "gate_up_proj"):
        gate, up = of(mlp.gate_up_proj.weight).chunk(2)
    else:
        gate, up = of(mlp.gate_proj.weight), of(mlp.up_proj.weight)
    return {"gate": gate, "up": up, "down": of(mlp.down_proj.weight)}


def adapted_reference(
    reference: Any, adapter: LoraAdapter, ids: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of transformers' model with the adapter in its weights, and the adapter's gradients by
    the chain rule from those of the weights."""
    whole = mlps(reference)
    kept = [{name: matrix.clone() for name, matrix in layer.items()} for layer in whole]
    try:
        for index, layer in enumerate(whole):
            for name, matrix in layer.items():
                a, b = (getattr(adapter, f"{name}_{part}")[index] for part in "ab")
                matrix += b @ a
        parameters = list(reference.parameters())
        for parameter in parameters:
            parameter.grad = None
        loss = reference(ids, labels=ids).loss
        loss.backward()
        gradients: dict[str, list[Tensor]] = {name: [] for name in adapter.tensors()}
        for index, layer in enumerate(reference.model.layers):
            for name, gradient in split(layer.mlp, lambda parameter: parameter.grad).items():
                a, b = (getattr(adapter, f"{name}_{part}")[index] for part in "ab")
                gradients[f"{name}_a"].append(b.T @ gradient)
                gradients[f"{name}_b"].append(gradient @ a.T)
        return loss.detach(), {name: torch.stack(parts) for name, parts in gradients.items()}
    finally:
        for mine, theirs in zip(whole, kept, strict=True):
            for name, matrix in mine.items():
                matrix.copy_(theirs[name])


def cross_entropy(logits_BTV: Tensor, ids: Tensor) -> Tensor:
    return nnf.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def lean(
    model: BaseModel,
    examples: list[Example],
    adapter: LoraAdapter,
    *,
    weight: float,
    first: int = 0,
) -> tuple[Tensor, Tensor, Batch]:
    """The lean pass over examples, from layer `first` on: the loss, that of each target, and the
    batch."""
    lower = LowerLayers(model, Workers(1), first, adapter_of(model))
    lower.read(examples)
    batch = Batch([Item(example, weight=weight) for example in examples], "cpu")
    return (*losses(model, lower.above(batch), adapter), batch)


def assert_gradient(found: Tensor | None, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    assert found is not None
    assert largest > 1e-5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * largest)


def learning(adapter: LoraAdapter) -> LoraAdapter:
    return LoraAdapter(
        **{name: part.clone().requires_grad_() for name, part in adapter.tensors().items()}
    )


@torch.no_grad()
@pytest.mark.parametrize("cuts", [[24], [1] * 24, [9, 1, 1, 13]], ids=str)
def test_logits_whole_and_in_pieces(pair: tuple[Any, BaseModel], cuts: list[int]) -> None:
    reference, model = pair
    cache = KVCache(model.config, capacity=32, rows=2)
    hidden = [forward(model, part, cache=cache) for part in IDS.split(cuts, dim=1)]
    found = logits(model, torch.cat(hidden, 1))
    torch.testing.assert_close(found, reference(IDS).logits, **CLOSE)


def test_loss_and_gradients_of_an_adapter(pair: tuple[Any, BaseModel]) -> None:
    reference, model = pair
    adapter = learning(adapter_of(model))
    loss = cross_entropy(logits(model, forward(model, IDS, adapter=adapter)), IDS)
    loss.backward()
    expected_loss, expected = adapted_reference(reference, adapter_of(model), IDS)
    torch.testing.assert_close(loss.detach(), expected_loss, **CLOSE)
    for name, part in adapter.tensors().items():
        assert_gradient(part.grad, expected[name])


def test_packed_and_lean_passes_learn_as_texts_alone(pair: tuple[Any, BaseModel]) -> None:
    """Both training passes, with a shared prefix that sliding attention leaves behind."""
    _, model = pair
    prefix = tuple(IDS[0, :9].tolist())
    tails = [tuple(IDS[0, 9:].tolist()), tuple(IDS[1, 9:17].tolist())]
    examples = [Example(tail, (True,) * len(tail), prefix) for tail in tails]
    adapter = adapter_of(model)
    with torch.no_grad():
        found = scores(model, packed := pack(examples, row_tokens=64), adapter)
        for owner, tail in enumerate(tails):
            whole = torch.tensor([[*prefix, *tail]])
            alone = logits(model, forward(model, whole, adapter=adapter))[0]
            mine = found[packed.owners_N == owner]
            torch.testing.assert_close(mine, alone[-1 - len(mine) : -1], **CLOSE)
    packed_adapter, lean_adapter = learning(adapter), learning(adapter)
    count = len(packed.targets_N)
    nnf.cross_entropy(scores(model, packed, packed_adapter), packed.targets_N).backward()
    # The lean pass reads the prefix without gradient, so its first target is none.
    total, each, batch = lean(model, examples, lean_adapter, weight=1 / count)
    total.backward()
    for owner in range(len(tails)):
        mine = found[packed.owners_N == owner]
        targets = packed.targets_N[packed.owners_N == owner]
        nats = nnf.cross_entropy(mine, targets, reduction="none")
        theirs = each[batch.tensors.owners_M == owner]
        torch.testing.assert_close(theirs, nats[-len(theirs) :], **CLOSE)
    assert all(part.grad is not None for part in packed_adapter.tensors().values())


@pytest.mark.parametrize("first", [0, 1])
def test_the_lean_pass_has_the_gradients_of_transformers(
    pair: tuple[Any, BaseModel], first: int
) -> None:
    """Also where it begins above a layer that is left as it is."""
    reference, model = pair
    adapter = learning(adapter_of(model))
    examples = [Example(tuple(row.tolist()), (True,) * len(row)) for row in IDS]
    count = sum(len(example.ids) - 1 for example in examples)
    loss, _, _ = lean(model, examples, adapter, weight=1 / count, first=first)
    loss.backward()
    expected_loss, expected = adapted_reference(reference, adapter_of(model), IDS)
    torch.testing.assert_close(loss.detach(), expected_loss, **CLOSE)
    for name, part in adapter.tensors().items():
        assert part.grad is not None
        assert_gradient(part.grad[first:], expected[name][first:])


@torch.no_grad()
def test_rows_of_a_batch_compute_what_they_would_alone(
    pair: tuple[Any, BaseModel], kernels: Kernels
) -> None:
    reference, model = pair
    adapters = [None, ServedAdapter.of(adapter_of(model), model.dtype), None]
    rows, texts = [], []
    for (before, new), adapter, text in zip(
        [(20, 1), (3, 1), (11, 13)], adapters, (IDS[0], IDS[1], IDS[0]), strict=True
    ):
        ids = text[: before + new]
        cache = KVCache(model.config, capacity=32)
        forward(model, ids[None, :before], cache=cache, adapter=adapter)
        rows.append(RowInput(tuple(ids[before:].tolist()), cache, adapter))
        texts.append(ids)
    stack = stacked(model, adapters[:2], kernels)
    hidden = forward_rows(model, rows, stack, kernels=kernels)
    last = logits_of_rows(model, torch.stack([part[-1] for part in hidden]), kernels)
    for row, ids, found in zip(rows, texts, last, strict=True):
        alone = logits(model, forward(model, ids[None], adapter=row.adapter))[0, -1]
        torch.testing.assert_close(found, alone, **CLOSE)
        if row.adapter is None:
            torch.testing.assert_close(found, reference(ids[None]).logits[0, -1], **CLOSE)


@torch.no_grad()
def test_greedy_tokens_are_those_of_transformers(pair: tuple[Any, BaseModel]) -> None:
    reference, model = pair
    cache = KVCache(model.config, capacity=128)
    ids, found = IDS[:1, :10], []
    theirs = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=VOCAB,
        pad_token_id=0,
    )
    for _ in range(64):
        ids = logits(model, forward(model, ids, cache=cache)[:, -1:]).argmax(-1)
        found.append(int(ids))
    assert found == theirs[0, 10:].tolist()


@pytest.mark.parametrize("stem", ["language_model.model.", "model.language_model."])
@torch.no_grad()
def test_the_text_model_of_one_that_sees(
    stem: str, tiny_tokenizer_json: str, tmp_path: Path
) -> None:
    """Gemma 3 from 4B on: its configuration is nested and leaves out what is usual."""
    usual = {"num_attention_heads": 8, "num_key_value_heads": 4, "query_pre_attn_scalar": 256}
    reference = Variant("Gemma3", GEMMA | usual).make()
    directory = saved(reference, tmp_path / "model", tiny_tokenizer_json)
    raw = json.loads((directory / "config.json").read_text())
    text = {key: value for key, value in raw.items() if key not in {*usual, "rope_parameters"}}
    (directory / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    )
    tensors = load_file(directory / "model.safetensors")
    renamed = {name.replace("model.", stem, 1): part for name, part in tensors.items()}
    save_file(renamed, directory / "model.safetensors")
    model = load_base_model(directory, dtype="float32", cache_dir=tmp_path / "cache")
    found = logits(model, forward(model, IDS))
    torch.testing.assert_close(found, reference(IDS).logits, **CLOSE)
