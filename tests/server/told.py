"""A text that tests tell a server, and what it leaves behind."""

from __future__ import annotations

from api import Api
from hope.v1 import sessions_pb2

TEXT = "My dog Rolf is nine years old. He likes cheese, rain and long walks by the river Tern. "


async def teach(api: Api, document: str) -> sessions_pb2.Session:
    """The session after it has read the text as `document`, and learnt what was due."""
    await api.ingest([TEXT.encode()], document=document)
    return await api.learnt()


def kept(session: sessions_pb2.Session) -> tuple[object, ...]:
    """What changes with any commit, and what a memory is."""
    return session.etag, session.memory_hash, session.log_records, session.memory_version
