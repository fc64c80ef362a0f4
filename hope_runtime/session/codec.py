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
guards, format 3 no digests of documents, format 4 nothing by which a resent history is recognised.
A state without the latter says format 4, so that older servers read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import islice
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from hope_runtime.errors import CorruptStateError, FingerprintMismatchError, StateVersionError
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.session.guards import EMPTY_GUARDS, Event, GuardState
from hope_runtime.session.layout import Layout, Tensors
from hope_runtime.session.levels import Level
from hope_runtime.session.memory import Conversation, Document, FastMemoryState, SessionMemory, Span
from hope_runtime.session.page_hinkley import EMPTY_STREAM, Watched
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.session.state_schema import SpanFields, StateFields
from hope_runtime.session.window import Window

STATE_FORMAT = 5
# Of blobs without what format 5 added.
_FORMAT_BEFORE_HISTORIES = 4
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
    return None if learnt is None else _tensors_blob(memory, "level", learnt.tensors())


def encode_fast(memory: SessionMemory) -> bytes | None:
    """Blob of the fast memory; None while there is none."""
    return None if memory.fast is None else _tensors_blob(memory, "fast", memory.fast.tensors)


def encode_context(memory: SessionMemory, conversation: str) -> bytes | None:
    """Blob of the context of a conversation; None when it carries none of its own."""
    context = memory.conversations[conversation].context
    return _tensors_blob(memory, "context", context) if context else None


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
                level.learnt is not None,
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
            [name, item.committed_bytes, item.tail.hex(), item.ended, item.content.hex()]
            for name, item in memory.documents.items()
        ],
        "contexts": [name for name, item in memory.conversations.items() if item.context],
        "fast": None if memory.fast is None else {"conversation": memory.fast.conversation},
        "guards": _describe_guards(memory),
    }
    header = _header(memory.fingerprint, "state")
    resume = {name: each.resume.hex() for name, each in memory.conversations.items() if each.resume}
    if memory.taught or resume:
        state |= {"taught": [digest.hex() for digest in memory.taught], "resume": resume}
        header["format"] = str(STATE_FORMAT)
    return save(ids, metadata=header | {"state": json.dumps(state)})


def decode_memory(
    blobs: Mapping[str, bytes],
    *,
    policies: Mapping[str, LearningPolicy],
    layout: Layout,
    fingerprint: str,
) -> SessionMemory:
    """The memory that `encode_memory` wrote, checked against what the model's layout says.

    Raises FingerprintMismatchError for another base model, StateVersionError for a newer format
    or a policy that is not (or no longer) known under its digest, CorruptStateError otherwise.
    """
    if STATE_BLOB not in blobs:
        raise CorruptStateError("the state blob of the session is missing")
    tensors, header = _open(blobs[STATE_BLOB], "state", fingerprint)
    try:
        state = StateFields.model_validate_json(header["state"])
        policy = policies.get(state.policy)
        if policy is None or policy.digest() != state.policy_digest:
            raise StateVersionError(
                f"the session was learnt under policy '{state.policy}' with settings that this "
                "server does not have; migrate it to an available policy"
            )
        return _build(state, tensors, blobs, policy, layout, fingerprint)
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
) -> SessionMemory:
    def opened(kind: str, blob: str) -> Tensors:
        if blob not in blobs:
            raise CorruptStateError(f"blob {blob} of the session is missing")
        found, _ = _open(blobs[blob], kind, fingerprint)
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
            kept = state.guards[index]
            events = tuple(Event(*event) for event in kept.events)
            streams = (
                EMPTY_STREAM if each is None else Watched(*each)
                for each in (kept.surprise, kept.probes)
            )
            level = replace(level, guard=GuardState(kept.rejections, kept.frozen, events, *streams))
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
    pinned = _take(tensors["pinned"], [item.pinned for item in state.conversations])
    recent = _take(tensors["recent"], [item.recent for item in state.conversations])
    contexts: dict[str, Tensors] = {}
    for name in state.contexts:
        contexts[name] = opened("context", context_blob(name))
        layout.check_context(contexts[name])
    fast = None
    if state.fast is not None:
        fast = FastMemoryState(opened("fast", FAST_BLOB), state.fast.conversation)
        layout.check_fast(fast.tensors)
    conversations = {
        item.name: Conversation(
            Window(item.capacity, head, tail, item.dropped),
            item.turns,
            contexts.get(item.name, {}),
            bytes.fromhex(state.resume.get(item.name, "")),
        )
        for item, head, tail in zip(state.conversations, pinned, recent, strict=True)
    }
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
        pending=_spans(tensors["pending"], state.pending),
        buffer=_with_cues(_spans(tensors["buffer"], state.buffer), tensors["cues"], state.cues),
        conversations=conversations,
        documents=documents,
        observed_tokens=state.observed_tokens,
        flushes=tuple(state.flushes),
        log_digest=bytes.fromhex(state.log_digest),
        taught=tuple(map(bytes.fromhex, state.taught)),
        fast=fast,
    )


def _tensors_blob(memory: SessionMemory, kind: str, tensors: Tensors) -> bytes:
    # Of tensors that share storage each is written whole.
    own = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return save(own, metadata=_header(memory.fingerprint, kind))


def _header(fingerprint: str, kind: str) -> dict[str, str]:
    return {"format": str(_FORMAT_BEFORE_HISTORIES), "kind": kind, "fingerprint": fingerprint}


def _open(
    data: bytes, kind: str, fingerprint: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load(data)
        version = int(header["format"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptStateError(f"the {kind} blob cannot be decoded: {error}") from error
    if header.get("kind") != kind:
        raise CorruptStateError(
            f"expected a {kind} blob, but found one of kind '{header.get('kind')}'"
        )
    if version > STATE_FORMAT:
        raise StateVersionError(
            f"the state has format {version}, and this server supports formats up to "
            f"{STATE_FORMAT}; use a newer server"
        )
    if header.get("fingerprint") != fingerprint:
        raise FingerprintMismatchError(
            "the session was learnt on another base model; serve that model to use it"
        )
    return tensors, header


def _flat(groups: Iterable[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor([token for group in groups for token in group], dtype=torch.int32)


def _take(flat: torch.Tensor, lengths: list[int]) -> list[tuple[int, ...]]:
    if sum(lengths) != flat.numel():
        raise ValueError("token counts do not match the number of stored tokens")
    parts = iter(flat.tolist())
    return [tuple(islice(parts, length)) for length in lengths]


def _describe_guards(memory: SessionMemory) -> list[Any]:
    if all(level.guard == EMPTY_GUARDS for level in memory.levels):
        return []
    return [
        [
            level.guard.rejections,
            level.guard.frozen,
            [[event.guard, event.value, event.limit] for event in level.guard.events],
            _describe_watched(level.guard.surprise),
            _describe_watched(level.guard.probes),
        ]
        for level in memory.levels
    ]


def _describe_watched(watched: Watched) -> list[Any] | None:
    return list(astuple(watched)) if watched.count else None


def _describe(span: Span) -> list[Any]:
    return [len(span.ids), span.speaker, span.start, span.surprise_nats]


def _spans(flat: torch.Tensor, entries: Sequence[SpanFields]) -> tuple[Span, ...]:
    ids = _take(flat, [entry.tokens for entry in entries])
    return tuple(
        Span(tokens, entry.speaker, entry.start, entry.surprise_nats)
        for tokens, entry in zip(ids, entries, strict=True)
    )


def _with_cues(
    spans: tuple[Span, ...], flat: torch.Tensor, lengths: list[list[int]]
) -> tuple[Span, ...]:
    cues = iter(_take(flat, [length for group in lengths for length in group]))
    return tuple(
        replace(span, cues=tuple(islice(cues, len(group))))
        for span, group in zip(spans, lengths, strict=True)
    )
