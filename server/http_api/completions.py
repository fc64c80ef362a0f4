"""POST /v1/chat/completions and /v1/completions: requests become turns, whose events are sent."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateTurn
from server.app import generation, kept_versions
from server.app.events import GenerateEvent
from server.app.histories import History, planner, whole
from server.app.names import session_key
from server.app.replies import RequestId
from server.app.sessions import Sessions
from server.http_api.answer import Answer, Turn
from server.http_api.bodies import AT_VERSION, Body, ChatBody, CompletionBody
from server.http_api.errors import invalid
from server.http_api.requests import read_json
from server.http_api.shapes import About, ChatShape, CompletionShape, Shape
from server.http_api.targets import Target, find_target, unknown_model
from server.store.base import AlreadyExistsError, NotFoundError, SessionKey

DEFAULT_POLICY = "default"
# Characters of a header that need no quoting.
_PLAIN = " !#$&'()*+,/:;=?@[]"
_RETRY_COUNT = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class Completions:
    """Answers requests for completions with `sessions`; `base_model` is the id of the model
    without a memory."""

    sessions: Sessions
    base_model: str

    async def chat(self, request: Request, user: str) -> Answer:
        """Answer a chat whose client sends all of it."""
        data = await read_json(request)
        body = ChatBody.parse(data)
        messages, sampling = body.history(), body.sampling()
        said = [message.content for message in messages if message.role == "user"]
        target = find_target(body, request.headers, self.base_model, said, learn=True)
        key = await self._session(target, user, body)
        history = history_in(request, data, target, messages, sampling)
        if key is None or not target.keeps:
            turn = self._leaving_nothing(key, whole(history), body)
        else:
            turn = self._planned(key, planner(self.sessions, key, history))
        return self._answer(request, turn, ChatShape(self._about(body, key, target)), body)

    async def text(self, request: Request, user: str) -> Answer:
        """Go on with a text, without the chat template. Teaches only if the request says so."""
        data = await read_json(request)
        body = CompletionBody.parse(data)
        text, sampling = body.text(), body.sampling()
        target = find_target(body, request.headers, self.base_model, [text], learn=False)
        key = await self._session(target, user, body)
        plain = GenerateTurn(
            target.conversation,
            (Message("user", text),),
            sampling,
            learn=target.learn,
            fresh=True,
            plain=True,
        )
        shape = CompletionShape(self._about(body, key, target), echo=text if body.echo else "")
        if key is None or not target.learn:
            turn = self._leaving_nothing(key, plain, body)
        else:
            plan = generation.Plan(plain, request=_request_id(request, data))
            turn = self._planned(key, generation.always(plan))
        return self._answer(request, turn, shape, body)

    async def _session(self, target: Target, user: str, body: Body) -> SessionKey | None:
        """The session of a request, made if it is new; None answers without one."""
        if target.session is None:
            return None
        key = session_key(f"users/{user}/sessions/{target.session}", field="hope.session")
        try:
            await self.sessions.head(key)
        except NotFoundError:
            if not target.may_be_new:
                if target.keeps:
                    raise unknown_model(body.model) from None
                return None
            with contextlib.suppress(AlreadyExistsError):  # made by a request beside this one
                await self.sessions.create(key, policy=DEFAULT_POLICY, display_name="")
        return key

    def _leaving_nothing(self, key: SessionKey | None, turn: GenerateTurn, body: Body) -> Turn:
        version = body.options.at_version
        if version is not None and key is None:
            raise invalid("at_version needs a session that exists", AT_VERSION)

        def begin(ended: Callable[[], bool]) -> AsyncGenerator[GenerateEvent, None]:
            if key is None:
                return generation.generate_stateless(self.sessions, turn, ended)
            if version is not None:
                return kept_versions.generate(
                    self.sessions, key, version, turn, ended, field=AT_VERSION
                )
            plan = generation.always(generation.Plan(turn, ephemeral=True))
            return generation.generate_planned(self.sessions, key, plan, ended)

        return begin

    def _planned(self, key: SessionKey, plan: generation.Planner) -> Turn:
        return lambda ended: generation.generate_planned(self.sessions, key, plan, ended)

    def _about(self, body: Body, key: SessionKey | None, target: Target) -> About:
        kept = key is not None and target.keeps
        return About(
            model=body.model,
            fingerprint=self.sessions.fingerprint,
            session=None if key is None else str(key),
            conversation=target.conversation if kept else None,
            usage_in_stream=body.wants_usage,
        )

    def _answer(self, request: Request, turn: Turn, shape: Shape, body: Body) -> Answer:
        headers = {}
        if shape.about.session is not None:
            headers["hope-session"] = shape.about.session.rpartition("/")[2]
        if shape.about.conversation is not None:
            # Names of conversations may hold anything.
            headers["hope-conversation"] = quote(shape.about.conversation, safe=_PLAIN)
        return Answer(turn, shape, headers, bool(body.stream))


def history_in(
    request: Request,
    data: bytes,
    target: Target,
    messages: tuple[Message, ...],
    sampling: Sampling,
) -> History:
    """The messages of a request with the body `data`, and what its headers say of retries."""
    retries = request.headers.get(_RETRY_COUNT)
    return History(
        conversation=target.conversation,
        messages=messages,
        sampling=sampling,
        learn=target.learn,
        body=data,
        may_retry=retries is not None,
        retried=retries not in (None, "0"),
        request=_request_id(request, data),
    )


def _request_id(request: Request, data: bytes) -> RequestId | None:
    chosen = request.headers.get("idempotency-key")
    return RequestId(chosen, hashlib.sha256(data).digest()) if chosen else None
