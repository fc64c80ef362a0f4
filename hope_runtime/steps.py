"""Work that is cut into steps, so that other work may go on in between, run without a pause."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def at_once(steps: Generator[Any, None, _Result]) -> _Result:
    """Run steps to their end. Returns their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
