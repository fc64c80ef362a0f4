from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_harness import HARNESSES, Harness

from server.store.base import SessionStore


@pytest.fixture(params=sorted(HARNESSES))
def harness_class(request: pytest.FixtureRequest) -> type[Harness]:
    return HARNESSES[request.param]


@pytest.fixture
def harness(harness_class: type[Harness], tmp_path: Path) -> Harness:
    return harness_class(tmp_path)


@pytest.fixture
async def store(harness: Harness) -> AsyncIterator[SessionStore]:
    """An empty store. Whatever a test did to it, its laws hold in the end."""
    async with harness.connect() as store:
        yield store
        assert await store.check_integrity() == []
