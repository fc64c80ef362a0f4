"""AdminService: model, load, drift, freezing and draining of a server, for operators."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any

from grpc import aio
from hope.v1 import admin_pb2 as pb
from hope.v1 import admin_pb2_grpc

from hope_runtime.errors import InvalidRequestError
from server.app import versions
from server.app.names import session_key
from server.app.sessions import Sessions
from server.app.status import model_info, server_load
from server.store.base import MAX_PAGE_SIZE

Context = aio.ServicerContext[Any, Any]

# Raised with every addition to the protos.
SCHEMA_REVISION = 4
DEFAULT_TOP = 10


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """See admin.proto. `drain` starts the shutdown and returns at once."""

    def __init__(
        self, sessions: Sessions, model_name: str, drain: Callable[[], None] = lambda: None
    ) -> None:
        self._sessions = sessions
        self._drain = drain
        self._model_name = model_name

    async def GetServerInfo(  # noqa: N802 - the name is gRPC's
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        info = model_info(self._sessions)
        return pb.GetServerInfoResponse(
            version=version_of("hope-server"),
            schema_revision=SCHEMA_REVISION,
            model=self._model_name,
            base_fingerprint=info.fingerprint,
            dtype=info.dtype,
            window_tokens=info.window_tokens,
            max_state_bytes=info.max_state_bytes,
            policies=info.policies,
        )

    async def GetLoad(  # noqa: N802
        self, request: pb.GetLoadRequest, context: Context
    ) -> pb.GetLoadResponse:
        load = server_load(self._sessions)
        return pb.GetLoadResponse(
            running_turns=load.running_turns,
            waiting_turns=load.waiting_turns,
            learning_sessions=load.learning_sessions,
            resident_sessions=load.resident_sessions,
            resident_bytes=load.resident_bytes,
        )

    async def ListTopDrift(  # noqa: N802
        self, request: pb.ListTopDriftRequest, context: Context
    ) -> pb.ListTopDriftResponse:
        limit = request.limit or DEFAULT_TOP
        if limit > MAX_PAGE_SIZE:
            raise InvalidRequestError(
                f"limit is {limit}; allowed values: 1 to {MAX_PAGE_SIZE}", field="limit"
            )
        norms = {
            str(key): max((level.relative_norm for level in summary.levels), default=0.0)
            for key, summary in self._sessions.resident_summaries()
        }
        furthest = sorted(norms, key=lambda name: (-norms[name], name))[:limit]
        return pb.ListTopDriftResponse(
            sessions=[pb.SessionDrift(session=name, relative_norm=norms[name]) for name in furthest]
        )

    async def SetFrozen(  # noqa: N802
        self, request: pb.SetFrozenRequest, context: Context
    ) -> pb.SetFrozenResponse:
        key = session_key(request.session, field="session")
        await versions.set_frozen(self._sessions, key, request.frozen)
        return pb.SetFrozenResponse()

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: Context
    ) -> pb.DrainResponse:
        self._sessions.draining = True
        self._drain()
        return pb.DrainResponse()
