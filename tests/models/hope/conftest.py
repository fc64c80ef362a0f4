"""Fixtures: the engines of tiny native models of bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hope_sessions import byte_model

from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.models.hope.config import PRESETS


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, HopeEngine]]:
    """An engine of each preset."""
    running = {name: HopeEngine(byte_model(name)) for name in PRESETS}
    yield running
    for engine in running.values():
        engine.close()


@pytest.fixture
def engine(engines: dict[str, HopeEngine]) -> HopeEngine:
    return engines["hope"]
