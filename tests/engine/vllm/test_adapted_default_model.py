"""The default model under many memories: vLLM says in one batch what the native engine says.

In float32; few sessions by default, 32 where it is heavy.
"""

from __future__ import annotations

import pytest
from engines import WAIT, has_vllm, taught, window_bytes

from hope_runtime.checkpoints.fast_memory import shipped_fast_memory
from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.prompt import Message, turn_record
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY, FORWARD_POLICY

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]

WINDOW = 256
TOKENS = 24


def turn(number: int) -> GenerateTurn:
    text = f"Tell me what you know about the number {number}."
    return GenerateTurn("chat", (Message("user", text),), Sampling(max_tokens=TOKENS, logprobs=0))


def ask(
    engine: SessionEngine, numbers: list[int], memories: dict[int, SessionMemory]
) -> list[GenerateOutcome]:
    """The outcome of each session's turn, all submitted at once."""
    tickets = [
        engine.generate(object(), memories[number], turn(number), lambda _: None)
        for number in numbers
    ]
    return [ticket.future.result(10 * WAIT) for ticket in tickets]


def furthest(ours: GenerateOutcome, theirs: GenerateOutcome) -> float:
    """The largest difference of a log-probability, nats, of two replies of the same tokens."""
    assert ours.record == theirs.record
    return max(
        abs(one.logprob - other.logprob)
        for one, other in zip(ours.reply.logprobs, theirs.reply.logprobs, strict=True)
    )


@pytest.mark.parametrize("sessions", [4, pytest.param(32, marks=pytest.mark.heavy)])
def test_sessions_in_one_batch_are_each_alone_and_the_native_engine(
    base_model: BaseModel, sessions: int
) -> None:
    memories = {
        number: taught(base_model, number, policy=DEFAULT_POLICY, strength=0.01)
        for number in range(1, sessions + 1)
    }
    memories[0] = SessionMemory.fresh(base_model.fingerprint, DEFAULT_POLICY)
    everyone = [*range(1, sessions + 1)]
    with TorchEngine(base_model, window_tokens=WINDOW, threads=1) as engine:
        native = [ask(engine, [number], memories)[0] for number in [0, *everyone]]
    assert len({outcome.text for outcome in native}) > sessions // 2, "the memories matter"
    with VLLMEngine(
        base_model,
        window_tokens=WINDOW,
        threads=1,
        window_cache_bytes=window_bytes(base_model, sessions + 1, WINDOW),
        rows=sessions,
    ) as engine:
        together = ask(engine, everyone, memories)
        alone = [
            ask(engine, [number], memories)[0] for number in everyone[:: max(1, sessions // 8)]
        ]
        # The frozen base beside one, some and as many others as there is room for.
        mixtures = [
            ask(engine, [0, *everyone[:others]], memories)[0]
            for others in (0, 1, sessions // 2, sessions - 1)
        ]
    found = max(
        *(furthest(one, other) for one, other in zip(together, native[1:], strict=True)),
        *(furthest(one, native[0]) for one in mixtures),
    )
    for one, number in zip(alone, everyone[:: max(1, sessions // 8)], strict=True):
        found = max(found, furthest(one, native[number]))
    print(f"{sessions} sessions: log-probabilities differ by {found:.1e} nats at most")
    assert found < 1e-4


def test_the_shipped_fast_memory_answers_as_natively(base_model: BaseModel) -> None:
    fast_memory = shipped_fast_memory(base_model)
    memories = {0: SessionMemory.fresh(base_model.fingerprint, FORWARD_POLICY)}
    learner = Learner(base_model, 1, fast_memory)
    for number, town in enumerate(("Bremen", "Porto", "Quito"), start=1):
        record = turn_record(
            base_model.tokenizer,
            memories[0],
            "chat",
            [Message("user", f"Zorcis lives in {town}. The number {number} is his.")],
            learn=True,
        )
        memory = observe(memories[0], record, window_tokens=WINDOW)
        ended = Record(RecordKind.END_CONVERSATION, "chat")
        memory = observe(memory, ended, window_tokens=WINDOW)
        while (boundary := due(memory)) is not None:
            memory = learner.consolidate_now(memory, boundary)
        assert memory.fast is not None
        memories[number] = memory
    everyone = [*memories]
    with TorchEngine(
        base_model, fast_memory=fast_memory, window_tokens=WINDOW, threads=1
    ) as engine:
        native = [ask(engine, [number], memories)[0] for number in everyone]
    room = window_bytes(base_model, len(everyone) + 1, WINDOW)
    with VLLMEngine(
        base_model,
        fast_memory=fast_memory,
        window_tokens=WINDOW,
        threads=1,
        window_cache_bytes=room,
    ) as engine:
        together = ask(engine, everyone, memories)
    for ours, theirs in zip(native, together, strict=True):
        assert furthest(ours, theirs) < 1e-4
