"""Translation of redis-py's and the server's errors into a store's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from redis import exceptions

from server.store.errors import (
    CorruptStoreError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

# First words of replies that redis-py has no class for.
_NO_WRITES = ("MISCONF", "NOPERM")
_NOT_NOW = ("NOREPLICAS", "READONLY", "LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")


def translate(error: exceptions.RedisError, where: str) -> StoreError | None:
    """The store's error for one of Redis, None when it is a defect of ours."""
    first = str(error).partition(" ")[0]
    if isinstance(error, exceptions.OutOfMemoryError):
        return no_memory(where)
    if isinstance(error, exceptions.NoPermissionError) or first in _NO_WRITES:
        return StoreFullError(
            f"{where} does not accept writes ({error}); check its disk and the permissions of "
            "the user"
        )
    if isinstance(error, exceptions.AuthenticationError) or first in ("NOAUTH", "WRONGPASS"):
        return StoreUnavailableError(
            f"{where} rejected the credentials; check the user in the URL and store_password_file"
        )
    if isinstance(
        error,
        exceptions.ConnectionError | exceptions.TimeoutError | exceptions.ReadOnlyError,
    ) or first in (*_NOT_NOW,):
        return StoreUnavailableError(f"cannot reach {where} ({_brief(error)}); retry")
    if first == "WRONGTYPE":
        return CorruptStoreError(
            f"{where} contains keys of another program under the prefix 'hope:'; use another "
            "database for the store"
        )
    return None


def no_memory(where: str) -> StoreFullError:
    """For a server that has reached its limit, or would by what is to be written."""
    return StoreFullError(
        f"{where} is out of memory; raise its maxmemory or delete sessions, then retry"
    )


def _brief(error: exceptions.RedisError) -> str:
    # What redis-py says of a connection can quote its arguments.
    return type(error).__name__ if isinstance(error, exceptions.ConnectionError) else str(error)


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Lets only errors of the store through."""
    try:
        yield
    except exceptions.NoScriptError:
        raise  # the caller loads it
    except exceptions.RedisError as error:
        if (known := translate(error, where)) is None:
            raise
        raise known from error
    except OSError as error:
        raise StoreUnavailableError(f"cannot reach {where} ({type(error).__name__})") from error
