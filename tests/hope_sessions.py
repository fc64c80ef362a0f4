"""What tests of served native models share: tiny models of bytes, and sessions by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tiny import shaken

from hope_lab.train.models import small_model
from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.models.hope.served import HopeModel, fingerprint_of
from hope_runtime.models.hope.weights import init_weights
from hope_runtime.session.codec import decode_memory, encode_memory
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.tokenizer import byte_tokenizer

WAIT = 60


def byte_model(name: str = "hope", rate: float = 0.02, **overrides: Any) -> HopeModel:
    """A preset of width 16 over bytes, in float32, whose random weights make every part matter."""
    if name.startswith("hope"):
        overrides = {"periods": (8, 32), "learning_rate": rate} | overrides
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "window": 24}
    config = small_model(name, 256, **sizes | overrides)
    weights = shaken(init_weights(config, seed=0))
    tokenizer = byte_tokenizer()
    return HopeModel(config, weights, tokenizer, fingerprint_of(config, weights, tokenizer))


def fresh(engine: HopeEngine) -> SessionMemory:
    return SessionMemory.fresh(engine.model.fingerprint, engine.model.policy)


def part(
    *texts: str,
    document: str = "book",
    conversation: str = "a",
    ended: bool = False,
    learn: bool = True,
) -> Record:
    """A record of a document, of one span a text."""
    spans = tuple(tuple(text.encode()) for text in texts)
    segments = (Segment(Speaker.DOCUMENT, spans, learn),) if spans else ()
    return Record(RecordKind.DOCUMENT, conversation, segments, document=document, ended=ended)


def caught_up(engine: HopeEngine, memory: SessionMemory) -> SessionMemory:
    """With everything learnt that is due."""
    while (boundary := due(memory)) is not None:
        memory, _ = engine.consolidate(memory, boundary).future.result(WAIT)
    return memory


def read(
    engine: HopeEngine, records: Iterable[Record], memory: SessionMemory | None = None
) -> SessionMemory:
    """The memory after the records, folded as a log is."""
    memory = memory or fresh(engine)
    for record in records:
        memory = caught_up(engine, engine.observe(memory, record).future.result(WAIT))
    return memory


def say(
    engine: HopeEngine,
    memory: SessionMemory,
    text: str,
    conversation: str = "a",
    *,
    learn: bool = True,
    **sampling: Any,
) -> GenerateOutcome:
    turn = GenerateTurn(
        conversation,
        (Message("user", text),),
        Sampling(**{"max_tokens": 6} | sampling),
        learn=learn,
    )
    ticket = engine.generate("row", memory, turn, lambda piece: None)
    return ticket.future.result(WAIT)


def stored(engine: HopeEngine, memory: SessionMemory) -> SessionMemory:
    """The memory as it comes back from a store."""
    return decoded(engine, encode_memory(memory))


def decoded(engine: HopeEngine, blobs: Mapping[str, bytes]) -> SessionMemory:
    return decode_memory(
        blobs,
        policies=engine.policies,
        layout=engine.layout,
        fingerprint=engine.model.fingerprint,
    )


def assert_close(one: SessionMemory, other: SessionMemory) -> None:
    """Memories of one log: equal but for the rounding of what was written forward."""
    assert one.hash() == other.hash()
    assert [level.digest() for level in one.levels] == [level.digest() for level in other.levels]
    plain = [
        replace(memory, fast=None, levels=(), conversations={}, documents={})
        for memory in (one, other)
    ]
    assert plain[0] == plain[1]
    left, right = _tensors(one), _tensors(other)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        scale = 1e-4 * float(right[name].double().abs().amax()) + 1e-6 if right[name].numel() else 0
        torch.testing.assert_close(
            tensor.double(),
            right[name].double(),
            rtol=1e-4,
            atol=scale,
            msg=lambda text, at=name: f"{at}: {text}",
        )


def _tensors(memory: SessionMemory) -> dict[str, torch.Tensor]:
    assert memory.fast is not None
    found = {f"fast.{name}": tensor for name, tensor in memory.fast.tensors.items()}
    for conversation, item in memory.conversations.items():
        found |= {f"{conversation}.{name}": tensor for name, tensor in item.context.items()}
    return _settled(found)


def _settled(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Windows as one tensor each: how they lie in memory depends on the cut."""
    found = {}
    for name, tensor in tensors.items():
        if ".window.tail_" in name:
            continue
        if ".window." in name:
            head, _, which = name.rpartition(".")
            tensor = torch.cat((tensor, tensors[f"{head}.tail_{which}"]), dim=2)[:, :, -23:]
        found[name] = tensor
    return found


def cut(spans: Sequence[str], places: Iterable[int]) -> list[Record]:
    """A document in one record, or in several: cut before these spans."""
    ends = [*sorted({at % len(spans) for at in places} - {0}), len(spans)]
    starts = [0, *ends[:-1]]
    return [
        part(*spans[start:end], ended=end == len(spans))
        for start, end in zip(starts, ends, strict=True)
    ]
