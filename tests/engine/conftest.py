"""Fixtures: a running torch engine over the small chat model, and an empty memory of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memories import POLICY

from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory


@pytest.fixture(scope="module")
def running_torch_engine(chat_model: BaseModel) -> Iterator[TorchEngine]:
    with TorchEngine(chat_model, window_tokens=256, threads=1) as running:
        yield running


@pytest.fixture
def engine(running_torch_engine: TorchEngine) -> Iterator[TorchEngine]:
    """An engine of which nothing is held or under way in the end, whatever a test did."""
    yield running_torch_engine
    running_torch_engine.slot_pool.check_integrity()
    assert running_torch_engine.slot_pool.held == 0
    load = running_torch_engine.load()
    assert (load.running, load.waiting, load.learning) == (0, 0, 0)


@pytest.fixture
def memory(chat_model: BaseModel) -> SessionMemory:
    return SessionMemory.fresh(chat_model.fingerprint, POLICY)
