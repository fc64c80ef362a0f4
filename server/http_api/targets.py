"""The session and the conversation that a request means, and whether it may teach.

Clients name them in many ways; the first one that is there counts. The user is the caller, whatever
the request says. Chat UIs send side calls (titles, tags, follow-up questions, autocompletion) over
the same connection, each holding the whole chat as a user's message: those use the memory, teach
nothing and leave the conversation alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.app.names import MAX_CONVERSATION_NAME, is_session_id
from server.http_api.bodies import Body
from server.http_api.errors import HttpError, invalid

MODEL_OF_SESSIONS = "hope"
_SESSION_MODEL = "hope/"
_CONVERSATION_HEADERS = (
    "hope-conversation",
    "x-openwebui-chat-id",
    "x-session-id",
    "x-session-affinity",
    "x-opencode-session",
)
# How Open WebUI's templates for side calls begin.
_TASK_PROMPT = "### Task:"
SIDE_CONVERSATION = "side call"


@dataclass(frozen=True, slots=True)
class Target:
    """`session` is the last part of its name; None answers without one. A session that the request
    names itself `may_be_new`. `keeps` is false for turns that leave nothing behind."""

    session: str | None
    conversation: str
    learn: bool
    keeps: bool
    may_be_new: bool


def find_target(
    body: Body, headers: Mapping[str, str], base_model: str, texts: list[str], *, learn: bool
) -> Target:
    """The target of a request whose users said `texts`; `learn` is what holds if nothing says
    otherwise. Raises HttpError for a model that there is not, and for wrong names."""
    options = body.options
    session, named = _session(body, headers, base_model)
    chosen = options.learn
    if chosen is None:
        chosen = learn and _header(headers, "hope-learn").lower() != "off"
    if options.ephemeral and options.learn:
        raise invalid("learn and ephemeral are mutually exclusive", "hope.learn")
    side = bool(
        _header(headers, "hope-task")
        or _header(headers, "x-turn-type") not in ("", "main")
        or (len(texts) == 1 and texts[0].lstrip().startswith(_TASK_PROMPT))
    )
    keeps = not (options.ephemeral or side or options.at_version is not None)
    return Target(
        session=session,
        conversation=_conversation(body, headers, texts) if keeps else SIDE_CONVERSATION,
        learn=chosen and keeps,
        keeps=keeps,
        may_be_new=named and keeps,
    )


def _session(body: Body, headers: Mapping[str, str], base_model: str) -> tuple[str | None, bool]:
    """The session of a request, and whether it may be made for it."""
    model = body.model
    if model == base_model:
        return None, False
    of_session = model.removeprefix(_SESSION_MODEL) if model.startswith(_SESSION_MODEL) else ""
    if model != MODEL_OF_SESSIONS and not is_session_id(of_session):
        raise unknown_model(model)
    if name := body.options.session:
        if not is_session_id(name):
            raise invalid(
                "hope.session must have up to 64 letters, digits, '-', '_' or '.'", "hope.session"
            )
        return name, True
    if name := _header(headers, "hope-session"):
        return local_name(name), True
    if of_session:
        return of_session, False
    return (local_name(body.user), True) if body.user else (None, False)


def _conversation(body: Body, headers: Mapping[str, str], texts: list[str]) -> str:
    names: list[Any] = [
        body.options.conversation,
        *(_header(headers, name) for name in _CONVERSATION_HEADERS),
        (body.metadata or {}).get("conversation_id"),
    ]
    for name in names:
        if name and isinstance(name, str):
            return name if len(name) <= MAX_CONVERSATION_NAME else _hashed(name)
    return f"auto-{hashlib.sha256(texts[0].encode()).hexdigest()[:16]}"


def unknown_model(model: str) -> HttpError:
    """A model that this server does not serve."""
    return HttpError(
        404,
        f"the model {model[:80]!r} does not exist; GET /v1/models lists those that do",
        param="model",
        code="model_not_found",
    )


def local_name(name: str) -> str:
    """A client's id as the last part of a session's name: itself where it can be one."""
    return name if is_session_id(name) else _hashed(name)


def _hashed(name: str) -> str:
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest())
    return "x-" + digest.decode().rstrip("=").lower()


def _header(headers: Mapping[str, str], name: str) -> str:
    """A header's value. A variable that the client did not fill in counts as absent."""
    value = headers.get(name, "").strip()
    return "" if value.startswith("{{") else value
