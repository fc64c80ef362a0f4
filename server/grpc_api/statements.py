"""Statements of a session as SessionService lists and forgets them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from hope.v1 import sessions_pb2 as pb

from hope_runtime.session.log import Speaker
from server.app import statements
from server.app.jobs import Jobs
from server.app.names import session_key
from server.app.sessions import Sessions
from server.grpc_api.convert import to_job
from server.grpc_api.paging import page_size
from server.store.base import Head

_SPEAKERS = {
    Speaker.USER: pb.SPEAKER_USER,
    Speaker.ASSISTANT: pb.SPEAKER_ASSISTANT,
    Speaker.SYSTEM: pb.SPEAKER_SYSTEM,
    Speaker.DOCUMENT: pb.SPEAKER_DOCUMENT,
}


async def list_statements(
    sessions: Sessions, request: pb.ListStatementsRequest
) -> pb.ListStatementsResponse:
    """A page of what a session was taught."""
    found, token = await statements.page(
        sessions,
        session_key(request.parent, field="parent"),
        query=request.query,
        document=request.document,
        rehearsed_only=request.rehearsed_only,
        page_size=page_size(request.page_size),
        page_token=request.page_token,
    )
    return pb.ListStatementsResponse(
        statements=[_to_statement(each) for each in found], next_page_token=token
    )


async def forget_statements(
    jobs: Jobs, request: pb.ForgetStatementsRequest, shown: Callable[[Head], pb.Session]
) -> AsyncIterator[pb.ForgetStatementsResponse]:
    """The job that forgets, and the session after it."""
    key = session_key(request.name, field="name")
    running = await jobs.forget_statements(key, request.ids)
    async for progress in running.watch():
        yield pb.ForgetStatementsResponse(job=to_job(running.ask, progress))
    yield pb.ForgetStatementsResponse(session=shown(await running.result()))


def _to_statement(statement: statements.Statement) -> pb.Statement:
    text, truncated = statement.excerpt
    record, place = statement.record, statement.place
    shown = pb.Statement(
        id=statement.id,
        text=text,
        truncated=truncated,
        speaker=_SPEAKERS.get(statement.speaker, pb.SPEAKER_UNSPECIFIED),
        conversation=record.conversation,
        document=record.document,
        offset_bytes=statement.offset_bytes,
        learnable_tokens=place.stop - place.start,
        levels=statement.levels,
        memory_version=statement.version,
        rehearsed=statement.rehearsed,
        surprise_nats=statement.surprise_nats,
        superseded_by=statement.superseded_by,
    )
    if record.time:
        shown.create_time.FromSeconds(record.time)
    return shown
