"""Mutated states, log records and stored heads: a typed error or a memory that is whole, always.

Some mutations hit bytes, others the JSON or the tensors within and make the blob whole again, as
somebody would who imports a session that no server ever wrote.
"""

from __future__ import annotations

import json
import random
import resource
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mutations import mutated_bytes, mutated_json
from safetensors.torch import load, save
from stored_state import Blobs, decode, encode, golden

from hope_runtime.errors import StateError
from hope_runtime.session.codec import STATE_BLOB
from hope_runtime.session.log import Record

# Beyond what was there before; no blob here has a megabyte.
MAX_GROWTH_BYTES = 128 << 20
COUNTS = [2_000, pytest.param(100_000, marks=pytest.mark.heavy)]


def mutated_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    match rng.randrange(5):
        case 0:
            return tensor.to(rng.choice((torch.int64, torch.float64, torch.bfloat16, torch.bool)))
        case 1:
            return tensor.flatten()[: rng.randrange(tensor.numel() + 1)].clone()
        case 2:
            return tensor.unsqueeze(0).clone()
        case 3:
            return torch.zeros([0, *tensor.shape[1:]], dtype=tensor.dtype)
        case _ if tensor.numel():
            flat = tensor.clone().flatten()
            odd = float("nan") if tensor.is_floating_point() else rng.choice((-1, 10**6, 2**31 - 1))
            flat[rng.randrange(flat.numel())] = odd
            return flat.view(tensor.shape)
        case _:
            return tensor


def mutated_blob(rng: random.Random, name: str, blobs: Blobs) -> bytes:
    data = blobs[name]
    if rng.random() < 0.4:
        return mutated_bytes(rng, data, blobs[rng.choice(sorted(blobs))])
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = load(data)
    if name == STATE_BLOB and rng.random() < 0.7:
        header["state"] = json.dumps(mutated_json(rng, json.loads(header["state"])))
    elif rng.random() < 0.3:
        header = {key: str(value) for key, value in mutated_json(rng, header).items()}
    else:
        key = rng.choice(sorted(tensors))
        tensors[key] = mutated_tensor(rng, tensors[key])
    return save(tensors, metadata=header)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.fixture
def grows_little() -> Any:
    before = peak_bytes()
    yield
    assert peak_bytes() - before < MAX_GROWTH_BYTES


def outcomes(count: int, attempt: Callable[[random.Random], None]) -> float:
    """The share of attempts that were refused, each with a typed error."""
    messages = []
    for number in range(count):
        try:
            attempt(random.Random(number))
        except StateError as error:
            messages.append(str(error))
    assert not any("\n" in message or message.endswith(".") for message in messages)
    return len(messages) / count


@pytest.mark.usefixtures("grows_little")
@pytest.mark.parametrize("count", COUNTS)
def test_mutated_states(count: int) -> None:
    blobs = encode(golden.memory())

    def attempt(rng: random.Random) -> None:
        name = rng.choice(sorted(blobs))
        memory = decode(blobs | {name: mutated_blob(rng, name, blobs)})
        # What was taken is a memory like any other.
        again = decode(encode(memory))
        assert again.hash() == memory.hash()
        assert again.conversations == memory.conversations
        assert all(item.window.room >= 0 for item in memory.conversations.values())
        assert memory.pending_tokens >= 0

    assert 0.5 < outcomes(count, attempt) < 1


@pytest.mark.usefixtures("grows_little")
@pytest.mark.parametrize("count", COUNTS)
def test_mutated_records(count: int) -> None:
    stored = [record.encode() for record in golden.records()]

    def attempt(rng: random.Random) -> None:
        data, other = rng.choice(stored), rng.choice(stored)
        if rng.random() < 0.3:
            record = Record.decode(mutated_bytes(rng, data, other))
        else:
            size = int.from_bytes(data[:4], "little")
            body = zlib.decompress(data[4:])
            head = json.dumps(mutated_json(rng, json.loads(body[:size]))).encode()
            ids = body[size:]
            if rng.random() < 0.3:
                ids = mutated_bytes(rng, ids, ids)
            record = Record.decode(len(head).to_bytes(4, "little") + zlib.compress(head + ids))
        # By their texts: a note may be a NaN, which equals nothing.
        assert repr(Record.decode(record.encode())) == repr(record)
        assert record.learnable_tokens >= 0

    assert 0.3 < outcomes(count, attempt) < 1


@pytest.mark.usefixtures("grows_little")
def test_a_record_that_says_it_holds_gigabytes_is_refused_early() -> None:
    packer = zlib.compressobj(9)
    parts = [
        packer.compress(bytes(1 << 24)) for _ in range(32)
    ]  # half a gigabyte, in half a megabyte
    bomb = (2).to_bytes(4, "little") + b"".join((*parts, packer.flush()))
    with pytest.raises(StateError, match="truncated, or larger than 32 MiB"):
        Record.decode(bomb)
