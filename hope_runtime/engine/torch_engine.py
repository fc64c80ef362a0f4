"""Engine of a frozen decoder with low-rank levels, computed with torch.

Requests (request.py) are moved along in steps (scheduler.py); each step computes the tokens of all
of them as one batch (runner.py). Learning runs beside it on threads of its own, on the cores that
turns leave: their number changes how long it takes and not what it finds.

Knows no users and no stores: callers bring an immutable memory and get back what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from hope_runtime.engine.adapter_engine import AdapterEngine, windows_within
from hope_runtime.engine.base import EngineLoad
from hope_runtime.engine.generate_request import GenerateRequest
from hope_runtime.engine.kv_slots import SlotPool
from hope_runtime.engine.learning_thread import GeneratorRequest
from hope_runtime.engine.loop import Loop
from hope_runtime.engine.read_request import ReadRequest, ScoreRequest
from hope_runtime.engine.reply import OnText
from hope_runtime.engine.request import Request, always_ready
from hope_runtime.engine.runner import Runner
from hope_runtime.engine.scheduler import CPU_LIMITS, GPU_LIMITS, TILED_LIMITS
from hope_runtime.engine.static_decoder import StaticDecoder
from hope_runtime.engine.static_steps import StaticSteps
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn, ReadOutcome
from hope_runtime.engine.window_reader import Reader
from hope_runtime.errors import ModelError
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.learning import Consolidation, Learner
from hope_runtime.models.decoder.static_step import AdapterTable
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import Boundary
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import POLICIES

# More turns than this at a time wait.
MAX_SLOTS = 1024
_HIGHEST_RANK = max(sum(level.rank for level in each.levels) for each in POLICIES.values())


def adapter_bytes(model: BaseModel, memory_cache_bytes: int) -> int:
    """Bytes that an engine takes for adapters, at most: those kept ready, and on a GPU those of the
    sessions that decode."""
    if model.device.type == "cpu":
        return memory_cache_bytes
    return memory_cache_bytes + AdapterTable.bytes_of(
        model.config, GPU_LIMITS.rows + 1, _HIGHEST_RANK, model.dtype
    )


class TorchEngine(AdapterEngine):
    """A SessionEngine, which documents its methods.

    `fast_memory` is the trained fast memory beside the model, if it has one. `threads` is the
    number of CPU threads, which changes no memory. `window_cache_bytes` are allocated at once for
    keys and values, as many windows as fit, up to MAX_SLOTS: no more turns run at a time, the
    others wait. `memory_cache_bytes` bounds the adapters that are kept ready. `static` decodes by
    steps of fixed shapes (static_decoder.py), which None chooses for GPUs. Use as a context
    manager, or call close().

    Raises ModelError for a window that the model has no positions for, or that the bytes do not
    hold once, and for bytes that the device does not have.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        window_tokens: int = 1024,
        threads: int | None = None,
        window_cache_bytes: int = 2 << 30,
        memory_cache_bytes: int = 1 << 30,
        fast_memory: FastMemory | None = None,
        learner: Learner | None = None,
        static: bool | None = None,
    ) -> None:
        windows = windows_within(
            model,
            window_tokens=window_tokens,
            slot_tokens=window_tokens,
            window_cache_bytes=window_cache_bytes,
        )
        super().__init__(
            model,
            window_tokens=window_tokens,
            threads=threads,
            fast_memory=fast_memory,
            learner=learner,
        )
        static = not self.device.is_cpu if static is None else static
        slots = min(MAX_SLOTS, windows)
        try:
            pool = KVPool(
                model.config,
                slots + static,  # one more for rows that fill a static batch up
                capacity=window_tokens,
                dtype=self.device.dtype,
                device=self.device.place,
                zeroed=static,
            )
        except RuntimeError as error:  # torch's word for memory that is not there
            raise ModelError(
                f"{window_cache_bytes} bytes for windows are not free on {self.device.place}; "
                "lower --window-cache-bytes, or start with --window-cache-bytes auto"
            ) from error
        self.slot_pool = SlotPool(pool.caches[:slots])
        self._reader = Reader(
            model, window_tokens, memory_bytes=memory_cache_bytes, fast_memory=fast_memory
        )
        decoder = None
        if static:
            steps = StaticSteps(
                model, pool, rows=GPU_LIMITS.rows, rank=_HIGHEST_RANK, fast_memory=fast_memory
            )
            decoder = StaticDecoder(steps)
        self._runner = Runner(model, fast_memory, static=decoder)
        on_cpu = TILED_LIMITS if self._runner.tiles else CPU_LIMITS
        self._loop = Loop(
            self._runner.step,
            device=self.device,
            room=lambda: self.slot_pool.room,
            widen=self._widen,
            limits=GPU_LIMITS if static else on_cpu,
        )
        self._loop.start()

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop after the pieces at work; what is left is cancelled."""
        self._loop.close()

    # Work that can be submitted. `row` names the slot to use; one turn at a time a slot.

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: GenerateTurn,
        on_text: OnText,
        *,
        ready: Callable[[], bool] = always_ready,
    ) -> Request[GenerateOutcome]:
        """Answer a turn. `on_text` is called on the engine's thread and must not block."""
        return self._loop.serve(
            GenerateRequest(self._reader, self.slot_pool, row, memory, turn, on_text, ready)
        )

    def read(self, row: Hashable, memory: SessionMemory, record: Record) -> Request[ReadOutcome]:
        """Read a document's record, scoring it."""
        return self._loop.serve(ReadRequest(self._reader, self.slot_pool, row, memory, record))

    def score(self, memory: SessionMemory | None, context: str, text: str) -> Request[ReadOutcome]:
        """Score a text in a slot of its own."""
        return self._loop.serve(ScoreRequest(self._reader, self.slot_pool, memory, context, text))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Request[tuple[SessionMemory, Consolidation]]:
        """Learn at one boundary; a pure function of memory and boundary."""
        return self._loop.learn(GeneratorRequest(self.learner.consolidate(memory, boundary)))

    def drop(self, row: Hashable) -> None:
        """Forget what is kept of a conversation's window, if it is not in use."""
        self.slot_pool.drop(row)

    def load(self) -> EngineLoad:
        """Requests and bytes that the engine carries now."""
        running, waiting, learning = self._loop.load()
        return EngineLoad(
            running=running,
            waiting=waiting,
            learning=learning,
            resident_rows=len(self.slot_pool) + self.slot_pool.held,
            resident_bytes=self.slot_pool.nbytes + self._reader.memories.nbytes,
        )

    def _widen(self, threads: int) -> None:
        self.learner.width = threads
