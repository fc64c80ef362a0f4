"""Steps of fixed shapes, as a GPU decodes: each row computes what it would alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from family_variants import VARIANTS, Variant, saved
from fast_memories import noise, small_fast_memory

from hope_runtime.checkpoints import load_base_model
from hope_runtime.device import available
from hope_runtime.engine.kv_slots import Slot, SlotPool
from hope_runtime.engine.runner import ForwardChunk, Output, Runner
from hope_runtime.engine.sampling import Sampler, Sampling
from hope_runtime.engine.static_decoder import StaticDecoder
from hope_runtime.engine.static_steps import StaticSteps
from hope_runtime.errors import NotFiniteError
from hope_runtime.graph_capture import Captured
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.static_step import AdapterTable
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
CAPACITY = 48
RANK = 5
# Tokens that the rows have read, and their adapters' ranks: three rows are filled up to four.
ROWS = ((9, 3), (1, 0), (30, 5))


class Decoding:
    """Slots of one pool, and a runner that decodes with them, static or as a CPU does."""

    def __init__(
        self,
        model: BaseModel,
        *,
        static: bool,
        fast_memory: FastMemory | None = None,
        in_place: bool | None = None,
    ) -> None:
        pool = KVPool(
            model.config,
            len(ROWS) + 1,
            capacity=CAPACITY,
            dtype=model.dtype,
            device=model.device,
            zeroed=True,
        )
        self.pool, self.slots = pool, SlotPool(pool.caches[:-1])
        self.steps = StaticSteps(
            model, pool, rows=4, rank=RANK, fast_memory=fast_memory, in_place=in_place
        )
        self.decoder = StaticDecoder(self.steps)
        self.runner = Runner(model, fast_memory, static=self.decoder if static else None)
        self.model, self.fast_memory = model, fast_memory

    def filled(self, row: int) -> Slot:
        """A slot that has read its row's prompt under its adapter."""
        before, rank = ROWS[row]
        slot = self.slots.take(row)
        slot.adapter = adapter_of(self.model, rank)
        if self.fast_memory is not None:
            width = self.fast_memory.config.input_width
            slot.inputs = torch.zeros(CAPACITY, width, device=self.model.device)
            # The second row has read nothing that it keeps.
            if row != 1:
                slot.fast = noise(self.fast_memory, row)[0].to(self.model.device)
        self.runner.run([ForwardChunk(slot, ids_of(row, before))])
        return slot

    def decode(self, slots: list[Slot], steps: int = 3) -> list[Output | Exception]:
        found: list[Output | Exception] = []
        for step in range(steps):
            found = self.runner.step(
                [
                    ForwardChunk(slot, ids_of(step + 9, row + 1)[-1:])
                    for row, slot in enumerate(slots)
                ]
            )
        return found


def ids_of(seed: int, count: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 250, (count,), generator=generator).tolist())


def adapter_of(model: BaseModel, rank: int) -> ServedAdapter | None:
    if not rank:
        return None
    generator = torch.Generator().manual_seed(rank)
    tensors = {
        name: tensor if name.endswith("_a") else torch.randn(tensor.shape, generator=generator) / 9
        for name, tensor in initial(model.config, rank, seed=rank).tensors().items()
    }
    return ServedAdapter.of(LoraAdapter(**tensors), model.dtype, model.device)


def outputs(found: list[Output | Exception]) -> list[Output]:
    assert all(isinstance(each, Output) for each in found)
    return [each for each in found if isinstance(each, Output)]


@pytest.fixture(params=available())
def placed_model(request: pytest.FixtureRequest, tiny_model: BaseModel) -> BaseModel:
    return tiny_model.to(torch.float32, request.param)


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def family_model(
    request: pytest.FixtureRequest,
    tiny_tokenizer_json: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> BaseModel:
    variant: Variant = request.param
    directory: Path = saved(variant.make(), tmp_path_factory.mktemp("family"), tiny_tokenizer_json)
    return load_base_model(directory, dtype="float32", cache_dir=tmp_path_factory.mktemp("cache"))


def assert_static_equals_usual(
    model: BaseModel, fast_memory: FastMemory | None = None, in_place: bool | None = None
) -> None:
    decoded = []
    for static in (True, False):
        decoding = Decoding(model, static=static, fast_memory=fast_memory, in_place=in_place)
        slots = [decoding.filled(row) for row in range(len(ROWS))]
        decoded.append(outputs(decoding.decode(slots)))
        assert [slot.kv.length for slot in slots] == [before + 3 for before, _ in ROWS]
    for mine, usual in zip(*decoded, strict=True):
        assert mine.logits_V is not None
        torch.testing.assert_close(mine.logits_V, usual.logits_V, **CLOSE)
        torch.testing.assert_close(mine.hidden_TD, usual.hidden_TD, **CLOSE)
        assert mine.token == int(mine.logits_V.argmax())


def test_a_static_step_of_every_family(family_model: BaseModel) -> None:
    assert_static_equals_usual(family_model)


def test_a_static_step_of_tritons_kernels(family_model: BaseModel) -> None:
    pytest.importorskip("triton")
    assert_static_equals_usual(family_model, in_place=True)


def test_a_static_step_on_every_device(placed_model: BaseModel) -> None:
    assert_static_equals_usual(placed_model)


def test_fast_memories_are_read_in_a_static_step(placed_model: BaseModel) -> None:
    fast_memory = small_fast_memory(placed_model)
    weights = fast_memory.weights.to(torch.float32, placed_model.device)
    assert_static_equals_usual(placed_model, FastMemory(fast_memory.config, weights))


def test_a_row_of_nan_changes_no_other_and_leaves_a_clean_slot(placed_model: BaseModel) -> None:
    clean = Decoding(placed_model, static=True)
    expected = outputs(clean.decode([clean.filled(row) for row in range(3)], steps=1))
    dirty = Decoding(placed_model, static=True)
    slots = [dirty.filled(row) for row in range(3)]
    adapter = slots[2].adapter
    assert adapter is not None
    slots[2].adapter = ServedAdapter(*(part * math.nan for part in adapter.tensors()))
    first, second, broken = dirty.decode(slots, steps=1)
    assert isinstance(broken, NotFiniteError)
    for found, clean_output in zip(outputs([first, second]), expected[:2], strict=True):
        assert torch.equal(found.hidden_TD, clean_output.hidden_TD)
    assert slots[2].kv.length == 0
    # The slot and the table's row serve another session as if nothing had been there.
    dirty.slots.give(2, slots[2], keep=False)
    again = outputs(dirty.decode([slots[0], slots[1], dirty.filled(2)], steps=1))[2]
    torch.testing.assert_close(again.hidden_TD, expected[2].hidden_TD, **CLOSE)


def test_texts_run_beside_single_tokens(placed_model: BaseModel) -> None:
    found = []
    for static in (True, False):
        decoding = Decoding(placed_model, static=static)
        slots = [decoding.filled(row) for row in range(3)]
        chunks = [ForwardChunk(slots[0], (5,)), ForwardChunk(slots[2], ids_of(3, 7))]
        chunks.append(ForwardChunk(slots[1], (6,)))
        found.append(outputs(decoding.runner.step(chunks)))
    for mine, usual in zip(*found, strict=True):
        torch.testing.assert_close(mine.hidden_TD, usual.hidden_TD, **CLOSE)


def test_a_table_keeps_the_adapters_of_the_last_steps(tiny_model: BaseModel) -> None:
    table = AdapterTable(tiny_model, rows=2, rank=RANK)
    first, second, third = (adapter_of(tiny_model, rank) for rank in (5, 2, 3))
    rows = table.rows_of([first, None, second, first])
    assert rows[1] == 0
    assert rows[0] == rows[3]
    assert len(set(rows)) == 3
    assert table.rows_of([second]) == [rows[2]]
    # The first one was used longest ago; what a smaller rank leaves over is zero.
    assert table.rows_of([third, second]) == [rows[0], rows[2]]
    assert not table.down_in[:, rows[0], 3:].any()
    assert not table.gate_up_out[:, rows[0], :, 3:].any()
    assert not table.gate_up_in[:, 0].any()


@pytest.mark.parametrize("name", available())
def test_a_replay_computes_from_what_the_inputs_hold_now(name: str) -> None:
    device = torch.device(name)
    held = torch.zeros(3, device=device)
    captured = Captured(lambda: held * 2, device)
    for value in (1.0, 4.0):
        held.fill_(value)
        assert captured.replay().tolist() == [2 * value] * 3


def test_a_step_and_its_draws_read_nothing_back(tiny_model: BaseModel) -> None:
    """As a capture demands: on meta tensors, which have no values and mix with no others."""
    model = tiny_model.to(torch.float32, "meta")
    pool = KVPool(
        model.config, 5, capacity=CAPACITY, dtype=model.dtype, device=model.device, zeroed=True
    )
    fast_memory = small_fast_memory(tiny_model)
    weights = fast_memory.weights.to(torch.float32, model.device)
    moved = FastMemory(fast_memory.config, weights)
    steps = StaticSteps(model, pool, rows=4, rank=RANK, fast_memory=moved)
    slots = [Slot(cache) for cache in pool.caches[:3]]
    # Tokens of the device, as a step that is launched ahead reads them.
    ids = torch.zeros(3, dtype=torch.long, device=model.device)
    decoded = steps.launch(slots, ids, [4, 0, 9])
    samplers = [Sampler(Sampling(temperature=1.0, seed=row)) for row in range(3)]
    drawn = StaticDecoder(steps)._drawn(decoded, samplers)
    assert (drawn.shape, drawn.device.type) == ((3,), "meta")
    steps.erase([0, 2], [5, 10])


def test_what_cannot_be_captured_is_called(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Captured, "_capture", failing)
    held = torch.zeros(2)
    captured = Captured(lambda: held + 1, torch.device("cuda"))
    assert captured.replay().tolist() == [1, 1]
    assert "not permitted when stream is capturing" in caplog.text
