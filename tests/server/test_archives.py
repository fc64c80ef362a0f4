"""Export of a session to a file, and import on another server."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import grpc
import pytest
from api import refused
from grpc import aio
from hope.v1 import sessions_pb2 as pb
from serving import Served
from told import teach

from hope_runtime.session.log import Record

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_an_exported_session_goes_on_elsewhere(served: Served) -> None:
    api, copy = served.api, served.api.on("copy")
    await api.create()
    await teach(api, "one")
    await api.say("Hello, my name is Ada.")
    await teach(api, "two")
    await api.rollback()
    source = await teach(api, "three")
    data = await api.export()
    imported = await copy.import_(data)
    assert imported.memory_hash == source.memory_hash
    assert (imported.log_records, imported.levels) == (source.log_records, source.levels)
    assert (imported.memory_version, imported.policy) == (1, source.policy)
    assert (await copy.say("Who is Rolf?")).text == (await api.say("Who is Rolf?")).text
    # Its log is whole: folding it again gives the same.
    assert (await copy.migrate()).memory_hash == (await copy.get()).memory_hash
    async with refused(grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS"):
        await copy.import_(data)


async def test_what_is_no_whole_export_makes_nothing(served: Served) -> None:
    api, copy = served.api, served.api.on("copy")
    await api.create()
    await teach(api, "one")
    data = await api.export()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for broken in (b"", b"hello, world", data[:-1], data[: len(data) // 2], data + b"x", flipped):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "chunk"):
            await copy.import_(bytes(broken))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "name"):
        await copy.sessions.ImportSession(iter([pb.ImportSessionRequest(chunk=data)]))
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await copy.get()


async def test_a_whole_export_that_no_server_made_is_refused(served: Served) -> None:
    """Anybody can make frames and digests that fit; what is in them is looked at as well."""
    api, copy = served.api, served.api.on("copy")
    await api.create()
    await teach(api, "one")
    data = await api.export()
    frames, at = [], 0
    while data[at : at + 1] != b"E":
        size = int.from_bytes(data[at + 1 : at + 5], "little")
        frames.append((data[at : at + 1], data[at + 5 : at + 5 + size]))
        at += 5 + size
    index, kind, record = next(
        (index, kind, Record.decode(payload))
        for index, (letter, body) in enumerate(frames)
        for kind, _, payload in [body.partition(b"\0")]
        if letter == b"L" and Record.decode(payload).learnable_tokens
    )
    strange = replace(record.segments[-1], spans=((2**31,),))
    forged = replace(record, segments=(*record.segments[:-1], strange))
    for body, message in (
        (kind + b"\0" + forged.encode(), "token ids outside the model's vocabulary"),
        (kind + b"\0" + replace(record, segments=()).encode(), "does not match its log"),
    ):
        frames[index] = (b"L", body)
        whole = b"".join(letter + len(body).to_bytes(4, "little") + body for letter, body in frames)
        whole += b"E" + (32).to_bytes(4, "little") + hashlib.sha256(whole).digest()
        with pytest.raises(aio.AioRpcError, match=message):
            await copy.import_(whole)
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await copy.get()
