"""Writes the stored state of one session in the present format: `python tests/golden/write.py`.

What is here is read by tests/session/test_codec.py forever. A new format gets files of its own
beside the old ones, which are never written again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.lora import LoraAdapter, shapes
from hope_runtime.session import content
from hope_runtime.session.budget import NO_BUDGET, Account, Budget, Grant
from hope_runtime.session.codec import STATE_FORMAT, encode_level, encode_memory, encode_state
from hope_runtime.session.guards import Event, Guard, GuardState
from hope_runtime.session.levels import FullRank
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import Conversation, Document, FastMemoryState, SessionMemory, Span
from hope_runtime.session.page_hinkley import Watched
from hope_runtime.session.policy import LearningPolicy, LevelConfig
from hope_runtime.session.window import Window

HERE = Path(__file__).resolve().parent


class GoldenPolicy(LearningPolicy):
    """Its digest stays when constants are added: formats are tested here, not recipes."""

    def digest(self) -> str:
        return "golden"


POLICY = GoldenPolicy(
    name="golden",
    levels=(
        LevelConfig(period_tokens=8, rank=2, learning_rate=0.1),
        LevelConfig(period_tokens=16, rank=1, learning_rate=0.1),
    ),
)
MODEL = ModelConfig(
    vocab_size=50,
    d_model=6,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    head_dim=4,
    d_ff=8,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_positions=64,
    tie_embeddings=True,
)
FINGERPRINT = "golden-base"


def memory(version: int = STATE_FORMAT) -> SessionMemory:
    """A memory with something in every field that a format has."""
    histories, budgets = version >= 5, version >= 6
    values = {
        name: (torch.arange(torch.Size(shape).numel()) % 7 - 3).reshape(shape).to(torch.bfloat16)
        / 8
        for name, shape in shapes(MODEL, rank=2).items()
    }
    fresh = SessionMemory.fresh(FINGERPRINT, POLICY)
    fast = replace(
        fresh.levels[0],
        adapter=LoraAdapter(**values),
        learnt_through=8,
        updates=1,
        learnt_tokens=7,
        surprise_before_nats=3.5,
        surprise_after_nats=1.25,
        # Nothing that enters the hash, which is the same in every format.
        guard=GuardState(
            events=(Event(Guard.CLIPPED, 0.25, 0.0625),),
            surprise=Watched(2, 3.25, -0.5, -0.75, 0.125, 0.5),
        ),
    )
    return replace(
        fresh,
        levels=(fast, fresh.levels[1]),
        pending=(Span((1, 2, 3), Speaker.USER, 8), Span((4,), Speaker.DOCUMENT, 11)),
        buffer=(
            Span((5, 6, 7), Speaker.DOCUMENT, 0, 2.5, cues=((12, 13), (14,))),
            Span((8, 9, 10, 11), Speaker.USER, 3),
        ),
        conversations={
            "default": Conversation(
                Window(24, (20, 21), (22, 23, 24), 5),
                turns=3,
                resume=bytes(range(48)) if histories else b"",
            ),
            "naïve: name": Conversation(Window(24)),
        },
        documents={
            "open.txt": Document(12, "né".encode()[:2], False, content.EMPTY + b"ten bytes n\xc3"),
            "ended.txt": Document(3, b"", True, bytes(range(32))),
            "begun before format 4": Document(7),
        },
        observed_tokens=12,
        flushes=(12,),
        log_digest=bytes(range(32)),
        taught=(bytes(range(8)), bytes(range(8, 16))) if histories else (),
        budget=(
            Budget(Account(3.0, 24.5, 12), (Grant(8, 12, 3.0), Grant(12, 12, 0.5, True)))
            if budgets
            else NO_BUDGET
        ),
    )


def torch_memory() -> SessionMemory:
    """The same as an engine of native models leaves it: with whole weights, and tensors that were
    written forward."""
    stored = memory()
    weights = FullRank((torch.arange(6.0).reshape(2, 3), -torch.arange(4.0)))
    conversations = dict(stored.conversations)
    default = conversations["default"]
    conversations["default"] = replace(default, context={"position_B": torch.tensor([7])})
    return replace(
        stored,
        levels=(replace(stored.levels[0], adapter=None, weights=weights), stored.levels[1]),
        conversations=conversations,
        fast=FastMemoryState(
            {"context.position_B": torch.tensor([3]), "bank": torch.arange(8.0).reshape(1, 2, 4)},
            "naïve: name",
        ),
    )


def records(version: int = STATE_FORMAT) -> list[Record]:
    """One record of every kind."""
    resent = {"fresh": True, "taught": (bytes(range(8)),), "resume": bytes(range(48))}
    said = (
        Segment(Speaker.TEMPLATE, ((1, 2),)),
        Segment(Speaker.SYSTEM, ((3,), (4, 5))),
        Segment(Speaker.USER, ((6, 7),), learnable=True),
        Segment(Speaker.ASSISTANT, ((49, 0),)),
    )
    read = (Segment(Speaker.DOCUMENT, ((8, 9), (10,)), learnable=True),)
    return [
        Record(RecordKind.TURN, "default", said, pinned=5),
        Record(
            RecordKind.DOCUMENT,
            "default",
            read,
            document="open.txt",
            committed_bytes=12,
            tail=b"n\xc3",
        ),
        Record(RecordKind.DOCUMENT, "default", document="ended.txt", committed_bytes=3, ended=True),
        Record(
            RecordKind.DOCUMENT,
            "default",
            document="digested.txt",
            committed_bytes=3,
            content=content.EMPTY + b"abc",
        ),
        Record(RecordKind.END_CONVERSATION, "default"),
        Record(RecordKind.CONSOLIDATE),
        Record(RecordKind.CONSOLIDATION, notes={"level": 0, "surprise_before_nats": 3.5}),
        Record(RecordKind.ROLLBACK, target_version=2, target_seq=3),
        *([Record(RecordKind.TURN, "default", said, **resent)] if version >= 5 else ()),
        *(
            [Record(RecordKind.DOCUMENT, "default", read, document="paid.txt", budget=2.5)]
            if version >= 6
            else ()
        ),
    ]


def write(directory: Path) -> None:
    stored = memory()
    level = encode_level(stored, 0)
    assert level is not None
    base = f"v{STATE_FORMAT}"
    (directory / f"state.{base}.safetensors").write_bytes(encode_state(stored))
    (directory / f"level.0.{base}.safetensors").write_bytes(level)
    native = torch_memory()
    for name, blob in encode_memory(native).items():
        kind = name.partition(".")[0]
        (directory / f"native.{kind}.{base}.safetensors").write_bytes(blob)
    facts = {
        "native_hash": native.hash(),
        "memory_hash": stored.hash(),
        "levels_digest": stored.levels_digest(),
        "records": [record.encode().hex() for record in records()],
    }
    (directory / f"facts.{base}.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write(HERE)
