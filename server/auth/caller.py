"""The caller of the present call, and the names that it may use.

A transport sets the caller for the task that runs the call; app/names.py checks names where they
enter. A call without a caller may use no name, so a service that is added without authentication
fails instead of serving everybody.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that a credential named. None: whoever reaches the server may be any user, which
    is so on loopback without authentication, and for operators."""

    user: str | None

    def may_be(self, user: str) -> bool:
        """Whether the caller may use names of this user."""
        return self.user is None or self.user == user


ANYBODY = Caller(None)

_present: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Set the caller of the present call, until it ends."""
    _present.set(caller)


def present_caller() -> Caller:
    """The caller of the present call. Raises LookupError when none was set."""
    return _present.get()
