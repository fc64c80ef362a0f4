"""AdminService: what an operator asks of a server."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from grpc import aio
from hope.v1 import admin_pb2 as pb
from hope.v1 import admin_pb2_grpc

from server.sessions import Sessions

Context = aio.ServicerContext[Any, Any]

# Raised with every addition to the protos.
SCHEMA_REVISION = 2


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """See admin.proto. What is not here yet answers UNIMPLEMENTED by the generated base."""

    def __init__(self, sessions: Sessions, model_name: str) -> None:
        self._sessions = sessions
        self._model_name = model_name

    async def GetServerInfo(  # noqa: N802 - the name is gRPC's
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        sessions = self._sessions
        model = sessions.engine.model
        return pb.GetServerInfoResponse(
            version=version("hope-server"),
            schema_revision=SCHEMA_REVISION,
            model=self._model_name,
            base_fingerprint=sessions.fingerprint,
            dtype=str(model.dtype).removeprefix("torch."),
            window_tokens=sessions.engine.window_tokens,
            max_state_bytes=max(map(sessions.engine.state_bytes_limit, sessions.policies.values())),
            policies=sorted(sessions.policies),
        )

    async def GetLoad(  # noqa: N802
        self, request: pb.GetLoadRequest, context: Context
    ) -> pb.GetLoadResponse:
        load = self._sessions.engine.load()
        return pb.GetLoadResponse(
            running_turns=load.running,
            waiting_turns=load.waiting,
            learning_sessions=load.learning,
            resident_sessions=self._sessions.residency.resident_count,
            resident_bytes=load.resident_bytes,
        )
