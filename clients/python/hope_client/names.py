"""Resource names: short forms that people type, full names that the wire carries.

Knows the shape `users/{user}/sessions/{session}` and nothing else; which
characters are allowed is the server's to say.
"""

from __future__ import annotations

import uuid

from hope_client.errors import InvalidRequestError

ME = "@me"
"""The caller, on a server that asks for credentials and so knows which user they name."""


def user_name(user: str) -> str:
    """`local` and `users/local` both name the user `users/local`."""
    return user if "/" in user else f"users/{user}"


def session_name(session: str, user: str) -> str:
    """Full name: `diary` is a session of `user`; anything with a slash is taken as it is."""
    return session if "/" in session else f"{user_name(user)}/sessions/{session}"


def split_session_name(name: str) -> tuple[str, str]:
    """Parent (`users/{user}`) and last part (`diary`) of a full session name.

    Raises:
        ValueError: if `name` is not of that shape.
    """
    match name.split("/"):
        case ["users", user, "sessions", session]:
            return f"users/{user}", session
        case _:
            raise ValueError(
                f"{name!r} is not a session name; the form is users/USER/sessions/SESSION"
            )


def new_name(session: str, user: str) -> tuple[str, str, bool]:
    """Parent and last part of the name for a new session, and whether it was picked here.

    Picked here rather than by the server, so that a repeated call cannot make two. Raises
    InvalidRequestError.
    """
    if not session:
        return user_name(user), picked_id(), True
    try:
        return *split_session_name(session_name(session, user)), False
    except ValueError as error:
        raise InvalidRequestError(str(error), field="session_id") from None


def picked_id() -> str:
    """Last part of a name, which nothing else has."""
    return uuid.uuid4().hex
