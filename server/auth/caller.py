"""The caller of the present call, and the names it may use.

The interceptor says who it is (interceptor.py), for the task that runs the call; names.py asks
where names enter. A call about which nobody said anything speaks of no name at all, so a service
that is added without the interceptor fails instead of serving everybody.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass

USER_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """The user that a credential named. None: whoever reaches the server may be any user, which
    is so on loopback without authentication, and for operators."""

    user: str | None

    def may_be(self, user: str) -> bool:
        """Whether names of this user are the caller's own."""
        return self.user is None or self.user == user


ANYBODY = Caller(None)

_present: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """Says who the present call comes from, until it ends."""
    _present.set(caller)


def present_caller() -> Caller:
    """The caller of the present call. Raises LookupError if none was set."""
    return _present.get()
