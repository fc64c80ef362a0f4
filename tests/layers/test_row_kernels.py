"""Compiled kernels: what torch computes, for every processor that they are compiled for."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.attention import rotary_factors
from hope_runtime.layers.kernels import build
from hope_runtime.layers.kernels.build import VARIANTS, processor_flags, variants_for
from hope_runtime.layers.kernels.native import (
    CacheAddresses,
    Integers,
    NativeKernels,
    native_kernels,
    row_kernels,
)
from hope_runtime.layers.kernels.torch_kernels import TorchKernels, TorchRowKernels

NEAR = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
PLAIN = TorchKernels()
USABLE = [variant for variant in VARIANTS if variant.needs <= processor_flags()]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    dtype: torch.dtype = request.param
    return dtype


@pytest.fixture(scope="module", params=[variant.name for variant in VARIANTS])
def kernels(request: pytest.FixtureRequest, dtype: torch.dtype) -> NativeKernels:
    [variant] = [each for each in VARIANTS if each.name == request.param]
    if variant not in USABLE:
        pytest.skip("this processor has no such instructions")
    path = build.library(variant)
    if path is None:
        pytest.skip("no C++ compiler is installed")
    try:
        return NativeKernels(path, dtype)
    except OSError:
        pytest.skip("the system does not lend the processor's registers")


def some(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(found: Tensor, expected: Tensor) -> None:
    """`expected` is computed in float32."""
    near = NEAR[found.dtype]
    scale = float(expected.abs().max()) + 1e-6
    torch.testing.assert_close(found.float(), expected, rtol=near, atol=near * scale)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 17, 33])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 48), (37, 21), (1, 1), (200, 1030), (96, 1030), (32, 16)]
)
def test_products(
    kernels: NativeKernels, dtype: torch.dtype, rows: int, inputs: int, outputs: int
) -> None:
    x, weight = some(dtype, rows, inputs), some(dtype, outputs, inputs, seed=1)
    bias = some(dtype, outputs, seed=2)
    assert_near(kernels.linear(x, weight), nnf.linear(x.float(), weight.float()))
    expected = nnf.linear(x.float(), weight.float(), bias.float())
    assert_near(kernels.linear(x, weight, bias), expected)


@pytest.mark.parametrize("inputs", [64, 75])
def test_a_row_depends_neither_on_its_neighbours_nor_on_threads(
    kernels: NativeKernels, dtype: torch.dtype, inputs: int
) -> None:
    x, weight = some(dtype, 19, inputs), some(dtype, 2007, inputs, seed=1)
    found = kernels.linear(x, weight)
    for row in range(19):
        assert torch.equal(kernels.linear(x[row : row + 1], weight)[0], found[row])
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(kernels.linear(x, weight), found)
        assert torch.equal(kernels.linear(x[:1], weight)[0], found[0])
    finally:
        torch.set_num_threads(threads)
    x[3] = math.nan
    broken = kernels.linear(x, weight)
    assert broken[3].isnan().all()
    others = [row for row in range(19) if row != 3]
    assert torch.equal(broken[others], found[others])


@pytest.mark.parametrize("width", [64, 45])
def test_norms_and_gates(kernels: NativeKernels, dtype: torch.dtype, width: int) -> None:
    x, weight = some(dtype, 3, width), some(dtype, width, seed=1)
    expected = nnf.rms_norm(x.float(), (width,), weight.float(), 1e-5)
    assert_near(kernels.rms_norm(x, weight, 1e-5), expected)
    both = some(dtype, 3, 2 * width) * 8
    gate, up = both.chunk(2, dim=-1)
    for activation in ("silu", "gelu_tanh"):
        expected = PLAIN.gated(gate.float(), up.float(), activation)
        assert_near(kernels.gated(gate, up, activation), expected)
    # More rows than few, and tensors that are not halves of one, are torch's.
    many = some(dtype, 40, width)
    assert torch.equal(kernels.gated(many, many, "silu"), PLAIN.gated(many, many, "silu"))
    assert torch.equal(kernels.rms_norm(many, weight, 1e-5), PLAIN.rms_norm(many, weight, 1e-5))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("threads", [1, 4])
def test_each_row_has_its_own_factors(
    kernels: NativeKernels, dtype: torch.dtype, parts: int, threads: int
) -> None:
    inputs, outputs, layers, ranks = 40, 600, 2, [3, 0, 20]
    x, out = some(dtype, 3, inputs), some(dtype, 3, parts * outputs, seed=1)
    a = [some(dtype, layers, parts * rank, inputs, seed=rank) for rank in ranks]
    b = [some(dtype, layers, parts, rank, outputs, seed=rank + 1) for rank in ranks]
    found = out.clone()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kernels.add_low_rank(
            x,
            found,
            parts=parts,
            layer=1,
            ranks=Integers.of(ranks),
            a=Integers.of([each.data_ptr() for each in a]),
            b=Integers.of([each.data_ptr() for each in b]),
        )
    finally:
        torch.set_num_threads(before)
    for row, rank in enumerate(ranks):
        inner = (a[row][1].float() @ x[row].float()).view(parts, 1, rank)
        expected = out[row].float() + (inner @ b[row][1].float()).flatten()
        assert_near(found[row], expected)
    assert torch.equal(found[1], out[1])


@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (5, 0.0), (0, 3.0)])
def test_attention_over_caches_of_unequal_length(
    kernels: NativeKernels, dtype: torch.dtype, window: int, softcap: float
) -> None:
    H, G, K, capacity, layers, lengths = 6, 2, 20, 40, 2, [0, 7, 39]
    caches = [some(dtype, 2, layers, G, capacity, K, seed=row) for row in range(3)]
    expected_caches = [cache.clone() for cache in caches]
    qkv = some(dtype, 3, (H + 2 * G) * K, seed=9)
    cos, sin = rotary_factors(some(torch.float32, 3, K // 2, seed=4))
    cos, sin = cos.to(dtype), sin.to(dtype)
    found = qkv.new_empty(3, H * K)
    kernels.attend(
        qkv,
        (cos, sin),
        found,
        heads=(H, G, K),
        layer=1,
        caches=CacheAddresses(
            k=Integers.of([cache[0].data_ptr() for cache in caches]),
            v=Integers.of([cache[1].data_ptr() for cache in caches]),
            strides=Integers.of([G * capacity * K] * 3),
            capacities=Integers.of([capacity] * 3),
            lengths=Integers.of(lengths),
        ),
        window=window,
        scale=0.3,
        softcap=softcap,
    )
    for row, length in enumerate(lengths):
        heads = qkv[row].float().view(H + 2 * G, K)
        turned = heads * cos[row].float() + heads.roll(K // 2, -1) * sin[row].float()
        k, v = expected_caches[row][:, 1]
        k[:, length], v[:, length] = turned[H : H + G].to(dtype), heads[H + G :].to(dtype)
        assert_near(caches[row][0, 1], k.float())
        assert torch.equal(caches[row][1], expected_caches[row][1])
        assert torch.equal(caches[row][0, 0], expected_caches[row][0, 0])
        first = max(0, length + 1 - window) if window else 0
        keys, values = (x[:, first : length + 1].float() for x in (k, v))
        q = turned[:H].to(dtype).float().view(G, H // G, K)
        scores = q @ keys.mT * 0.3
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        assert_near(found[row], (scores.softmax(-1) @ values).flatten())


def test_variants_are_chosen_by_the_processors_flags() -> None:
    every = VARIANTS[0].needs
    assert [variant.name for variant in VARIANTS] == ["amx", "avx512bf16", "avx512", "avx2"]
    assert variants_for(every | VARIANTS[3].needs | {"sse"}) == list(VARIANTS)
    assert variants_for(every - {"amx_tile"}) == list(VARIANTS[1:3])
    assert variants_for(VARIANTS[3].needs) == [VARIANTS[3]]
    assert variants_for(frozenset({"sse"})) == []


def test_a_variant_that_cannot_be_made_or_used_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_kernels_now = native_kernels.__wrapped__
    library, asked = build.library, list[str]()
    (tmp_path / "broken.so").write_bytes(b"no library")

    def made(variant: build.Variant) -> Path | None:
        asked.append(variant.name)
        if len(asked) == 1:
            return None
        return tmp_path / "broken.so" if len(asked) == 2 else library(variant)

    monkeypatch.setattr(build, "library", made)
    found = native_kernels_now(torch.float32)
    assert asked == [variant.name for variant in USABLE[:3]]
    assert (found is not None) == (len(USABLE) > 2 and library(USABLE[2]) is not None)


def test_files_that_came_with_an_installation_need_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not USABLE:
        pytest.skip("there are no kernels for this processor")
    monkeypatch.setenv("HOPE_CACHE_DIR", str(tmp_path / "cache"))
    if build.library(USABLE[0]) is None:
        pytest.skip("no C++ compiler is installed")
    assert build.main([str(tmp_path / "shipped")]) == 0
    assert len(list((tmp_path / "shipped").iterdir())) == len(VARIANTS)
    monkeypatch.setenv("HOPE_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert build.library(USABLE[0]) is None
    monkeypatch.setenv("HOPE_KERNELS_DIR", str(tmp_path / "shipped"))
    found = build.library(USABLE[0])
    assert found is not None
    assert found.parent == tmp_path / "shipped"


def test_other_dtypes_and_devices_are_left_to_torch() -> None:
    assert native_kernels(torch.float64) is None
    assert isinstance(row_kernels(torch.float64, torch.device("cpu")), TorchRowKernels)
    assert isinstance(row_kernels(torch.float32, torch.device("meta")), TorchRowKernels)
