"""Stored state of a small session by hand: its blobs, and changes within them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load, save

from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.session.codec import (
    STATE_BLOB,
    decode_memory,
    encode_level,
    encode_state,
    level_blob,
)
from hope_runtime.session.memory import SessionMemory

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Blobs = dict[str, bytes]


def _load_golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


golden = _load_golden()


def encode(memory: SessionMemory) -> Blobs:
    blobs = {STATE_BLOB: encode_state(memory)}
    for index in range(len(memory.levels)):
        if (data := encode_level(memory, index)) is not None:
            blobs[level_blob(index)] = data
    return blobs


def decode(blobs: Blobs, **changes: Any) -> SessionMemory:
    expected = {"policies": {"golden": golden.POLICY}, "layout": AdapterLayout(golden.MODEL)}
    return decode_memory(blobs, **({"fingerprint": golden.FINGERPRINT} | expected | changes))


def header_of(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    fields: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    return fields


def edited(
    data: bytes,
    *,
    header: Callable[[dict[str, str]], None] = lambda _: None,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda _: None,
    state: Callable[[dict[str, Any]], None] | None = None,
) -> bytes:
    """A blob with a change in its header, its tensors or its JSON, made whole again."""
    fields = header_of(data)
    values = load(data)
    header(fields)
    tensors(values)
    if state is not None:
        content = json.loads(fields["state"])
        state(content)
        fields["state"] = json.dumps(content)
    return save(values, metadata=fields)
