"""The server's API with little ceremony, over bare stubs: tests see what is on the wire."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status.rpc_status import from_call
from hope.v1 import (
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)

USER = "users/ada"
NAME = f"{USER}/sessions/diary"
FEW_TOKENS = 6


@dataclass
class Refusal:
    """What a failed call said: code, message, and the details by name."""

    code: grpc.StatusCode
    message: str
    reason: str
    field: str
    retry_seconds: float | None


def refusal_of(error: aio.AioRpcError) -> Refusal:
    """Unpacks a rich status, checking what every error of this server has."""
    status = from_call(error)
    assert status is not None, error
    info, violations, delay = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    found = [
        detail
        for item in status.details
        for detail in (info, violations, delay)
        if item.Unpack(detail)
    ]
    assert info in found
    assert info.domain == "hope.dev"
    assert status.message == error.details()
    assert status.message[-1] in ".!?"
    assert "\n" not in status.message
    field = violations.field_violations[0].field if violations in found else ""
    seconds = delay.retry_delay.ToTimedelta().total_seconds() if delay in found else None
    return Refusal(error.code(), status.message, info.reason, field, seconds)


@asynccontextmanager
async def refused(code: grpc.StatusCode, reason: str, field: str = "") -> AsyncIterator[None]:
    """The block must fail with this code, reason and, where given, field."""
    with pytest.raises(aio.AioRpcError) as caught:
        yield
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason, refusal.field) == (code, reason, field), refusal


def secrets_in(text: str, secrets: Iterable[str]) -> list[str]:
    """Those of `secrets` that `text` holds. One that could be a part of a hexadecimal number, as
    "ada" is, counts only where no digit stands beside it."""
    digits = "0123456789abcdef"
    return [
        secret
        for secret in secrets
        if (
            re.search(f"(?<![{digits}]){secret}(?![{digits}])", text)
            if set(secret) <= set(digits)
            else secret in text
        )
    ]


@dataclass
class Api:
    """A connection, and one session that methods mean unless told otherwise."""

    channel: aio.Channel
    name: str = NAME

    def __post_init__(self) -> None:
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.sessions = sessions_pb2_grpc.SessionServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def on(self, session_id: str) -> Api:
        """The same connection, for another session."""
        return Api(self.channel, f"{USER}/sessions/{session_id}")

    async def create(self, policy: str = "quick") -> sessions_pb2.Session:
        request = sessions_pb2.CreateSessionRequest(
            parent=self.name.partition("/sessions/")[0],
            session_id=self.name.rpartition("/")[2],
            policy=policy,
        )
        return (await self.sessions.CreateSession(request)).session

    async def get(self) -> sessions_pb2.Session:
        return (
            await self.sessions.GetSession(sessions_pb2.GetSessionRequest(name=self.name))
        ).session

    async def learnt(self) -> sessions_pb2.Session:
        """The session once everything that is due was learnt: a score waits for that."""
        await self.score("x")
        return await self.get()

    async def export(self) -> bytes:
        request = sessions_pb2.ExportSessionRequest(name=self.name)
        return b"".join([each.chunk async for each in self.sessions.ExportSession(request)])

    async def import_(self, data: bytes) -> sessions_pb2.Session:
        """Makes the session out of what `export` gave."""
        requests = [sessions_pb2.ImportSessionRequest(name=self.name)]
        requests += [
            sessions_pb2.ImportSessionRequest(chunk=data[at : at + 100_000])
            for at in range(0, len(data), 100_000)
        ]
        return (await self.sessions.ImportSession(iter(requests))).session

    def asking(
        self, text: str = "", *, max_tokens: int = FEW_TOKENS, **fields: Any
    ) -> inference_pb2.GenerateRequest:
        """A request for a reply; keyword arguments are fields of it, of sampling or of learning."""
        request = inference_pb2.GenerateRequest(
            session=self.name,
            messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, content=text)],
            sampling=inference_pb2.Sampling(max_tokens=max_tokens),
        )
        for name, value in fields.items():
            owner = next(
                part
                for part in (request, request.sampling, request.learn_options)
                if name in part.DESCRIPTOR.fields_by_name
            )
            setattr(owner, name, value) if not isinstance(value, list) else getattr(
                owner, name
            ).extend(value)
        return request

    async def events(
        self, request: inference_pb2.GenerateRequest, **call: Any
    ) -> list[inference_pb2.GenerateResponse]:
        return [event async for event in self.inference.Generate(request, **call)]

    async def say(self, text: str, **fields: Any) -> inference_pb2.GenerateResult:
        """A turn's result; checks that its text is what was streamed."""
        events = await self.events(self.asking(text, **fields))
        *before, last = events
        assert last.WhichOneof("event") == "result"
        assert "".join(event.delta.text for event in before) == last.result.text
        return last.result

    async def ingest(
        self,
        chunks: Iterable[bytes],
        *,
        keep_open: bool = False,
        on_progress: Callable[[inference_pb2.IngestProgress], None] = lambda _: None,
        **start: Any,
    ) -> inference_pb2.IngestResult:
        """An ingest's result; keyword arguments are fields of its start or of learning."""
        learning = {
            name: start.pop(name) for name in ("learn", "ephemeral", "budget") if name in start
        }
        first = inference_pb2.IngestStart(
            **{"session": self.name, "document": "book"} | start,
            learn_options=inference_pb2.LearnOptions(**learning),
        )
        requests = [
            inference_pb2.IngestRequest(start=first),
            *[inference_pb2.IngestRequest(chunk=chunk) for chunk in chunks],
            inference_pb2.IngestRequest(end=inference_pb2.IngestEnd(keep_open=keep_open)),
        ]
        result = None
        while result is None:
            try:
                async for event in self.inference.Ingest(iter(requests)):
                    if event.WhichOneof("event") == "progress":
                        on_progress(event.progress)
                    elif event.WhichOneof("event") == "result":
                        result = event.result
            except aio.AioRpcError as error:
                # A status that arrives while a write fails is lost (grpc/grpc issue 36066). Only
                # a call that was refused at once ends like this, so it can be made again.
                if error.details() != "Internal error from Core":
                    raise
        return result

    async def score(self, text: str, **fields: Any) -> inference_pb2.ScoreResponse:
        request = inference_pb2.ScoreRequest(session=self.name, text=text, **fields)
        return await self.inference.Score(request)

    async def consolidate(self) -> sessions_pb2.ConsolidateResponse:
        return await self.sessions.Consolidate(sessions_pb2.ConsolidateRequest(name=self.name))

    async def end_conversation(self, **fields: Any) -> sessions_pb2.EndConversationResponse:
        request = sessions_pb2.EndConversationRequest(name=self.name, **fields)
        return await self.sessions.EndConversation(request)

    async def rollback(self, **fields: Any) -> sessions_pb2.Session:
        request = sessions_pb2.RollbackSessionRequest(name=self.name, **fields)
        return (await self.sessions.RollbackSession(request)).session

    async def fork(self, session_id: str, **fields: Any) -> sessions_pb2.Session:
        request = sessions_pb2.ForkSessionRequest(name=self.name, session_id=session_id, **fields)
        return (await self.sessions.ForkSession(request)).session

    async def rename(self, display_name: str, **fields: Any) -> sessions_pb2.Session:
        session = sessions_pb2.Session(name=self.name, display_name=display_name, **fields)
        mask = field_mask_pb2.FieldMask(paths=["display_name"])
        request = sessions_pb2.UpdateSessionRequest(session=session, update_mask=mask)
        return (await self.sessions.UpdateSession(request)).session

    async def reset(self, *levels: int, **fields: Any) -> sessions_pb2.Session:
        request = sessions_pb2.ResetLevelsRequest(name=self.name, levels=levels, **fields)
        return (await self.sessions.ResetLevels(request)).session

    async def diff(self, before: int, after: int) -> list[float]:
        request = sessions_pb2.DiffVersionsRequest(
            name=self.name, from_version=before, to_version=after
        )
        return [each.relative_norm for each in (await self.sessions.DiffVersions(request)).levels]

    async def forget(
        self, document: str, on_progress: Callable[[sessions_pb2.Job], None] = lambda _: None
    ) -> sessions_pb2.Session:
        """The session without a document; sees the job through."""
        request = sessions_pb2.ForgetDocumentRequest(name=self.name, document=document)
        return await _ended(self.sessions.ForgetDocument(request), on_progress)

    async def migrate(
        self, policy: str = "", on_progress: Callable[[sessions_pb2.Job], None] = lambda _: None
    ) -> sessions_pb2.Session:
        """The session under a policy; sees the job through."""
        request = sessions_pb2.MigrateSessionRequest(name=self.name, policy=policy)
        return await _ended(self.sessions.MigrateSession(request), on_progress)

    async def statements(self, query: str = "", **page: Any) -> list[sessions_pb2.Statement]:
        """Every statement in which the words of `query` occur, page by page."""
        request = sessions_pb2.ListStatementsRequest(parent=self.name, query=query, **page)
        found = []
        while True:
            answer = await self.sessions.ListStatements(request)
            found += answer.statements
            if not answer.next_page_token:
                return found
            assert len(answer.statements) == (request.page_size or 50)
            request.page_token = answer.next_page_token

    async def forget_statements(
        self, *ids: str, on_progress: Callable[[sessions_pb2.Job], None] = lambda _: None
    ) -> sessions_pb2.Session:
        """The session without some statements; sees the job through."""
        request = sessions_pb2.ForgetStatementsRequest(name=self.name, ids=ids)
        return await _ended(self.sessions.ForgetStatements(request), on_progress)

    async def cancel_job(self) -> sessions_pb2.Session:
        request = sessions_pb2.CancelJobRequest(name=self.name)
        return (await self.sessions.CancelJob(request)).session

    async def delete(self, **fields: Any) -> None:
        await self.sessions.DeleteSession(
            sessions_pb2.DeleteSessionRequest(name=self.name, **fields)
        )


async def _ended(
    events: AsyncIterator[Any], on_progress: Callable[[sessions_pb2.Job], None]
) -> sessions_pb2.Session:
    """The session that is the last message of a job's stream."""
    kinds = []
    async for event in events:
        kinds.append(event.WhichOneof("event"))
        if kinds[-1] == "job":
            on_progress(event.job)
    assert kinds[-1] == "session"
    assert set(kinds[:-1]) <= {"job"}
    return event.session  # type: ignore[no-any-return]
