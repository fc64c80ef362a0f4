"""The table of figures: what derives from it, and that nothing of a consolidation is missing."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from hope.v1 import sessions_pb2 as pb

from hope_runtime.learning import Consolidation
from hope_runtime.learning.drift import LevelDrift, Steps
from hope_runtime.learning.figures import (
    FIGURES,
    LEVEL_FIGURES,
    consolidation_notes,
    level_figures,
)
from hope_runtime.learning.probes import Probed
from hope_runtime.session.guards import Event, Guard
from hope_runtime.session.levels import Level
from hope_runtime.session.policy import LevelConfig

PLAIN = Consolidation(
    level=1,
    position=96,
    spans=3,
    tokens=40,
    surprise_before_nats=3.5,
    surprise_after_nats=1.25,
    trained_tokens=900,
    seconds=2.5,
)
WHOLE = Consolidation(
    level=1,
    position=96,
    spans=3,
    tokens=40,
    surprise_before_nats=3.5,
    surprise_after_nats=1.25,
    trained_tokens=900,
    seconds=2.5,
    drift=LevelDrift(0.01, 0.005, 3.5, Steps(7, 0.25, 0.5, 0.75)),
    probed=Probed(2.0, 2.5, 0.125),
    guards=(Event(Guard.REJECTED, 0.25, 0.125),),
)


def test_notes_as_they_are_stored() -> None:
    """Byte for byte, order included: logs hold them."""
    plain = (
        '{"level": 1, "position": 96, "spans": 3, "tokens": 40, "surprise_before_nats": 3.5,'
        ' "surprise_after_nats": 1.25, "trained_tokens": 900'
    )
    assert json.dumps(consolidation_notes(PLAIN)) == plain + "}"
    assert json.dumps(consolidation_notes(WHOLE)) == (
        plain + ', "drift": {"relative_norm": 0.01, "update_ratio": 0.005, "effective_rank": 3.5,'
        ' "steps": {"count": 7, "gradient_norm": 0.25, "largest_gradient_norm": 0.5,'
        ' "rehearsed_share": 0.75}}, "probed": {"frozen_nats": 2.0, "adapted_nats": 2.5,'
        ' "divergence_nats": 0.125}, "guards": [{"guard": "consolidation_rejected", "value": 0.25,'
        ' "limit": 0.125}]}'
    )


def leaves(descriptor: Descriptor, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field in descriptor.fields:
        message = field.message_type
        if message is not None and message.file is descriptor.file and not field.is_repeated:
            found |= leaves(message, f"{prefix}{field.name}.")
        else:
            found.add(prefix + field.name)
    return found


def test_every_field_of_the_message_has_its_row() -> None:
    of_record = {"memory_version", "guards"}  # noted beside the figures
    shown = [figure.field for figure in FIGURES if figure.field]
    assert len(shown) == len(set(shown))
    assert set(shown) == leaves(pb.Consolidation.DESCRIPTOR) - of_record
    of_guards = {"frozen", "rejections", "guards"}
    names = [figure.name for figure in LEVEL_FIGURES]
    assert set(names) == {field.name for field in pb.LevelStatus.DESCRIPTOR.fields} - of_guards


def attributes(thing: Any, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field in fields(thing):
        value = getattr(thing, field.name)
        nested = hasattr(value, "__dataclass_fields__")
        name = prefix + field.name
        found |= attributes(value, f"{name}.") if nested else {name}
    return found


def test_every_figure_of_a_consolidation_has_its_row() -> None:
    derived = {"probed.change_nats"}
    assert {figure.name for figure in FIGURES} - derived == attributes(WHOLE) - {
        "guards",
        "superseded",
        "statements",
        "phases",
    }
    assert all(figure.of(WHOLE) is not None and figure.unit and figure.help for figure in FIGURES)


@pytest.mark.parametrize("consolidation", [PLAIN, WHOLE])
def test_what_was_noted_is_read_back(consolidation: Consolidation) -> None:
    notes = json.loads(json.dumps(consolidation_notes(consolidation)))
    for figure in FIGURES:
        if figure.noted:
            assert figure.noted_in(notes) == figure.of(consolidation)


def test_figures_of_a_level() -> None:
    level = Level(
        LevelConfig(period_tokens=64, rank=4, learning_rate=1e-3), updates=3, learnt_tokens=80
    )
    assert level_figures(level, 0.5) == {
        "period_tokens": 64,
        "rank": 4,
        "updates": 3,
        "relative_norm": 0.5,
        "learnt_tokens": 80,
        "surprise_before_nats": None,
        "surprise_after_nats": None,
    }
