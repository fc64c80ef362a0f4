"""Sessions of a native model that are served together: each reads what it reads alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hope_sessions import assert_close, byte_model, fresh, say

from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.engine.hope_reading import HopeForwardChunk, run
from hope_runtime.layers.tree import map_tensors
from hope_runtime.models.hope import state as states
from hope_runtime.models.hope.batch import Batch
from hope_runtime.models.hope.config import PRESETS
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.session import restore, with_state
from hope_runtime.models.hope.state import has_room


def test_sessions_side_by_side_do_not_touch_each_other(engine: HopeEngine) -> None:
    texts = [f"Session {index} says {'very ' * index}little." for index in range(6)]
    alone = [say(engine, fresh(engine), text, max_tokens=12) for text in texts]
    with ThreadPoolExecutor(len(texts)) as pool:
        together = pool.map(lambda text: say(engine, fresh(engine), text, max_tokens=12), texts)
    for one, other in zip(alone, together, strict=True):
        assert one.text == other.text
        assert one.memory.hash() == other.memory.hash()
        assert_close(one.memory, other.memory)


def test_windows_stay_bounded_when_replies_are_written_together() -> None:
    """Also those that are long enough to gather their newest tokens in a tail."""
    model = byte_model("hope_attention", window=70, n_layers=1)
    with HopeEngine(model) as engine:
        states = [restore(model, say(engine, fresh(engine), text).memory) for text in ("A", "Two")]
        alone, batch, most = states[1], Batch(model), 0
        for token in range(150):
            going = [at for at, state in enumerate(states) if has_room(model.config, state)]
            if len(going) == len(states):
                logits_BV, states = batch.read(states, [token] * 2)
                most = max(most, *(_window_tokens(state) for state in states))
            else:
                states = [
                    run(model, HopeForwardChunk(state, (token,), (False,))).state
                    for state in states
                ]
            output = run(model, HopeForwardChunk(alone, (token,), (False,)))
            alone = output.state
        torch.testing.assert_close(logits_BV[1], output.logits_TV[-1], rtol=1e-4, atol=1e-4)
        assert 60 < most <= 70


def _window_tokens(state: states.HopeState) -> int:
    window = state.context.layers[0].window
    assert window is not None
    return window.tokens


def _tokens_to_go(model: HopeModel, state: states.HopeState) -> int:
    """Until a segment ends, of which a batch knows nothing."""
    if state.segment is None:
        return 2
    return model.config.segment - int(state.segment.length_B)


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_of_a_batch_reads_what_it_reads_alone(
    engines: dict[str, HopeEngine], name: str
) -> None:
    """At its own place of its own stream, beside a neighbour of NaN."""
    model = engines[name].model
    texts = [f"A text of {'many ' * index}bytes" for index in range(1, 6)]
    memories = [say(engines[name], fresh(engines[name]), text).memory for text in texts]
    states = [restore(model, memory) for memory in memories]
    states = [state for state in states if _tokens_to_go(model, state) >= 2]
    assert len(states) >= 2
    spoilt = map_tensors(
        lambda tensor: tensor * torch.nan if tensor.is_floating_point() else tensor, states[0]
    )
    batch = Batch(model)
    for token in b"go":
        logits_BV, found = batch.read([spoilt, *states], [token] * (1 + len(states)))
        alone = [run(model, HopeForwardChunk(state, (token,), (False,))) for state in states]
        for row, expected in enumerate(alone, start=1):
            torch.testing.assert_close(logits_BV[row], expected.logits_TV[-1], rtol=1e-4, atol=1e-4)
            one, other = (
                with_state(memories[0], state, "a") for state in (found[row], expected.state)
            )
            assert_close(one, other)
        assert bool(logits_BV[0].isnan().all())
        spoilt, *states = found
