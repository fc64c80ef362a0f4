"""A newer fast memory of the package takes nothing from sessions that an earlier one wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fast_memories import noise, small_fast_memory

from hope_runtime.checkpoints import fast_memory as files
from hope_runtime.checkpoints.fast_memory import save_fast_memory, shipped_fast_memory
from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.engine.prompt import Message, encode_spans
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.engine.vllm.adapters import Adapters
from hope_runtime.errors import CorruptStateError, UnsupportedMemoryError
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import tensor_name, with_written, writer_of
from hope_runtime.models.fast_memory.weights import FastMemory, FastMemoryConfig, init_weights
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import FORWARD_POLICY


@pytest.fixture(scope="module")
def earlier(chat_model: BaseModel) -> FastMemory:
    """Of another shape: other sources, other widths."""
    config = FastMemoryConfig(
        d_model=chat_model.config.d_model,
        sources=(1,),
        target=chat_model.config.n_layers,
        key_width=8,
        value_width=6,
        taps=3,
        input_width=9,
        hidden=11,
    )
    return FastMemory(config, init_weights(config, 4))


@pytest.fixture(scope="module")
def newest(chat_model: BaseModel, earlier: FastMemory) -> FastMemory:
    return replace(small_fast_memory(chat_model), earlier=(earlier,))


@pytest.fixture(scope="module")
def engine(chat_model: BaseModel, newest: FastMemory) -> Iterator[TorchEngine]:
    with TorchEngine(chat_model, threads=1, window_tokens=128, fast_memory=newest) as engine:
        yield engine


def fresh(model: BaseModel) -> SessionMemory:
    return SessionMemory.fresh(model.fingerprint, FORWARD_POLICY)


def reply(engine: TorchEngine, memory: SessionMemory, row: str, text: str) -> str:
    turn = GenerateTurn("new", (Message("user", text),), Sampling(max_tokens=8))
    return engine.generate(row, memory, turn, lambda piece: None).future.result().text


def test_each_session_goes_on_with_the_one_that_wrote_it(
    chat_model: BaseModel, newest: FastMemory, earlier: FastMemory, engine: TorchEngine
) -> None:
    memory = fresh(chat_model)
    old, new = (with_written(one, memory, noise(one, 1)) for one in (earlier, newest))
    assert writer_of(newest, old) is earlier
    assert writer_of(newest, new) is newest
    assert writer_of(newest, memory) is newest
    assert writer_of(newest, None) is newest
    with TorchEngine(chat_model, threads=1, window_tokens=128, fast_memory=earlier) as before:
        wanted = reply(before, old, "old", "Where is Ada?")
    assert reply(engine, old, "alone", "Where is Ada?") == wanted
    plain, ours = (reply(engine, one, "another", "Where is Ada?") for one in (memory, new))
    assert len({plain, ours, wanted}) == 3, "each of them shows"
    # The row of one is taken over by the other, and back.
    assert reply(engine, old, "another", "Where is Ada?") == wanted
    turns = {
        name: engine.generate(
            name,
            one,
            GenerateTurn("new", (Message("user", "Where is Ada?"),), Sampling(max_tokens=8)),
            lambda piece: None,
        )
        for name, one in (("a", old), ("b", new), ("c", memory), ("d", old))
    }
    found = {name: ticket.future.result().text for name, ticket in turns.items()}
    assert found == {"a": wanted, "b": ours, "c": plain, "d": wanted}, "side by side"


def test_learning_goes_on_with_the_one_that_wrote_before(
    chat_model: BaseModel, newest: FastMemory, earlier: FastMemory
) -> None:
    def told(learner: Learner, memory: SessionMemory) -> SessionMemory:
        ids = encode_spans(chat_model.tokenizer, "Ada lives in Oslo. Bo has a parrot.")
        segment = Segment(Speaker.USER, ids, learnable=True)
        for record in (
            Record(RecordKind.TURN, "talk", (segment,)),
            Record(RecordKind.END_CONVERSATION, "talk"),
        ):
            memory = observe(memory, record, window_tokens=128)
        while (boundary := due(memory)) is not None:
            work = learner.consolidate(memory, boundary)
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    memory = end.value[0]
                    break
        return memory

    old = with_written(earlier, fresh(chat_model), noise(earlier, 2))
    before = told(Learner(chat_model, 1, earlier), old)
    after = told(Learner(chat_model, 1, newest), old)
    assert before.fast is not None
    assert after.fast is not None
    assert set(after.fast.tensors) == {tensor_name(earlier)}
    name = tensor_name(earlier)
    assert torch.equal(after.fast.tensors[name], before.fast.tensors[name])
    first = told(Learner(chat_model, 1, newest), fresh(chat_model))
    assert first.fast is not None
    assert set(first.fast.tensors) == {tensor_name(newest)}, "a new session begins with the newest"


def test_a_stored_state_of_either_is_taken_and_of_no_other(
    chat_model: BaseModel, newest: FastMemory, earlier: FastMemory
) -> None:
    layout = AdapterLayout(chat_model.config, newest)
    for one in (newest, earlier):
        layout.check_fast({tensor_name(one): noise(one, 0)})
    with pytest.raises(CorruptStateError):
        layout.check_fast({tensor_name(earlier): noise(newest, 0)})
    with pytest.raises(CorruptStateError):
        AdapterLayout(chat_model.config, earlier).check_fast(
            {tensor_name(newest): noise(newest, 0)}
        )
    with pytest.raises(CorruptStateError):
        layout.check_fast({tensor_name(one): noise(one, 0) for one in (newest, earlier)})


def test_vllm_says_who_serves_what_an_earlier_one_wrote(
    chat_model: BaseModel, newest: FastMemory, earlier: FastMemory
) -> None:
    adapters = Adapters(places=2, rank=8, dtype=torch.float32, fast_memory=newest)
    old = with_written(earlier, fresh(chat_model), noise(earlier, 1))
    with pytest.raises(UnsupportedMemoryError, match="--engine torch"):
        adapters.take(old, lambda message: None)


def test_the_package_brings_the_newest_and_those_before(
    chat_model: BaseModel,
    newest: FastMemory,
    earlier: FastMemory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "files", lambda package: tmp_path)
    save_fast_memory(tmp_path / "a.safetensors", newest, chat_model.fingerprint)
    found = shipped_fast_memory(chat_model)
    assert found is not None
    assert not found.earlier
    save_fast_memory(tmp_path / "earlier" / "a.safetensors", earlier, chat_model.fingerprint)
    save_fast_memory(tmp_path / "earlier" / "b.safetensors", earlier, "of another base")
    found = shipped_fast_memory(chat_model)
    assert found is not None
    assert found.config == newest.config
    assert [one.config for one in found.earlier] == [earlier.config]
