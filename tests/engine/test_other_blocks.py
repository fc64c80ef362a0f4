"""Blocks of other families than Llama's in the engine: replies and memories are the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from engines import POLICY, WAIT, fresh, taught

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY, LearningPolicy

WINDOW = 192
BLOCKS: dict[str, dict[str, Any]] = {
    "gemma": {
        "norms": "both",
        "qk_norm": "head",
        "activation": "gelu_tanh",
        "embedding_scale": 8.0,
        "attention_scale": 0.3,
        "attention_softcap": 5.0,
        "logits_softcap": 9.0,
        "sliding_window": 24,
        "sliding_layers": (0,),
        "sliding_theta": 1000.0,
    },
    "olmo": {"norms": "after", "qk_norm": "full", "unrotated_layers": (1,), "logits_divisor": 2.0},
}


@pytest.fixture(scope="module", params=BLOCKS)
def model(request: pytest.FixtureRequest, make_chat_model: Callable[..., BaseModel]) -> BaseModel:
    return make_chat_model(**BLOCKS[request.param])


def ask(text: str) -> GenerateTurn:
    return GenerateTurn("c", (Message("user", text),), Sampling(max_tokens=40))


def submit(
    engine: TorchEngine, row: object, memory: SessionMemory, text: str
) -> Future[GenerateOutcome]:
    return engine.generate(row, memory, ask(text), lambda piece: None).future


@torch.no_grad()
def greedy(model: BaseModel, memory: SessionMemory, prompt: list[int], count: int) -> list[int]:
    """A reply without cache, batch or engine."""
    ids, learnt = list(prompt), memory.adapter
    adapter = None if learnt is None else learnt.to(torch.float32)
    for _ in range(count):
        hidden = forward(model, torch.tensor([ids]), adapter=adapter)
        ids.append(int(logits(model, hidden[:, -1:]).argmax()))
    return ids[len(prompt) :]


def test_replies_are_those_of_the_plain_pass(model: BaseModel) -> None:
    memories = [fresh(model), taught(model, seed=1)]
    texts = ["Who are you?", "Tell me about the sea and the boats on it, please. " * 4]
    with TorchEngine(model, window_tokens=WINDOW, threads=1) as engine:
        futures = [
            submit(engine, (index, text), memory, text)
            for index, memory in enumerate(memories)
            for text in texts
        ]
        outcomes = [future.result(WAIT) for future in futures]
    owners = [memory for memory in memories for _ in texts]
    for outcome, memory in zip(outcomes, owners, strict=True):
        *parts, reply = outcome.record.segments
        prompt = [token for part in parts for token in part.tokens]
        found = list(reply.tokens[: outcome.output_tokens])
        assert found == greedy(model, memory, prompt, len(found))


@pytest.mark.parametrize(
    "policy",
    [POLICY, pytest.param(DEFAULT_POLICY, marks=pytest.mark.heavy)],
    ids=lambda policy: policy.recipe,
)
def test_a_memory_is_the_same_on_any_number_of_threads(
    model: BaseModel, policy: LearningPolicy
) -> None:
    hashes = set()
    for threads in (1, 2):
        with TorchEngine(model, window_tokens=WINDOW, threads=threads) as engine:
            memory = SessionMemory.fresh(model.fingerprint, policy)
            outcome = submit(engine, "row", memory, "My cat is called Bruno.").result(WAIT)
            memory = observe(memory, outcome.record, window_tokens=WINDOW)
            end = Record(RecordKind.END_CONVERSATION, "c")
            memory = observe(memory, end, window_tokens=WINDOW)
            while (boundary := due(memory)) is not None:
                memory, _ = engine.consolidate(memory, boundary).future.result(WAIT)
            hashes.add(memory.hash())
        assert memory.adapter is not None
        assert memory.adapter.is_finite()
    assert len(hashes) == 1
