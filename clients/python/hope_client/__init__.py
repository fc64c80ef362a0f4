"""Python client of hope-server: sessions whose memory learns while it is served.

Only names are known here; each one is imported when it is first used, so that
`hope --help` does not pay for gRPC. The terminal commands live in `hope_client.cli`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hope.v1.admin_pb2 import GetServerInfoResponse
    from hope.v1.inference_pb2 import (
        FinishReason,
        GenerateResult,
        IngestProgress,
        IngestResult,
        Message,
        Role,
        Sampling,
        ScoreResponse,
        Status,
        StatusUpdate,
        TextDelta,
        Usage,
    )
    from hope.v1.sessions_pb2 import (
        ConsolidateResponse,
        Consolidation,
        Document,
        EndConversationResponse,
        LevelStatus,
        Session,
    )

    from hope_client.client import HopeClient
    from hope_client.errors import (
        AbortedError,
        AlreadyExistsError,
        CancelledError,
        ClientClosedError,
        ClientForkedError,
        DataLossError,
        DeadlineExceededError,
        FailedPreconditionError,
        HopeClientError,
        InternalError,
        InvalidRequestError,
        NotFoundError,
        OutOfRangeError,
        PermissionDeniedError,
        ResourceExhaustedError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
        UnknownError,
    )
    from hope_client.events import GenerateEvent, IngestEvent, Restarted, Resuming
    from hope_client.sessions import Sessions
    from hope_client.sources import DocumentSource
    from hope_client.sync import SyncHopeClient, SyncSessions
    from hope_client.transport import RetryPolicy

_MODULES = (
    "hope_client.client",
    "hope_client.errors",
    "hope_client.events",
    "hope_client.sessions",
    "hope_client.sources",
    "hope_client.sync",
    "hope_client.transport",
    "hope.v1.inference_pb2",
    "hope.v1.sessions_pb2",
    "hope.v1.admin_pb2",
)

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CancelledError",
    "ClientClosedError",
    "ClientForkedError",
    "ConsolidateResponse",
    "Consolidation",
    "DataLossError",
    "DeadlineExceededError",
    "Document",
    "DocumentSource",
    "EndConversationResponse",
    "FailedPreconditionError",
    "FinishReason",
    "GenerateEvent",
    "GenerateResult",
    "GetServerInfoResponse",
    "HopeClient",
    "HopeClientError",
    "IngestEvent",
    "IngestProgress",
    "IngestResult",
    "InternalError",
    "InvalidRequestError",
    "LevelStatus",
    "Message",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "Restarted",
    "Resuming",
    "RetryPolicy",
    "Role",
    "Sampling",
    "ScoreResponse",
    "Session",
    "Sessions",
    "Status",
    "StatusUpdate",
    "SyncHopeClient",
    "SyncSessions",
    "TextDelta",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(importlib.import_module, _MODULES):
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
