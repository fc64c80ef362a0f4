"""The header that keeps a session's calls on one server."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hope.v1 import inference_pb2, sessions_pb2
from hope_client.routing import SESSION_HEADER, session_header, session_of

NAME = "users/ada/sessions/diary"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (inference_pb2.GenerateRequest(session=NAME), NAME),
        (inference_pb2.ScoreRequest(session=NAME), NAME),
        (inference_pb2.IngestStart(session=NAME), NAME),
        (sessions_pb2.GetSessionRequest(name=NAME), NAME),
        (sessions_pb2.RollbackSessionRequest(name=NAME), NAME),
        (sessions_pb2.ForkSessionRequest(name=NAME, session_id="copy"), NAME),
        (sessions_pb2.CreateSnapshotRequest(parent=NAME), NAME),
        (sessions_pb2.DeleteSnapshotRequest(name=f"{NAME}/snapshots/one"), NAME),
        (sessions_pb2.CreateSessionRequest(parent="users/ada", session_id="diary"), NAME),
        # Which one will be made, the server says; a user has no server of his own.
        (sessions_pb2.CreateSessionRequest(parent="users/ada"), None),
        (sessions_pb2.ListSessionsRequest(parent="users/ada"), None),
        (sessions_pb2.DeleteUserRequest(name="users/ada"), None),
        (sessions_pb2.GetSessionRequest(name="users/ä/sessions/\n"), None),
    ],
)
def test_the_header_names_the_session(request_: Message, expected: str | None) -> None:
    header = session_header(session_of(request_))
    assert header == (((SESSION_HEADER, expected),) if expected else ())
