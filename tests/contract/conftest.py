from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engines import ENGINES, Make, has_vllm
from store_harness import HARNESSES, Harness

from hope_runtime.engine.base import SessionEngine
from hope_runtime.models.decoder.weights import BaseModel
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


@pytest.fixture(
    scope="session",
    params=["torch", "static", pytest.param("vllm", marks=pytest.mark.vllm)],
)
def make_engine(request: pytest.FixtureRequest) -> Make:
    """Makes an engine of one kind over a model."""
    if request.param == "vllm" and not has_vllm():
        pytest.skip("vLLM is not installed here; see `make test-vllm`")
    return ENGINES[request.param]


@pytest.fixture(scope="session")
def running_engine(make_engine: Make, small_model: BaseModel) -> Iterator[SessionEngine]:
    with make_engine(small_model) as engine:
        yield engine


@pytest.fixture
def engine(running_engine: SessionEngine) -> Iterator[SessionEngine]:
    """An engine of each kind. Whatever a test did, nothing is under way in the end."""
    yield running_engine
    load = running_engine.load()
    assert (load.running, load.waiting, load.learning) == (0, 0, 0)
