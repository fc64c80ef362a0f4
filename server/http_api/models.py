"""GET /v1/models: the base model, the one with a memory, and one for each session of the caller, so
that a UI's list of models is a list of sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from server.app.names import is_session_id, session_key
from server.app.sessions import Sessions
from server.app.status import model_info
from server.http_api.targets import MODEL_OF_SESSIONS, unknown_model
from server.store.base import NotFoundError

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
_PAGE_SIZE = 100
# A list of models has no pages.
_MOST_SESSIONS = 1000


def base_model_id(model: str) -> str:
    """The id of the served model: the name of a file or directory, or the id in a hub."""
    if model == "default":
        return DEFAULT_MODEL
    path = Path(model)
    name = path.name.removesuffix(".gguf") if path.exists() else model
    return "base" if name.split("/")[0] == MODEL_OF_SESSIONS else name


@dataclass(frozen=True, slots=True)
class Models:
    """Lists the models that a user may name. `created` is when the server started."""

    sessions: Sessions
    base_model: str
    created: int

    async def all(self, request: Request, user: str) -> JSONResponse:
        """Every model of the caller."""
        found = [self._shown(self.base_model, self.created)]
        found.append(self._shown(MODEL_OF_SESSIONS, self.created))
        token = ""
        while len(found) < _MOST_SESSIONS + 2:
            heads, token = await self.sessions.page(user, page_size=_PAGE_SIZE, page_token=token)
            for head in heads:
                name = f"{MODEL_OF_SESSIONS}/{head.key.session}"
                found.append(self._shown(name, int(head.create_time)))
            if not token:
                break
        return JSONResponse({"object": "list", "data": found})

    async def one(self, request: Request, user: str) -> JSONResponse:
        """One model. Raises HttpError when there is none of that id."""
        name = request.path_params["model"]
        if name in (self.base_model, MODEL_OF_SESSIONS):
            return JSONResponse(self._shown(name, self.created))
        kind, _, session = name.partition("/")
        if kind == MODEL_OF_SESSIONS and is_session_id(session):
            try:
                key = session_key(f"users/{user}/sessions/{session}", field="model")
                head = await self.sessions.head(key)
                return JSONResponse(self._shown(name, int(head.create_time)))
            except NotFoundError:
                pass
        raise unknown_model(name)

    def _shown(self, name: str, created: int) -> dict[str, Any]:
        tokens = model_info(self.sessions).window_tokens
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "hope",
            "max_model_len": tokens,
            "meta": {"n_ctx": tokens},
        }
