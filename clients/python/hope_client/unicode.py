"""Text that is not Unicode: half a surrogate pair, as it comes of bytes that were decoded wrongly.

Protocol Buffers cannot carry it, and says so with a UnicodeEncodeError wherever a message is made.
Every method of the clients turns that into the error for requests that can never succeed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncGenerator, Iterator
from typing import Any, TypeVar

from hope_client.errors import InvalidRequestError

ClassT = TypeVar("ClassT", bound=type)


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        half = ord(error.object[error.start])
        raise InvalidRequestError(
            f"the text cannot be sent: character {error.start} is U+{half:04X}, half of a "
            "surrogate pair; decode the text anew, with errors='replace' if it is damaged"
        ) from None


def typed_text_errors(cls: ClassT) -> ClassT:
    """The class, whose public methods raise InvalidRequestError for text that is not Unicode."""
    for name, method in vars(cls).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, _wrapped(method))
    return cls


def _wrapped(method: Any) -> Any:
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            async with contextlib.aclosing(method(*args, **kwargs)) as items:
                with _typed():
                    async for item in items:
                        yield item

        return stream
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            with _typed():
                return await method(*args, **kwargs)

        return call

    @functools.wraps(method)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with _typed():
            return method(*args, **kwargs)

    return plain
