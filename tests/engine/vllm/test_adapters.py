"""Which memories are there, under which numbers, and what cannot be served."""

from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from engines import POLICY, fresh, taught

from hope_runtime.engine.vllm.adapters import NONE, Adapters
from hope_runtime.engine.vllm.engine import rank_for
from hope_runtime.engine.vllm.messages import Drop, Put
from hope_runtime.errors import ModelError, UnsupportedMemoryError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.policy import LevelConfig


def test_a_memory_is_put_once_and_its_number_is_its_own(small_model: BaseModel) -> None:
    sent: list[Put | Drop] = []
    adapters = Adapters(places=2, rank=8, dtype=torch.float32)
    first, second, third = (taught(small_model, seed) for seed in range(3))
    one = adapters.take(first, sent.append)
    assert adapters.take(first, sent.append) == one  # there already
    [put] = sent
    assert isinstance(put, Put)
    tensors = safetensors.torch.load(put.tensors)
    assert first.adapter is not None
    for name, tensor in first.adapter.tensors().items():
        assert torch.equal(tensors[name], tensor.float())
    two = adapters.take(second, sent.append)
    adapters.give(two)
    three = adapters.take(third, sent.append)  # in the place of the one that nobody uses
    assert [type(message) for message in sent[1:]] == [Put, Drop, Put]
    assert sent[2] == Drop(two)
    adapters.give(one)
    adapters.give(one)
    again = adapters.take(second, sent.append)
    assert len({one, two, three, again}) == 4, "no number twice, not even for one memory"
    assert adapters.nbytes == 2 * len(put.tensors)
    adapters.clear()
    assert len(adapters) == adapters.nbytes == 0
    assert adapters.take(first, sent.append) not in {one, two, three, again}


def test_a_session_that_never_learnt_is_the_frozen_base(small_model: BaseModel) -> None:
    adapters = Adapters(places=1, rank=8, dtype=torch.float32)
    for memory in (None, fresh(small_model)):
        assert adapters.take(memory, pytest.fail) == NONE


def test_a_rank_above_the_most_is_refused(small_model: BaseModel) -> None:
    policy = replace(POLICY, levels=(LevelConfig(period_tokens=32, rank=9, learning_rate=0.1),))
    adapters = Adapters(places=1, rank=8, dtype=torch.float32)
    with pytest.raises(UnsupportedMemoryError, match="rank 9 together"):
        adapters.take(taught(small_model, 1, policy=policy), pytest.fail)
    assert not len(adapters)


@pytest.mark.parametrize(("rank", "place"), [(1, 8), (7, 8), (56, 64), (257, 320), (512, 512)])
def test_ranks_are_filled_up_to_what_vllm_has_places_for(rank: int, place: int) -> None:
    assert rank_for(rank) == place


def test_no_policy_may_have_a_rank_that_vllm_cannot_hold() -> None:
    with pytest.raises(ModelError, match="rank 513 together, but vLLM supports at most 512"):
        rank_for(513)
