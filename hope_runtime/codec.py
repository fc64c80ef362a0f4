"""SessionMemory <-> named blobs of bytes: safetensors throughout, never pickle.

    "state"     counters, spans, windows and documents: token ids as tensors, the rest as JSON
                in the safetensors metadata
    "level.<i>" the six tensors of level i, bfloat16; absent until the level first learns

Every blob says format, kind and the base model's fingerprint, and is checked for names, shapes,
dtypes and finiteness against the model before a tensor is used. Integrity of the bytes
themselves (digest, encryption) is the store's. tests/golden holds blobs of every format version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from hope_runtime.config import LearningPolicy, ModelConfig
from hope_runtime.errors import CorruptStateError, FingerprintMismatchError, StateVersionError
from hope_runtime.log import Speaker
from hope_runtime.memory.cms import STORED_DTYPE, Level, LowRank, shapes
from hope_runtime.memory.state import Conversation, Document, SessionMemory, Span
from hope_runtime.memory.window import Window

STATE_FORMAT = 1
STATE_BLOB = "state"
# Tensors of the state blob: token ids of spans and windows.
_TOKEN_IDS = ("pending", "buffer", "cues", "pinned", "recent")


def level_blob(index: int) -> str:
    """Name of the blob of level `index`, 0 being the fastest."""
    return f"level.{index}"


def encode_level(memory: SessionMemory, index: int) -> bytes | None:
    """Blob of one level; None while it has no terms."""
    terms = memory.levels[index].terms
    if terms is None:
        return None
    header = _header(memory.fingerprint, "level")
    return save({k: v.contiguous() for k, v in terms.tensors().items()}, metadata=header)


def encode_memory(memory: SessionMemory) -> dict[str, bytes]:
    """All blobs of a memory by name."""
    levels = {level_blob(i): encode_level(memory, i) for i in range(len(memory.levels))}
    present = {name: blob for name, blob in levels.items() if blob is not None}
    return {STATE_BLOB: encode_state(memory), **present}


def changed_blobs(
    old: SessionMemory, new: SessionMemory
) -> tuple[dict[str, bytes], frozenset[str]]:
    """Blobs of `new` that differ from those of `old`, and names of those that are gone: always the
    small state, a level only when it was consolidated or reset."""
    blobs = {STATE_BLOB: encode_state(new)}
    gone = set()
    for index, (before, after) in enumerate(zip(old.levels, new.levels, strict=True)):
        if after.terms is not before.terms:
            data = encode_level(new, index)
            if data is None:
                gone.add(level_blob(index))
            else:
                blobs[level_blob(index)] = data
    return blobs, frozenset(gone)


def encode_state(memory: SessionMemory) -> bytes:
    """Blob of everything but the levels' tensors."""
    ids = {
        "pending": _flat(span.ids for span in memory.pending),
        "buffer": _flat(span.ids for span in memory.buffer),
        "cues": _flat(cue for span in memory.buffer for cue in span.cues),
        "pinned": _flat(item.window.pinned for item in memory.conversations.values()),
        "recent": _flat(item.window.recent for item in memory.conversations.values()),
    }
    state = {
        "policy": memory.policy.name,
        "policy_digest": memory.policy.digest(),
        "observed_tokens": memory.observed_tokens,
        "flushes": memory.flushes,
        "log_digest": memory.log_digest.hex(),
        "levels": [
            [
                level.learnt_through,
                level.updates,
                level.learnt_tokens,
                level.surprise_before_nats,
                level.surprise_after_nats,
                level.terms is not None,
            ]
            for level in memory.levels
        ],
        "pending": [_describe(span) for span in memory.pending],
        "buffer": [_describe(span) for span in memory.buffer],
        "cues": [[len(cue) for cue in span.cues] for span in memory.buffer],
        "conversations": [
            [
                name,
                item.turns,
                item.window.capacity,
                item.window.dropped,
                len(item.window.pinned),
                len(item.window.recent),
            ]
            for name, item in memory.conversations.items()
        ],
        "documents": [
            [name, item.committed_bytes, item.tail.hex(), item.ended]
            for name, item in memory.documents.items()
        ],
    }
    header = _header(memory.fingerprint, "state") | {"state": json.dumps(state)}
    return save(ids, metadata=header)


def decode_memory(
    blobs: Mapping[str, bytes],
    *,
    policies: Mapping[str, LearningPolicy],
    model: ModelConfig,
    fingerprint: str,
) -> SessionMemory:
    """The memory that `encode_state` and `encode_level` wrote.

    Raises FingerprintMismatchError for another base model, StateVersionError for a newer format
    or a policy that is not (or no longer) known under its digest, CorruptStateError otherwise.
    """
    if STATE_BLOB not in blobs:
        raise CorruptStateError("The session's state blob is missing.")
    tensors, header = _open(blobs[STATE_BLOB], "state", fingerprint)
    try:
        state = json.loads(header["state"])
        policy = policies.get(state["policy"])
        if policy is None or policy.digest() != state["policy_digest"]:
            raise StateVersionError(
                f"The session learnt under policy '{state['policy']}' with constants that this "
                "server does not have; migrate it to a present policy."
            )
        return _build(state, tensors, blobs, policy, model, fingerprint)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CorruptStateError(f"The session's state cannot be read: {error}.") from error


def decode_level(data: bytes, *, model: ModelConfig, rank: int, fingerprint: str) -> LowRank:
    """One level's terms, checked against the model. Raises as `decode_memory` does."""
    tensors, _ = _open(data, "level", fingerprint)
    expected = shapes(model, rank)
    if set(tensors) != set(expected):
        raise CorruptStateError(f"A level holds the tensors {sorted(tensors)}.")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != STORED_DTYPE:
            raise CorruptStateError(
                f"Tensor {name} of a level is {tensor.dtype} {tuple(tensor.shape)}, not "
                f"{STORED_DTYPE} {shape}."
            )
    terms = LowRank(**tensors)
    if not terms.is_finite():
        raise CorruptStateError("A level holds values that are not finite.")
    return terms


def _build(
    state: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    blobs: Mapping[str, bytes],
    policy: LearningPolicy,
    model: ModelConfig,
    fingerprint: str,
) -> SessionMemory:
    levels = []
    for index, (config, entry) in enumerate(zip(policy.levels, state["levels"], strict=True)):
        *counters, has_terms = entry
        terms = None
        if has_terms:
            data = blobs[level_blob(index)]
            terms = decode_level(data, model=model, rank=config.rank, fingerprint=fingerprint)
        levels.append(Level(config, terms, *counters))
    for name in _TOKEN_IDS:
        ids = tensors[name]
        if ids.dtype != torch.int32 or ids.dim() != 1:
            raise ValueError(f"tensor {name} is {ids.dtype} {tuple(ids.shape)}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < model.vocab_size:
            raise ValueError(f"tensor {name} holds ids outside of the vocabulary")
    pinned = _take(tensors["pinned"], [entry[4] for entry in state["conversations"]])
    recent = _take(tensors["recent"], [entry[5] for entry in state["conversations"]])
    conversations = {
        name: Conversation(Window(capacity, head, tail, dropped), turns)
        for (name, turns, capacity, dropped, *_), head, tail in zip(
            state["conversations"], pinned, recent, strict=True
        )
    }
    documents = {
        name: Document(committed, bytes.fromhex(tail), ended)
        for name, committed, tail, ended in state["documents"]
    }
    return SessionMemory(
        fingerprint=fingerprint,
        policy=policy,
        levels=tuple(levels),
        pending=_spans(tensors["pending"], state["pending"]),
        buffer=_with_cues(
            _spans(tensors["buffer"], state["buffer"]), tensors["cues"], state["cues"]
        ),
        conversations=conversations,
        documents=documents,
        observed_tokens=state["observed_tokens"],
        flushes=tuple(state["flushes"]),
        log_digest=bytes.fromhex(state["log_digest"]),
    )


def _header(fingerprint: str, kind: str) -> dict[str, str]:
    return {"format": str(STATE_FORMAT), "kind": kind, "fingerprint": fingerprint}


def _open(
    data: bytes, kind: str, fingerprint: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load(data)
        version = int(header["format"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptStateError(f"A {kind} blob is not readable: {error}.") from error
    if header.get("kind") != kind:
        raise CorruptStateError(f"A blob of kind '{header.get('kind')}' stands where a {kind} is.")
    if version > STATE_FORMAT:
        raise StateVersionError(
            f"This state was written in format {version}; this server reads up to {STATE_FORMAT}."
        )
    if header.get("fingerprint") != fingerprint:
        raise FingerprintMismatchError(
            "The session was learnt on another base model; serve that model."
        )
    return tensors, header


def _flat(groups: Iterable[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor([token for group in groups for token in group], dtype=torch.int32)


def _take(flat: torch.Tensor, lengths: list[int]) -> list[tuple[int, ...]]:
    if sum(lengths) != flat.numel():
        raise ValueError("token counts disagree")
    parts = iter(flat.tolist())
    return [tuple(islice(parts, length)) for length in lengths]


def _describe(span: Span) -> list[Any]:
    return [len(span.ids), span.speaker, span.start, span.surprise_nats]


def _spans(flat: torch.Tensor, entries: list[list[Any]]) -> tuple[Span, ...]:
    ids = _take(flat, [entry[0] for entry in entries])
    return tuple(
        Span(tokens, Speaker(speaker), start, surprise)
        for tokens, (_, speaker, start, surprise) in zip(ids, entries, strict=True)
    )


def _with_cues(
    spans: tuple[Span, ...], flat: torch.Tensor, lengths: list[list[int]]
) -> tuple[Span, ...]:
    cues = iter(_take(flat, [length for group in lengths for length in group]))
    return tuple(
        replace(span, cues=tuple(islice(cues, len(group))))
        for span, group in zip(spans, lengths, strict=True)
    )
