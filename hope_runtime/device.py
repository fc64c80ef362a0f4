"""Device: place, precision and CPU parallelism of a model's computing, in one object.

Checkpoints are loaded onto it, engines allocate their slots and adapters there, and its threads are
divided between serving and learning. A number of threads is a matter of the CPU: it changes how
long something takes and no result of learning.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from hope_runtime.errors import ModelError

DTypeName = Literal["auto", "float32", "bfloat16"]


class PlacedModel(Protocol):
    """A model whose weights have a place and a precision."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True, slots=True)
class Device:
    """`place` holds the weights and all that is computed with them, in `dtype`.

    `threads` CPU threads serve and learn, at least 1.
    """

    place: torch.device
    dtype: torch.dtype
    threads: int

    @classmethod
    def choose(
        cls, name: str = "auto", dtype: DTypeName = "auto", threads: int | None = None
    ) -> Device:
        """The device that a user names: auto, cpu, cuda, cuda:N or mps.

        "auto" is CUDA, else MPS, else the CPU. `threads` defaults to the CPUs that this process may
        use. Raises ModelError for a device that this machine does not have, ValueError for a dtype
        that is none.
        """
        known = available()
        if name == "auto":
            name = known[0]
        if name not in known and not (name == "cuda" and known[0].startswith("cuda")):
            raise ModelError(
                f"the device {name!r} does not exist on this machine; available: {', '.join(known)}"
            )
        place = torch.device("cuda:0" if name == "cuda" else name)
        return cls(place, resolve_dtype(dtype, place), threads or usable_cpus())

    @classmethod
    def of(cls, model: PlacedModel, threads: int | None = None) -> Device:
        """The device that a loaded model is on; `threads` defaults to torch's."""
        return cls(model.device, model.dtype, threads or torch.get_num_threads())

    @property
    def is_cpu(self) -> bool:
        """Whether computing is done by the CPU."""
        return self.place.type == "cpu"

    def learning_threads(self, *, serving: bool) -> int:
        """CPU threads that learning may use; one is left to turns while they are served."""
        return max(1, self.threads - 1) if serving else self.threads

    def set_serving_threads(self, *, learning: bool) -> None:
        """Give the calling thread's operations all CPU threads, less one while something learns:
        threads that share a core wait for each other."""
        torch.set_num_threads(max(1, self.threads - 1) if learning else self.threads)

    def before_learning(self) -> AbstractContextManager[object]:
        """Context in which the calling thread's operations go before those of threads that learn,
        and wait for none of them, on devices that can tell them apart."""
        if self.place.type != "cuda":
            return nullcontext()
        stream = torch.cuda.Stream(self.place, priority=-1)  # type: ignore[no-untyped-call]
        # All that was loaded and allocated until now is there.
        stream.wait_stream(torch.cuda.default_stream(self.place))
        return torch.cuda.stream(stream)

    def free_bytes(self) -> int:
        """Bytes of memory that can still be allocated there now."""
        if self.place.type == "cuda":
            return torch.cuda.mem_get_info(self.place)[0]
        if self.place.type == "mps":
            taken = torch.mps.driver_allocated_memory()
            return max(0, torch.mps.recommended_max_memory() - taken)
        return _free_memory()

    def describe(self) -> str:
        """Name of the hardware and the precision, such as "cpu, 8 threads, bfloat16"."""
        precision = str(self.dtype).removeprefix("torch.")
        if self.is_cpu:
            return f"cpu, {self.threads} threads, {precision}"
        if self.place.type == "cuda":
            return f"{self.place} ({torch.cuda.get_device_name(self.place)}), {precision}"
        return f"{self.place}, {precision}"


def _free_memory() -> int:
    """Bytes of main memory that this process can still take."""
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        [found] = [line for line in lines if line.startswith("MemAvailable:")]
        free = int(found.split()[1]) * 1024
    except (OSError, ValueError):  # no Linux: what the machine has
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8"))
        taken = int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return max(0, min(free, limit - taken))


def available() -> list[str]:
    """Names of this machine's devices, the one that "auto" chooses first; the CPU is always one."""
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_dtype(dtype: DTypeName, device: torch.device | str) -> torch.dtype:
    """The dtype that a name means on a device; "auto" picks the one that the hardware is fast in.

    Raises ValueError for another name.
    """
    if dtype == "float32":
        return torch.float32
    if dtype == "bfloat16":
        return torch.bfloat16
    if dtype != "auto":
        raise ValueError(f"dtype must be auto, float32 or bfloat16, not {dtype!r}")
    fast = _cpu_has_bfloat16() if torch.device(device).type == "cpu" else True
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bfloat16() -> bool:
    # Without such instructions bfloat16 is emulated, at a sixth of float32's speed in prefill.
    flags: set[str] = set()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(("flags", "Features")):
                    flags = set(line.split())
                    break
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})
