"""Triton's kernels in its interpreter, against the torch forms; and a whole step of them.

Triton comes with torch's builds for GPUs; elsewhere `make test-all` installs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hope_runtime.device import available

pytest.importorskip("triton")
kernels = pytest.importorskip("hope_runtime.layers.kernels.triton_kernels")
# A GPU compiles them; without one the interpreter runs them on the CPU.
DEVICE = available()[0] if torch.cuda.is_available() else "cpu"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize(("parts", "rank", "width", "out"), [(2, 5, 40, 150), (1, 56, 200, 130)])
def test_low_rank_terms(parts: int, rank: int, width: int, out: int) -> None:
    first, second = randn(4, parts, rank, width), randn(4, parts, rank, out, seed=1)
    rows = torch.tensor([3, 0, 3], device=DEVICE)
    x, base = randn(3, width, seed=2), randn(3, parts, out, seed=3)
    found = kernels.add_low_rank(x, base, first, second, rows)
    inner = torch.einsum("bprd,bd->bpr", first[rows], x)
    expected = base + torch.einsum("bpr,bprf->bpf", inner, second[rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # A row's bits depend on no other.
    assert torch.equal(
        kernels.add_low_rank(x[1:2], base[1:2], first, second, rows[1:2])[0], found[1]
    )


@pytest.mark.parametrize("window", [0, 1, 70])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize(("heads", "shared", "width"), [(6, 2, 64), (4, 4, 24)])
def test_attention(heads: int, shared: int, width: int, softcap: float, window: int) -> None:
    k, v = randn(5, shared, 160, width), randn(5, shared, 160, width, seed=1)
    # What lies behind a row's last place was another session's.
    v[:, :, 150:] = float("nan")
    slots, lengths = torch.tensor([[4, 1, 0], [149, 0, 63]], device=DEVICE)
    q = randn(3, heads, width, seed=2)
    options = {"scale": 0.2, "softcap": softcap, "window": window}
    found = kernels.attend(q, k, v, slots, lengths, **options)
    for row, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        first = max(0, length - window + 1) if window else 0
        keys, values = k[slot, :, first : length + 1], v[slot, :, first : length + 1]
        keys, values = (each.repeat_interleave(heads // shared, 0) for each in (keys, values))
        scores = torch.einsum("hk,hck->hc", q[row], keys) * 0.2
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        mixed = torch.einsum("hc,hck->hk", scores.softmax(-1), values)
        torch.testing.assert_close(found[row].view(heads, width), mixed, rtol=1e-4, atol=1e-4)
    alone = kernels.attend(q[:1], k, v, slots[:1], lengths[:1], **options)
    assert torch.equal(alone[0], found[0])


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hope_runtime.layers.kernels import triton_kernels as kernels

INTEGERS = dict.fromkeys("N D P R F H K each window".split(), "i32")
TABLES = {"rows": "*i64", "slots": "*i64", "lengths": "*i64", "inner": "*fp32"}
BLOCKS = {"BLOCK_N": 16, "BLOCK_D": 128, "BLOCK_R": 16, "BLOCK_F": 128}
BLOCKS |= {"BLOCK_H": 16, "BLOCK_K": 64, "BLOCK_C": 64}
for dtype in ("bf16", "fp32"):
    for kernel in (kernels._shrink, kernels._expand, kernels._attend):
        signature, constants = {}, {}
        for place, name in enumerate(kernel.arg_names):
            if name in BLOCKS:
                signature[name], constants[(place,)] = "constexpr", BLOCKS[name]
            elif name.startswith("stride"):
                signature[name] = "i32"
            elif name in ("scale", "softcap"):
                signature[name] = "fp32"
            else:
                signature[name] = (INTEGERS | TABLES).get(name, "*" + dtype)
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        assert compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
"""


def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """By Triton's own compiler and assembler, which need none; the interpreter is laxer."""
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    settings["TRITON_CACHE_DIR"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", COMPILE], env=settings, check=True, timeout=250)
