"""Needles: values that only the text gives, asked for by what stands beside them."""

from __future__ import annotations

import re

import pytest

from hope_lab.evaluate.data.items import mentions
from hope_lab.evaluate.tasks.needle import KINDS, SEVERAL, make_needles

SAMPLES = 5


@pytest.mark.parametrize("kind", KINDS)
def test_needles_are_a_function_of_seed_and_sample(kind: str) -> None:
    found = [make_needles(kind, seed, sample, SAMPLES) for seed in range(3) for sample in range(5)]
    assert found[0] == make_needles(kind, 0, 0, SAMPLES)
    values = [asked.values for needles in found for asked in needles.asked]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_hidden_once_and_no_question_gives_it_away(kind: str) -> None:
    for sample in range(SAMPLES):
        needles = make_needles(kind, 1, sample, SAMPLES)
        (asked,) = needles.asked
        sentences = [item.sentence for item in needles.hidden]
        for value in asked.values:
            assert sum(mentions(sentence, value) for sentence in sentences) == 1
            assert not mentions(asked.text, value)
        assert needles.hidden[0].depth == (sample + 0.5) / SAMPLES


def test_the_kinds_are_what_they_are_called() -> None:
    made = {kind: make_needles(kind, 0, 0, 1) for kind in KINDS}
    sizes = {kind: (len(made[kind].hidden), len(made[kind].asked[0].values)) for kind in KINDS}
    assert sizes == {
        "passkey": (1, 1),
        "number": (1, 1),
        "uuid": (1, 1),
        "multi_key": (SEVERAL, 1),
        "multi_query": (SEVERAL, SEVERAL),
        "multi_value": (SEVERAL, SEVERAL),
        "newest": (SEVERAL, 1),
    }
    assert re.fullmatch(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made["uuid"].asked[0].values[0]
    )
    assert re.fullmatch(r"\d{5}", made["passkey"].asked[0].values[0])
    keys = {
        kind: {item.sentence.split(" for ")[1].split(" is ")[0] for item in made[kind].hidden}
        for kind in ("multi_key", "multi_query", "multi_value")
    }
    assert {kind: len(found) for kind, found in keys.items()} == {
        "multi_key": SEVERAL,
        "multi_query": SEVERAL,
        "multi_value": 1,
    }
    # All keys are named where all are asked for, one where one is.
    for kind, named in (("multi_key", 1), ("multi_query", SEVERAL), ("multi_value", 1)):
        question = made[kind].asked[0].text
        assert sum(mentions(question, key) for key in keys[kind]) == named
