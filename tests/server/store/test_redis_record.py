"""Records in Redis that somebody damaged: a typed error, or a record with every type right."""

from __future__ import annotations

import json
import random

import pytest
from mutations import mutated_bytes, mutated_json

from server.store.base import CorruptStoreError, SessionKey
from server.store.redis.record import HeldJob, HeldLease, SessionRecord, State, decode, encode
from server.store.values import BlobRef, Job, Snapshot

KEY = SessionKey("ada", "notes")


def record() -> SessionRecord:
    state = State(
        version=3,
        parent_version=2,
        log_seq=7,
        log_bytes=70,
        fingerprint="base",
        policy="default",
        summary=b"{}",
        blobs={"state": BlobRef("ab" * 32, 10), "level.0": BlobRef("cd" * 32, 99)},
    )
    made = SessionRecord(
        key=KEY,
        incarnation=5,
        revision=9,
        nonce="n",
        display_name="Notes",
        create_time=1.0,
        update_time=2.0,
        state=state,
    )
    made.versions[3] = (state, 2.0)
    made.snapshots["before"] = Snapshot(name="before", version=3, create_time=2.0)
    made.lease = HeldLease("a", 4, 30.0, "epoch")
    made.job = HeldJob(
        "job",
        Job(request=b"r", progress=b"p", create_time=1.0),
        {"level.0": BlobRef("ef" * 32, 5)},
    )
    return made


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.heavy)])
def test_mutated_records(count: int) -> None:
    fields = encode(record())
    assert decode(KEY, fields) == record()
    refused = 0
    for number in range(count):
        rng = random.Random(number)
        name = rng.choice(sorted(fields))
        data = (
            mutated_bytes(rng, fields[name], fields["head"])
            if rng.random() < 0.3
            else json.dumps(mutated_json(rng, json.loads(fields[name]))).encode()
        )
        try:
            found = decode(KEY, fields | {name: data})
        except CorruptStoreError:
            refused += 1
        else:
            assert decode(KEY, encode(found)) == found
            found.head()
            found.version_infos()
    assert 0.3 < refused / count < 1
