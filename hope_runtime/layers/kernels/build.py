"""Compiles rows.cpp for this machine's processor, once, into the cache.

`python -m hope_runtime.layers.kernels.build DIRECTORY` compiles every variant, for an image that
has no compiler where it runs. Without a compiler and without such files, torch computes the same.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hope_runtime.cache_dir import cache_root

SOURCES = tuple(Path(__file__).with_name(name) for name in ("rows.cpp", "tiles.h", "vectors.h"))
# Compiled files that came with an installation; see the Dockerfile.
DIRECTORY_VARIABLE = "HOPE_KERNELS_DIR"
_FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")
_COMPILE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of processor: the flags that the kernel lists in /proc/cpuinfo, and the compiler's.

    `tiles` are the dtypes in which it multiplies 16 rows at the price of one.
    """

    name: str
    needs: frozenset[str]
    options: tuple[str, ...]
    tiles: frozenset[torch.dtype] = frozenset()


_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
# The best one first.
VARIANTS = (
    Variant(
        "amx",
        _AVX512 | {"avx512_bf16", "amx_tile", "amx_bf16"},
        ("-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
        frozenset({torch.bfloat16}),
    ),
    Variant("avx512bf16", _AVX512 | {"avx512_bf16"}, ("-march=x86-64-v4", "-mavx512bf16")),
    Variant("avx512", _AVX512, ("-march=x86-64-v4",)),
    Variant("avx2", frozenset({"avx2", "fma", "f16c", "bmi2"}), ("-march=x86-64-v3",)),
)


def variants_for(flags: frozenset[str]) -> list[Variant]:
    """The variants for a processor with these flags, the fastest one first."""
    return [variant for variant in VARIANTS if variant.needs <= flags]


def processor_flags() -> frozenset[str]:
    """Flags of this machine's processor; none where the system does not list them."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return frozenset()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def library(variant: Variant) -> Path | None:
    """The compiled file of a variant, compiled now if need be; None when that is impossible."""
    name = _file_name(variant)
    shipped = os.environ.get(DIRECTORY_VARIABLE)
    if shipped and (found := Path(shipped) / name).is_file():
        return found
    path = cache_root() / "kernels" / name
    if path.is_file():
        return path
    try:
        compile_to(path, variant)
    except (OSError, subprocess.SubprocessError):
        return None
    return path


def compile_to(path: Path, variant: Variant) -> None:
    """Compile a variant into the file `path`.

    Raises OSError without a compiler or without a writable place, SubprocessError when the
    compiler fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("no C++ compiler is installed; install g++")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Renamed once it is whole: other processes may compile the same file now.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        command = [compiler, *_FLAGS, *variant.options, "-o", str(made), str(SOURCES[0])]
        subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
        made.replace(path)


def _file_name(variant: Variant) -> str:
    """Name that changes with whatever the compiled file depends on."""
    digest = hashlib.sha256(repr((_FLAGS, variant.options)).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    return f"rows-{variant.name}-{digest.hexdigest()[:16]}.so"


def main(argv: Sequence[str]) -> int:
    """Compile every variant into the directory that `argv` names."""
    (directory,) = argv
    # For all to read: the server of an image is another user.
    Path(directory).mkdir(parents=True, exist_ok=True)
    for variant in VARIANTS:
        compile_to(Path(directory) / _file_name(variant), variant)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
