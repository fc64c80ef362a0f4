"""Steps that are launched before their rows are asked for: used where the rows go on as foreseen,
without a trace where they do not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_static_decoder import CAPACITY, Decoding, adapter_of, ids_of, outputs

from hope_runtime.engine.kv_slots import Slot
from hope_runtime.engine.runner import ForwardChunk, Output
from hope_runtime.engine.sampling import Sampler, Sampling
from hope_runtime.models.decoder.weights import BaseModel

EXACT = {"rtol": 1e-9, "atol": 1e-9}


class Replies:
    """Replies in the slots of one decoding; each has a sampler of its own."""

    def __init__(self, model: BaseModel, *, static: bool) -> None:
        self.decoding = Decoding(model, static=static)
        self.slots = [self.decoding.filled(row) for row in range(3)]
        self.samplers = [Sampler(Sampling()) for _ in range(3)]

    def step(self, rows: list[int], ids: list[int], new: int | None = None) -> list[Output]:
        """One token of each row; for the row `new` it is the prompt of another session."""
        chunks = []
        for row, token in zip(rows, ids, strict=True):
            if row == new:
                self.slots[row].forget()
                self.slots[row].adapter = adapter_of(self.decoding.model, 2)
                self.samplers[row] = Sampler(Sampling())
            sampler = None if row == new else self.samplers[row]
            chunks.append(ForwardChunk(self.slots[row], (token,), sampler=sampler))
        return outputs(self.decoding.runner.step(chunks))

    def begin_anew(self, row: int, tokens: int) -> None:
        """Another reply, of another session, in the same slot."""
        slot = self.slots[row]
        slot.forget()
        slot.adapter = adapter_of(self.decoding.model, 1 + tokens % 4)
        self.samplers[row] = Sampler(Sampling())
        outputs(self.decoding.runner.step([ForwardChunk(slot, ids_of(tokens, tokens))]))


def token_of(output: Output) -> int:
    assert output.logits_V is not None
    return int(output.logits_V.argmax())


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_rows_do_next_they_compute_what_they_would_without(
    data: st.DataObject, tiny_model: BaseModel
) -> None:
    """Rows pause, end, begin anew, alone or beside others, and read other tokens than chosen."""
    static, usual = (Replies(tiny_model, static=kind) for kind in (True, False))
    tokens = [5, 6, 7]
    for _ in range(data.draw(st.integers(1, 10))):
        rows = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
        for row in rows:
            if data.draw(st.integers(0, 5)) == 0:
                count = data.draw(st.integers(1, 20))
                for replies in (static, usual):
                    replies.begin_anew(row, count)
            if data.draw(st.integers(0, 5)) == 0:
                tokens[row] = data.draw(st.integers(3, 200))
        ids = [tokens[row] for row in rows]
        # Its one token may be the one that was foreseen for the row's last reply.
        new = rows[-1] if data.draw(st.integers(0, 3)) == 0 else None
        found, expected = static.step(rows, ids, new), usual.step(rows, ids, new)
        for row, mine, theirs in zip(rows, found, expected, strict=True):
            torch.testing.assert_close(mine.logits_V, theirs.logits_V, **EXACT)
            torch.testing.assert_close(mine.hidden_TD, theirs.hidden_TD, **EXACT)
            tokens[row] = token_of(mine)
            assert mine.token == tokens[row]
    for mine, theirs in zip(static.slots, usual.slots, strict=True):
        assert mine.kv.length == theirs.kv.length


def test_replies_that_go_on_are_all_foreseen(tiny_model: BaseModel) -> None:
    replies = Replies(tiny_model, static=True)
    decoder, ids = replies.decoding.decoder, [5, 6, 7]
    for _ in range(6):
        ids = [token_of(each) for each in replies.step([0, 1, 2], ids)]
    # One token of a prompt was read; the first two steps cannot know that the rows go on.
    assert (decoder.decoded, decoder.foreseen) == (19, 12)
    # One ends, the others go on.
    replies.step([0, 2], [ids[0], ids[2]])
    assert (decoder.decoded, decoder.foreseen) == (21, 14)


def test_rows_that_take_turns_are_not_launched_ahead(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More replies than a step has rows: each launch would be in vain."""
    replies = Replies(tiny_model, static=True)
    launches: list[int] = []
    launch = replies.decoding.steps.launch
    monkeypatch.setattr(
        replies.decoding.steps,
        "launch",
        lambda slots, *rest: launches.append(len(slots)) or launch(slots, *rest),
    )
    for row in (0, 1, 2, 0, 1, 2):
        replies.step([row], [5 + row])
    assert launches == [1] * 6


def test_what_a_row_wrote_in_vain_is_erased(tiny_model: BaseModel) -> None:
    """It may be NaN, which a mask does not hide from the slot's next session."""
    replies = Replies(tiny_model, static=True)
    ids = [5, 6, 7]
    for _ in range(3):
        ids = [token_of(each) for each in replies.step([0, 1, 2], ids)]
    ended: Slot = replies.slots[1]
    behind = ended.kv.length
    pool = replies.decoding.pool
    number = ended.kv.slot
    assert pool.k[:, number, :, behind].any()
    pool.k[:, number, :, behind] = pool.v[:, number, :, behind] = math.nan
    replies.step([0, 2], [ids[0], ids[2]])
    for cache in (pool.k, pool.v):
        assert not cache[:, number, :, behind].any()


def test_rows_without_room_are_not_launched_ahead(tiny_model: BaseModel) -> None:
    replies = Replies(tiny_model, static=True)
    decoder = replies.decoding.decoder
    full = replies.slots[2]
    replies.decoding.runner.step([ForwardChunk(full, ids_of(1, CAPACITY - 2 - full.kv.length))])
    ids = [5, 6, 7]
    for _ in range(2):
        ids = [token_of(each) for each in replies.step([0, 1, 2], ids)]
    assert full.kv.length == CAPACITY
    replies.step([0, 1], ids[:2])
    assert decoder.foreseen == 2
