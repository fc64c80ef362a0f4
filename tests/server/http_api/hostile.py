"""A request to the HTTP gateway, and the error in its answer."""

from __future__ import annotations

from typing import Any

from gateway import user


def error_of(response: Any) -> dict[str, Any]:
    """The error object, with everything that each must have."""
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"][-1] in ".!?"
    assert error["code"]
    assert response.headers["x-request-id"]
    return error


HELLO = user("Hello")
