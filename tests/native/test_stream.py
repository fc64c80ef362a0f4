"""However a stream is cut, a native model says the same and ends in the same state (spec 20)."""

from __future__ import annotations

import pytest
from tiny import TIGHT, assert_same, random_ids, read, tiny

from hope_runtime.native.config import PRESETS


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cuts", [[1] * 37, [7, 1, 1, 11, 17], [4, 4, 4, 25], [36, 1]])
def test_any_cut_of_a_stream_gives_the_same_outputs_and_state(name: str, cuts: list[int]) -> None:
    """Spec 20. Fails when a counter, a buffer, the conv tail or the window is not carried."""
    config, weights = tiny(name)
    ids = random_ids(2, 37)
    whole, at_once = read(config, weights, ids, [37])
    scores, state = read(config, weights, ids, cuts)
    assert_same(scores, whole, **TIGHT)
    assert_same(state, at_once, **TIGHT)
