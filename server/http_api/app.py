"""The routes of the gateway, and what surrounds every request: number, caller, errors, log."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.app.sessions import Sessions
from server.http_api.answer import Answer
from server.http_api.comparing import Comparing
from server.http_api.completions import Completions
from server.http_api.errors import HttpError, http_error
from server.http_api.files import Files
from server.http_api.models import Models
from server.http_api.native import ROUTES, SESSIONS, Method, handler
from server.http_api.pages import page_routes
from server.http_api.requests import Gate
from server.http_api.responses import Responses
from server.http_api.watching import Watching
from server.store.base import StoreError, StoreLostError
from server.telemetry.logs import FIELDS, new_number, request_number

_log = logging.getLogger("server.requests")
CONSOLE = "/"
_ROUTES = (
    CONSOLE,
    "/health",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/{response}",
    "/v1/models",
    "/v1/models/{model}",
    SESSIONS,
)
# Ends of the paths whose requests are counted as replies.
_REPLIES = ("/completions", "/v1/responses")
Handler = Callable[[Request, str], Awaitable[Response | Answer]]


def make_app(
    sessions: Sessions,
    gate: Gate,
    base_model: str,
    methods: Mapping[str, Method],
    *,
    max_requests: int,
    logs_requests: bool,
) -> ASGIApp:
    """The gateway as an ASGI application. `methods` of the API answer its native routes.
    `max_requests` run at a time; more are refused."""
    completions = Completions(sessions, base_model)
    responses = Responses(sessions, base_model)
    models = Models(sessions, base_model, int(time.time()))
    files, comparing = Files(sessions), Comparing(sessions)
    watching = Watching(sessions, instance=secrets.token_hex(8))

    def route(path: str, method: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Any:
            try:
                return await handler(request, gate.admit(request))
            except Exception as error:
                return http_error(error).response()

        return Route(path, endpoint, methods=[method])

    async def health(request: Request) -> Response:
        if sessions.draining:
            return JSONResponse({"status": "draining"}, 503, {"retry-after": "5"})
        with contextlib.suppress(StoreError):  # the watch remembers it
            await sessions.store_watch.look(room=False)
        if isinstance(sessions.store_watch.problem, StoreLostError):
            return JSONResponse({"status": "store lost"}, 503)
        return JSONResponse({"status": "ok"})

    middleware = [Middleware(Surrounding, sessions, gate, max_requests, logs_requests)]
    if gate.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(gate.origins),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                "x-request-id",
                "hope-session",
                "hope-conversation",
                "hope-memory-version",
            ],
        )
        middleware.append(cors)
    app = Starlette(
        routes=[
            route("/v1/chat/completions", "POST", completions.chat),
            route("/v1/completions", "POST", completions.text),
            route("/v1/responses", "POST", responses.create),
            route("/v1/responses/{response}", "GET", responses.not_kept),
            route("/v1/responses/{response}", "DELETE", responses.not_kept),
            route("/v1/models", "GET", models.all),
            route("/v1/models/{model:path}", "GET", models.one),
            route(f"{SESSIONS}/import", "POST", files.import_),
            route(f"{SESSIONS}/{{session}}/export", "GET", files.export),
            route(f"{SESSIONS}/{{session}}/documents", "POST", files.read),
            route(f"{SESSIONS}/{{session}}/events", "GET", watching.events),
            route(f"{SESSIONS}/{{session}}/versions", "GET", watching.versions),
            route(f"{SESSIONS}/{{session}}/freeze", "POST", watching.freeze),
            route(f"{SESSIONS}/{{session}}/compare", "POST", comparing.compare),
            route(f"{SESSIONS}/{{session}}/origin", "POST", comparing.origin),
            *(route(each.path, each.verb, handler(each, methods[each.method])) for each in ROUTES),
            Route("/health", health, methods=["GET"]),
            *page_routes(),
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _no_such_route},
    )
    app.router.redirect_slashes = False
    return app


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        message = f"{request.method} is not offered on {request.url.path[:80]}."
        code = "method_not_allowed"
    else:
        message, code = f"There is no route {request.url.path[:80]}.", "not_found"
    headers = dict(error.headers or {})
    return HttpError(error.status_code, message, code=code, headers=headers).response()


def _place(request: Request) -> str:
    """Method and route of a request, without names."""
    path = request.url.path
    if path.startswith("/v1/models/"):
        path = "/v1/models/{model}"
    if path.startswith("/v1/responses/"):
        path = "/v1/responses/{response}"
    if path.startswith(SESSIONS):
        path = SESSIONS
    if path.startswith("/console/"):
        path = CONSOLE
    return f"{request.method} {path if path in _ROUTES else '(none)'}"


class Surrounding:
    """Surrounds every request: gives it a number, refuses foreign pages and more requests than the
    server runs at a time, counts and logs how it ended."""

    def __init__(
        self, app: ASGIApp, sessions: Sessions, gate: Gate, max_requests: int, logs_requests: bool
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._gate = gate
        self._max_requests = max_requests
        self._logs_requests = logs_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        number, started, status = new_number(), time.monotonic(), 0
        request_number.set(number)
        request = Request(scope)

        async def send_with_number(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        self._running += 1
        try:
            with self._sessions.tracer.span(_place(request)):
                await self._answer(request, receive, send_with_number)
        finally:
            self._running -= 1
            self._count(request, status)
            if self._logs_requests and request.url.path != "/health":
                self._write(request, status, time.monotonic() - started)

    async def _answer(self, request: Request, receive: Receive, send: Send) -> None:
        try:
            self._gate.check(request)
            if self._running > self._max_requests:
                raise HttpError(
                    503,
                    "the server answers as many requests as it may; try again in a moment",
                    "service_unavailable_error",
                    code="overloaded",
                    headers={"retry-after": "1"},
                )
        except HttpError as refusal:
            await refusal.response()(request.scope, receive, send)
            return
        await self._app(request.scope, receive, send)

    def _count(self, request: Request, status: int) -> None:
        if request.method == "POST" and request.url.path.endswith(_REPLIES):
            outcome = "cancelled" if not status else "ok" if status < 400 else "refused"
            outcome = "failed" if status == 500 else outcome
            self._sessions.metrics.requests.labels("generate", outcome).inc()

    def _write(self, request: Request, status: int, seconds: float) -> None:
        method = _place(request)
        fields = {"method": method, "code": status, "seconds": round(seconds, 4)}
        _log.info("%s %s", method, status, extra={FIELDS: fields})
