"""The header that keeps a session's calls on one server."""

from __future__ import annotations

import base64
import json

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


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"header.{body}.signature"


def test_ones_own_sessions_are_told_from_others_by_the_token() -> None:
    mine = "users/@me/sessions/diary"

    def header(value: str) -> str:
        ((name, where),) = session_header(mine, value)
        assert name == SESSION_HEADER
        assert where.endswith("/sessions/diary")
        return where

    ada = header(token(sub="auth0|ada", exp=1))
    assert header(token(sub="auth0|ada", exp=2)) == ada
    assert "ada" not in ada
    others = {header(token(sub=sub)) for sub in ("bob", "auth0|bob", "ada@example.com")}
    assert len({ada, *others}) == 4
    # What is no token that can be read leads somewhere all the same.
    assert len({header(value) for value in ("", "opaque", "a.b.c", "a.!.c", token(), "é.é.é")}) == 1


def test_an_escaped_user_is_named_as_it_is_written() -> None:
    name = "users/auth0%7C5f7c/sessions/diary"
    assert session_header(name, token(sub="other")) == ((SESSION_HEADER, name),)
