"""/v1/responses: requests become turns, each of which may follow on the one of another response."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from hope_runtime.session.memory import SessionMemory
from server.app import generation
from server.app.histories import History, UnknownTurnError, planner, turn_number, whole
from server.app.names import session_key
from server.http_api.answer import Answer, Turn
from server.http_api.bodies import AT_VERSION
from server.http_api.completions import Completions, history_in
from server.http_api.errors import HttpError, invalid
from server.http_api.requests import read_json
from server.http_api.response_bodies import ResponseBody
from server.http_api.response_ids import ResponseId, parse_id
from server.http_api.response_shape import ResponseShape
from server.http_api.targets import Target, find_target
from server.store.base import NotFoundError, SessionKey


class Responses(Completions):
    """Answers requests for responses, with the sessions and models of completions."""

    async def create(self, request: Request, user: str) -> Answer:
        """Answer what the request says, behind the response that it may name."""
        data = await read_json(request)
        body = ResponseBody.parse(data)
        messages, sampling = body.history(), body.sampling()
        said = [message.content for message in messages if message.role == "user"]
        target = find_target(body, request.headers, self.base_model, said, learn=True)
        previous = _previous(body, target, self.base_model)
        if previous is None:
            key = await self._session(target, user, body)
        else:
            target = replace(target, session=previous.session, conversation=previous.conversation)
            key = await self._of_previous(previous, user)
        history = history_in(request, data, target, messages, sampling)
        shape = ResponseShape(self._about(body, key, target), body=body)
        if key is None or (previous is None and not target.keeps):
            turn = self._leaving_nothing(key, whole(history), body)
        else:
            after = None if previous is None else previous.number
            turn = self._following(key, replace(history, after=after), target.keeps, shape)
        return self._answer(request, turn, shape, body)

    async def not_kept(self, request: Request, user: str) -> Response:
        """Refuse to read or delete a response by its id."""
        raise HttpError(
            404,
            "this server keeps conversations, not responses; keep the answer of POST "
            "/v1/responses, and see /v1/sessions for what was taught and how to forget it",
            "not_found_error",
            code="response_not_kept",
        )

    async def _of_previous(self, previous: ResponseId, user: str) -> SessionKey:
        name = f"users/{user}/sessions/{previous.session}"
        key = session_key(name, field="previous_response_id")
        try:
            await self.sessions.head(key)
        except NotFoundError:
            raise _unknown() from None
        return key

    def _following(
        self, key: SessionKey, history: History, keeps: bool, shape: ResponseShape
    ) -> Turn:
        plan_of = planner(self.sessions, key, history)

        async def plan(memory: SessionMemory) -> generation.Plan:
            try:
                found = await plan_of(memory)
            except UnknownTurnError:
                raise _unknown() from None
            if not keeps:
                return generation.Plan(found.turn, ephemeral=True)
            shape.planned(turn_number(found.turn))
            return found

        return self._planned(key, plan)


def _previous(body: ResponseBody, target: Target, base_model: str) -> ResponseId | None:
    """The response that a request follows on. Raises HttpError for one that it cannot."""
    if body.previous_response_id is None:
        return None
    if body.model == base_model:
        raise invalid(
            "the base model keeps no conversation; name the model 'hope'", "previous_response_id"
        )
    if body.options.at_version is not None:
        raise invalid(
            "a kept version has no conversation to follow on; send all messages as input",
            AT_VERSION,
        )
    found = parse_id(body.previous_response_id)
    if found is None:
        raise _unknown()
    if body.conversation is not None:
        raise invalid(
            "previous_response_id names the conversation; leave conversation out", "conversation"
        )
    if body.options.conversation not in (None, found.conversation):
        raise invalid(
            "previous_response_id is of another conversation; leave hope.conversation out",
            "hope.conversation",
        )
    if target.session not in (None, found.session):
        raise invalid(
            "previous_response_id is of another session; name that session, or none",
            "previous_response_id",
        )
    return found


def _unknown() -> HttpError:
    return HttpError(
        404,
        "nothing is kept of that response, or a rollback or a forgetting took it back; send all "
        "messages as input without previous_response_id",
        "not_found_error",
        param="previous_response_id",
        code="previous_response_not_found",
    )
