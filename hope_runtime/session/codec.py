"""SessionMemory <-> named blobs of bytes: safetensors throughout, never pickle.

    "state"       counters, spans, windows and documents: token ids as tensors, the rest as JSON
                  in the safetensors metadata
    "level.<i>"   what level i has learnt; absent until it first learns
    "fast"        what was written forward while tokens were read; absent until something was
    "context.<h>" what a conversation carries that is not being read, by a hash of its name

Every blob says format, kind and the base model's fingerprint, and is checked for names, shapes,
dtypes and finiteness against the model before a tensor is used; what it should hold, the engine's
Layout says. Integrity of the bytes themselves (digest, encryption) is the store's. tests/golden
holds blobs of every format version: format 1 knew no fast memory and no contexts, format 2 no
guards, format 3 no digests of documents, format 4 nothing by which a resent history is recognised,
format 5 no budget of documents. A state without the last two says an older format, so that older
servers read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import ValidationError
from safetensors.torch import save

from hope_runtime.errors import CorruptStateError, StateVersionError
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.session.blobs import STATE_FORMAT, blob_header, open_blob, tensors_blob
from hope_runtime.session.layout import Layout, Tensors
from hope_runtime.session.levels import Level
from hope_runtime.session.memory import Document, FastMemoryState, SessionMemory
from hope_runtime.session.policy import LearningPolicy, stored_policy
from hope_runtime.session.state_parts import (
    budget_of,
    conversations_of,
    describe_budget,
    describe_conversations,
    describe_guards,
    describe_histories,
    describe_span,
    flat_ids,
    guard_of,
    spans_of,
    with_cues,
)
from hope_runtime.session.state_schema import StateFields

__all__ = [
    "FAST_BLOB",
    "STATE_BLOB",
    "STATE_FORMAT",
    "changed_blobs",
    "context_blob",
    "decode_memory",
    "encode_context",
    "encode_fast",
    "encode_level",
    "encode_memory",
    "encode_state",
    "level_blob",
]

STATE_BLOB = "state"
FAST_BLOB = "fast"
# Tensors of the state blob: token ids of spans and windows.
_TOKEN_IDS = ("pending", "buffer", "cues", "pinned", "recent")


def level_blob(index: int) -> str:
    """Name of the blob of level `index`, 0 being the fastest."""
    return f"level.{index}"


def context_blob(conversation: str) -> str:
    """Name of the blob of a conversation's context; names of conversations may hold anything."""
    return f"context.{hashlib.sha256(conversation.encode()).hexdigest()[:16]}"


def encode_level(memory: SessionMemory, index: int) -> bytes | None:
    """Blob of one level; None until it has learnt."""
    learnt = memory.levels[index].learnt
    return None if learnt is None else tensors_blob(memory, "level", learnt.tensors())


def encode_fast(memory: SessionMemory) -> bytes | None:
    """Blob of the fast memory; None while there is none."""
    return None if memory.fast is None else tensors_blob(memory, "fast", memory.fast.tensors)


def encode_context(memory: SessionMemory, conversation: str) -> bytes | None:
    """Blob of the context of a conversation; None when it carries none of its own."""
    context = memory.conversations[conversation].context
    return tensors_blob(memory, "context", context) if context else None


def encode_memory(memory: SessionMemory) -> dict[str, bytes]:
    """All blobs of a memory by name."""
    blobs: dict[str, bytes | None] = {STATE_BLOB: encode_state(memory)}
    blobs |= {level_blob(i): encode_level(memory, i) for i in range(len(memory.levels))}
    blobs[FAST_BLOB] = encode_fast(memory)
    blobs |= {context_blob(name): encode_context(memory, name) for name in memory.conversations}
    return {name: blob for name, blob in blobs.items() if blob is not None}


def changed_blobs(
    old: SessionMemory, new: SessionMemory
) -> tuple[dict[str, bytes], frozenset[str]]:
    """Blobs of `new` that differ from those of `old`, and names of those that are gone: always the
    small state, a level only when it was consolidated or reset, the fast memory when tokens were
    read, a context when its conversation was left or taken up again."""
    blobs: dict[str, bytes | None] = {STATE_BLOB: encode_state(new)}
    for index, (before, after) in enumerate(zip(old.levels, new.levels, strict=True)):
        if after.learnt is not before.learnt:
            blobs[level_blob(index)] = encode_level(new, index)
    if new.fast is not old.fast:
        blobs[FAST_BLOB] = encode_fast(new)
    known = {name: item.context for name, item in old.conversations.items() if item.context}
    for name in old.conversations.keys() | new.conversations.keys():
        item = new.conversations.get(name)
        context = item.context if item else {}
        if context is not known.get(name) and (context or name in known):
            blobs[context_blob(name)] = encode_context(new, name) if context else None
    gone = frozenset(name for name, blob in blobs.items() if blob is None)
    return {name: blob for name, blob in blobs.items() if blob is not None}, gone


def encode_state(memory: SessionMemory) -> bytes:
    """Blob of everything but the levels' tensors."""
    ids = {
        "pending": flat_ids(span.ids for span in memory.pending),
        "buffer": flat_ids(span.ids for span in memory.buffer),
        "cues": flat_ids(cue for span in memory.buffer for cue in span.cues),
        "pinned": flat_ids(item.window.pinned for item in memory.conversations.values()),
        "recent": flat_ids(item.window.recent for item in memory.conversations.values()),
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
                level.learnt is not None,
            ]
            for level in memory.levels
        ],
        "pending": [describe_span(span) for span in memory.pending],
        "buffer": [describe_span(span) for span in memory.buffer],
        "cues": [[len(cue) for cue in span.cues] for span in memory.buffer],
        "conversations": describe_conversations(memory),
        "documents": [
            [name, item.committed_bytes, item.tail.hex(), item.ended, item.content.hex()]
            for name, item in memory.documents.items()
        ],
        "contexts": [name for name, item in memory.conversations.items() if item.context],
        "fast": None if memory.fast is None else {"conversation": memory.fast.conversation},
        "guards": describe_guards(memory),
    }
    histories = describe_histories(memory)
    budget = describe_budget(memory.budget)
    header = blob_header(
        memory.fingerprint, "state", histories=bool(histories), budget=bool(budget)
    )
    return save(ids, metadata=header | {"state": json.dumps(state | histories | budget)})


def decode_memory(
    blobs: Mapping[str, bytes],
    *,
    policies: Mapping[str, LearningPolicy],
    layout: Layout,
    fingerprint: str,
    former: frozenset[str] = frozenset(),
) -> SessionMemory:
    """The memory that `encode_memory` wrote, checked against what the model's layout says.

    `fingerprint` is the base model's, and `former` are others under which its sessions were stored.
    A memory keeps the one that it was stored under.

    Raises FingerprintMismatchError for another base model, StateVersionError for a newer format
    or a policy that is not (or no longer) known under its digest, CorruptStateError otherwise.
    """
    if STATE_BLOB not in blobs:
        raise CorruptStateError("the state blob of the session is missing")
    known = former | {fingerprint}
    tensors, header = open_blob(blobs[STATE_BLOB], "state", known)
    try:
        state = StateFields.model_validate_json(header["state"])
        policy = stored_policy(policies, state.policy, state.policy_digest)
        if policy is None:
            raise StateVersionError(
                f"the session was learnt under policy '{state.policy}' with settings that this "
                "server does not have; migrate it to an available policy"
            )
        return _build(state, tensors, blobs, policy, layout, header["fingerprint"], known)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise CorruptStateError(
            f"the state of the session cannot be decoded: {where}: {first['msg']}"
        ) from None
    except (KeyError, ValueError) as error:
        raise CorruptStateError(f"the state of the session cannot be decoded: {error}") from error


def _build(
    state: StateFields,
    tensors: dict[str, torch.Tensor],
    blobs: Mapping[str, bytes],
    policy: LearningPolicy,
    layout: Layout,
    fingerprint: str,
    known: frozenset[str],
) -> SessionMemory:
    def opened(kind: str, blob: str) -> Tensors:
        if blob not in blobs:
            raise CorruptStateError(f"blob {blob} of the session is missing")
        found, _ = open_blob(blobs[blob], kind, known)
        if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
            raise CorruptStateError(f"the {kind} blob contains non-finite values")
        return found

    levels = []
    for index, (config, entry) in enumerate(zip(policy.levels, state.levels, strict=True)):
        level = Level(
            config,
            None,
            entry.learnt_through,
            entry.updates,
            entry.learnt_tokens,
            entry.surprise_before_nats,
            entry.surprise_after_nats,
        )
        if state.guards:
            level = replace(level, guard=guard_of(state.guards[index]))
        if entry.has_learnt:
            learnt = layout.level(index, config, opened("level", level_blob(index)))
            if isinstance(learnt, LoraAdapter):
                level = replace(level, adapter=learnt)
            else:
                level = replace(level, weights=learnt)
        levels.append(level)
    for name in _TOKEN_IDS:
        ids = tensors[name]
        if ids.dtype != torch.int32 or ids.dim() != 1:
            raise ValueError(
                f"tensor {name} has dtype {ids.dtype} and shape {tuple(ids.shape)} instead of "
                "one dimension of int32"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < layout.vocab_size:
            raise ValueError(f"tensor {name} contains token ids outside the vocabulary")
    contexts: dict[str, Tensors] = {}
    for name in state.contexts:
        contexts[name] = opened("context", context_blob(name))
        layout.check_context(contexts[name])
    fast = None
    if state.fast is not None:
        fast = FastMemoryState(opened("fast", FAST_BLOB), state.fast.conversation)
        layout.check_fast(fast.tensors)
    documents = {
        item.name: Document(
            item.committed_bytes,
            bytes.fromhex(item.tail),
            item.ended,
            bytes.fromhex(item.content),
        )
        for item in state.documents
    }
    return SessionMemory(
        fingerprint=fingerprint,
        policy=policy,
        levels=tuple(levels),
        pending=spans_of(tensors["pending"], state.pending),
        buffer=with_cues(spans_of(tensors["buffer"], state.buffer), tensors["cues"], state.cues),
        conversations=conversations_of(state, tensors["pinned"], tensors["recent"], contexts),
        documents=documents,
        observed_tokens=state.observed_tokens,
        flushes=tuple(state.flushes),
        log_digest=bytes.fromhex(state.log_digest),
        taught=tuple(map(bytes.fromhex, state.taught)),
        budget=budget_of(state),
        fast=fast,
    )
