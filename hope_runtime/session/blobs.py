"""Blobs of a stored session: safetensors with a header that names format, kind and base model."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from hope_runtime.errors import CorruptStateError, FingerprintMismatchError, StateVersionError
from hope_runtime.session.layout import Tensors
from hope_runtime.session.memory import SessionMemory

STATE_FORMAT = 6
# Formats of blobs without what formats 6 and 5 added, so that older servers read them.
_FORMAT_BEFORE_BUDGETS = 5
_FORMAT_BEFORE_HISTORIES = 4


def tensors_blob(memory: SessionMemory, kind: str, tensors: Tensors) -> bytes:
    """A blob of named tensors that belongs to a memory's base model."""
    # Of tensors that share storage each is written whole.
    own = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return save(own, metadata=blob_header(memory.fingerprint, kind))


def blob_header(
    fingerprint: str, kind: str, *, histories: bool = False, budget: bool = False
) -> dict[str, str]:
    """Metadata of a blob. `histories` says that it has what resent histories are recognised by,
    which needs format 5, `budget` that it has an account of documents, which needs the present
    one."""
    version = _FORMAT_BEFORE_BUDGETS if histories else _FORMAT_BEFORE_HISTORIES
    if budget:
        version = STATE_FORMAT
    return {"format": str(version), "kind": kind, "fingerprint": fingerprint}


def open_blob(
    data: bytes, kind: str, known: frozenset[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a blob; `known` are the fingerprints of the base model served.

    Raises CorruptStateError, StateVersionError for a newer format, FingerprintMismatchError for
    another base model.
    """
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
    if header.get("fingerprint") not in known:
        raise FingerprintMismatchError(
            "the session was learnt on another base model; serve that model to use it"
        )
    return tensors, header
