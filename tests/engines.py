"""The engines that the suite in this folder runs against, and memories to run them with.

Everything that decodes turns of a frozen backbone is held to one suite. vLLM needs an environment
of its own: its tests are marked, and `make test-vllm` runs them.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason, TextPiece
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.levels import Level
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy, LevelConfig

WAIT = 120.0
WINDOW = 256
# Turns that run at a time. Tests fill all of them.
ROWS = 4

POLICY = LearningPolicy(
    name="quick",
    levels=(
        LevelConfig(period_tokens=32, rank=4, learning_rate=1e-2),
        LevelConfig(period_tokens=64, rank=2, learning_rate=1e-2),
        LevelConfig(period_tokens=128, rank=1, learning_rate=1e-2),
    ),
    recipe="summed_gradient",
)

Make = Callable[..., SessionEngine]


def window_bytes(model: BaseModel, windows: int, window: int = WINDOW) -> int:
    return windows * KVCache.bytes_of(model.config, window + 32, model.dtype)


def make_torch(model: BaseModel, window: int = WINDOW) -> SessionEngine:
    room = ROWS * KVCache.bytes_of(model.config, window, model.dtype)
    return TorchEngine(model, window_tokens=window, threads=1, window_cache_bytes=room)


def make_static(model: BaseModel, window: int = WINDOW) -> SessionEngine:
    """The engine as it decodes on a GPU."""
    room = ROWS * KVCache.bytes_of(model.config, window, model.dtype)
    return TorchEngine(model, window_tokens=window, threads=1, window_cache_bytes=room, static=True)


def make_vllm(model: BaseModel, window: int = WINDOW) -> SessionEngine:
    room = window_bytes(model, 4 * ROWS, window)
    return VLLMEngine(model, window_tokens=window, threads=1, window_cache_bytes=room, rows=ROWS)


def has_vllm() -> bool:
    """Whether vLLM is installed; a folder of tests, which has no origin, has the same name."""
    found = importlib.util.find_spec("vllm")
    return found is not None and found.origin is not None


ENGINES: dict[str, Make] = {"torch": make_torch, "static": make_static, "vllm": make_vllm}


def fresh(model: BaseModel) -> SessionMemory:
    return SessionMemory.fresh(model.fingerprint, POLICY)


def taught(
    model: BaseModel, seed: int, *, policy: LearningPolicy = POLICY, strength: float = 0.1
) -> SessionMemory:
    """A memory whose levels are random, and change every score."""
    memory = SessionMemory.fresh(model.fingerprint, policy)
    generator = torch.Generator().manual_seed(seed)

    def learnt(level: Level, number: int) -> Level:
        adapter = initial(model.config, level.config.rank, seed=100 * seed + number)
        tensors = {
            name: tensor
            if name.endswith("_a")
            else torch.randn(tensor.shape, generator=generator) * strength
            for name, tensor in adapter.tensors().items()
        }
        return replace(level, adapter=LoraAdapter(**tensors).to(torch.bfloat16), updates=1)

    levels = tuple(learnt(level, number) for number, level in enumerate(memory.levels))
    return replace(memory, levels=levels)


def ask(text: str = "Who are you?", tokens: int = 8, **options: Any) -> GenerateTurn:
    sampling = Sampling(max_tokens=tokens, **options)
    return GenerateTurn("default", (Message("user", text),), sampling)


def answer(
    engine: SessionEngine, memory: SessionMemory, turn: GenerateTurn, row: object = None
) -> GenerateOutcome:
    """The turn alone, on a row of its own if none is given."""
    ticket = engine.generate(row or object(), memory, turn, lambda _: None)
    return ticket.future.result(WAIT)


@dataclass
class Gate:
    """A reader that is behind from the first text until it is opened."""

    is_open: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    pieces: list[TextPiece] = field(default_factory=list)

    def on_text(self, piece: TextPiece) -> None:
        self.pieces.append(piece)
        self.begun.set()

    def ready(self) -> bool:
        return not self.begun.is_set() or self.is_open.is_set()


def assert_cut_after(
    tokens: int, outcome: GenerateOutcome, parts: Sequence[TextPiece], model: BaseModel
) -> None:
    """A reply of so many tokens was cut by its limit, and its record and `parts` say the same."""
    assert outcome.finish_reason is FinishReason.LENGTH
    assert outcome.output_tokens == tokens
    assert "".join(part.text for part in parts) == outcome.text
    assert sum(part.tokens for part in parts) == outcome.reply.tokens == tokens
    assert not outcome.reply.logprobs  # nobody asked
    reply = outcome.record.segments[-1]
    assert reply.speaker is Speaker.ASSISTANT
    assert not reply.learnable
    # A reply that was cut is closed as the template would have closed it.
    assert len(reply.tokens) == tokens + 1
    assert reply.tokens[-1] in model.tokenizer.eos_ids
    assert outcome.input_tokens == len(outcome.record.tokens) - (tokens + 1)
