"""The engine whose turns vLLM decodes, in a process of its own (supervisor.py).

Turns are generators (turns.py) on one thread here (front.py), and learning on another, on the same
base weights: a memory is the same whoever decodes.

A process that is lost takes no memory with it: the turns in it fail with EngineLostError and leave
no trace, and another one starts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Hashable

import safetensors.torch

from hope_runtime.engine.adapter_engine import AdapterEngine, windows_within
from hope_runtime.engine.base import EngineLoad
from hope_runtime.engine.learning_thread import GeneratorRequest, LearningThread
from hope_runtime.engine.reply import OnText
from hope_runtime.engine.request import Request, always_ready
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn, ReadOutcome
from hope_runtime.engine.vllm import turns
from hope_runtime.engine.vllm.adapters import Adapters
from hope_runtime.engine.vllm.export import exported
from hope_runtime.engine.vllm.frontend import Frontend
from hope_runtime.engine.vllm.messages import Options
from hope_runtime.engine.vllm.supervisor import Supervisor
from hope_runtime.errors import ModelError
from hope_runtime.learning import Consolidation, Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import Boundary
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory

MAX_ROWS = 32
# Ranks that vLLM has places for; smaller ones are filled up with zeros.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VLLMEngine(AdapterEngine):
    """A SessionEngine, which documents its methods.

    `threads` CPU threads serve, and learn when nobody is served. `window_cache_bytes` are
    taken at once for keys and values, and say how many turns run at a time, up to MAX_ROWS.
    `fast_memory` is the trained fast memory beside the model, if it has one.
    Use as a context manager, or call close().
    Raises ModelError for a model or a window that vLLM cannot serve, and when it does not start.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        window_tokens: int = 1024,
        threads: int | None = None,
        window_cache_bytes: int = 2 << 30,
        rows: int = MAX_ROWS,
        learner: Learner | None = None,
        fast_memory: FastMemory | None = None,
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ModelError("vLLM is not installed in this environment; run: make setup-vllm")
        windows = windows_within(
            model,
            window_tokens=window_tokens,
            slot_tokens=window_tokens + 1,
            window_cache_bytes=window_cache_bytes,
        )
        rows = min(rows, windows)
        if model.device.type != "cpu":
            raise ModelError("vLLM decodes on the CPU here; set device to auto or cpu")
        if fast_memory is not None and fast_memory.config.target != model.config.n_layers:
            # Else keys and values would depend on it, and vLLM looks them up without it.
            raise ModelError(
                "vLLM supports a fast memory only if it adds its output after the last layer; "
                "use --engine torch"
            )
        super().__init__(
            model,
            window_tokens=window_tokens,
            threads=threads,
            fast_memory=fast_memory,
            learner=learner,
        )
        rank = rank_for(
            max(sum(level.rank for level in policy.levels) for policy in self.policies.values())
        )
        config = model.config
        self._adapters = Adapters(rows, rank, model.dtype, fast_memory)
        self._front = Frontend(
            self._adapters,
            rows=rows,
            stop_ids=lambda: model.tokenizer.eos_ids,
            send=lambda message: self._supervisor.send(message),
        )
        self._supervisor = Supervisor(
            Options(
                model=str(exported(model)),
                dtype=str(model.dtype).removeprefix("torch."),
                window_tokens=window_tokens,
                rows=rows,
                rank=rank,
                kv_bytes=window_cache_bytes,
                layers=config.n_layers,
                d_model=config.d_model,
                d_ff=config.d_ff,
                vocab_size=config.vocab_size,
                fast_memory=None
                if fast_memory is None
                else (fast_memory.config, _weights_of(fast_memory)),
            ),
            threads=self.device.threads,
            on_message=self._front.receive,
            on_lost=self._front.lost,
            owes=lambda: self._front.owed,
        )
        self._supervisor.start()
        self._front.start()
        self._learning = LearningThread(
            device=self.device, serving=lambda: self._front.load[0] > 0, widen=self._widen
        )
        self._learning.start()

    def __enter__(self) -> VLLMEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop after the present pieces; what was not done is cancelled."""
        self._front.close()
        self._learning.close()
        self._supervisor.close()

    @property
    def pid(self) -> int | None:
        """The process that decodes now; None while there is none."""
        return self._supervisor.pid

    # What can be submitted. `row` names the keys and values to use; one turn at a time a row.

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: GenerateTurn,
        on_text: OnText,
        *,
        ready: Callable[[], bool] = always_ready,
    ) -> Request[GenerateOutcome]:
        """Answers. `on_text` is called on the engine's thread and must not block."""
        work = turns.generate(self.model.tokenizer, memory, turn, self.window_tokens, on_text)
        return self._front.submit(row, memory, GeneratorRequest(work, ready))

    def read(self, row: Hashable, memory: SessionMemory, record: Record) -> Request[ReadOutcome]:
        """Read a document's record, scoring it."""
        work = turns.read_record(memory, record, self.window_tokens)
        return self._front.submit(row, memory, GeneratorRequest(work))

    def score(self, memory: SessionMemory | None, context: str, text: str) -> Request[ReadOutcome]:
        """Scores a text on a row of its own."""
        work = turns.score(self.model.tokenizer, context, text, self.window_tokens)
        return self._front.submit(object(), memory, GeneratorRequest(work))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Request[tuple[SessionMemory, Consolidation]]:
        """Learn at one boundary; a pure function of memory and boundary."""
        request = GeneratorRequest(self.learner.consolidate(memory, boundary))
        self._learning.submit(request)
        return request

    def drop(self, row: Hashable) -> None:
        """Make what was computed for the row impossible to find again."""
        self._front.drop(row)

    def load(self) -> EngineLoad:
        """Requests and bytes that the engine carries now."""
        running, waiting, rows = self._front.load
        return EngineLoad(
            running=running,
            waiting=waiting,
            learning=self._learning.load,
            resident_rows=rows,
            resident_bytes=self._adapters.nbytes,
        )

    def _widen(self, threads: int) -> None:
        self.learner.width = threads


def _weights_of(fast_memory: FastMemory) -> bytes:
    named = {name: tensor.cpu().contiguous() for name, tensor in fast_memory.weights.named()}
    return safetensors.torch.save(named)


def rank_for(rank: int) -> int:
    """The least rank that vLLM has places for and that holds `rank`. Raises ModelError if none."""
    for known in RANKS:
        if rank <= known:
            return known
    raise ModelError(
        f"the levels of a policy have rank {rank} together, but vLLM supports at most "
        f"{RANKS[-1]}; use --engine torch"
    )
