"""Device: the name that a user gives, and serving and learning on every device of this machine."""

from __future__ import annotations

import pytest
import torch
from engines import answer, ask, taught
from memories import document, spans_of

from hope_runtime import device as device_module
from hope_runtime.device import Device, available, resolve_dtype
from hope_runtime.engine.adapter_engine import bytes_for_windows
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.errors import ModelError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe

WAIT = 60
DEVICES = available()


def test_auto_is_the_first_device_that_is_available() -> None:
    assert str(Device.choose("auto").place) == DEVICES[0]
    assert DEVICES[-1] == "cpu"


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"'cuda:99' does not exist .*available: .*cpu"):
        Device.choose("cuda:99")


def test_dtypes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype("float32", "cuda") is torch.float32
    assert resolve_dtype("bfloat16", "cpu") is torch.bfloat16
    assert resolve_dtype("auto", "cuda") is torch.bfloat16
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device_module, "_cpu_has_bfloat16", lambda fast=fast: fast)
        assert resolve_dtype("auto", "cpu") is expected
    with pytest.raises(ValueError, match="auto, float32 or bfloat16"):
        resolve_dtype("float8", "cpu")  # type: ignore[arg-type]


def test_one_thread_is_left_to_turns_while_something_learns() -> None:
    device = Device(torch.device("cpu"), torch.float32, threads=3)
    before = torch.get_num_threads()
    try:
        device.set_serving_threads(learning=True)
        assert torch.get_num_threads() == 2
        device.set_serving_threads(learning=False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert [device.learning_threads(serving=serving) for serving in (True, False)] == [2, 3]
    alone = Device(torch.device("cpu"), torch.float32, threads=1)
    assert alone.learning_threads(serving=True) == 1


@pytest.mark.parametrize("name", DEVICES)
def test_windows_take_a_share_of_what_is_free(name: str) -> None:
    device = Device.choose(name, threads=1)
    free = device.free_bytes()
    assert free > 1 << 20
    # Others take and give memory meanwhile.
    assert bytes_for_windows(device, reserved=0) == pytest.approx(0.85 * free, rel=0.3)
    with pytest.raises(ModelError, match=r"lower --memory-cache-bytes"):
        bytes_for_windows(device, reserved=1 << 60)


@pytest.mark.parametrize("name", DEVICES)
def test_a_session_is_served_and_learns_on_the_device(chat_model: BaseModel, name: str) -> None:
    device = Device.choose(name, "float32", threads=1)
    model = chat_model.to(device.dtype, device.place)
    memory = taught(model, 1)
    with TorchEngine(model, window_tokens=256, threads=1) as engine:
        assert engine.device == device
        outcome = answer(engine, memory, ask(tokens=8))
        beside = [engine.generate(n, memory, ask(tokens=8), lambda _: None) for n in range(3)]
        assert [each.future.result(WAIT).record for each in beside] == [outcome.record] * 3
        read = observe(memory, document(spans_of(*[8] * 4, start=300)), window_tokens=256)
        learnt, _ = engine.consolidate(read, Boundary(0, 32)).future.result(WAIT)
    assert learnt.levels_digest() != memory.levels_digest()
    # A memory is kept on the CPU, wherever it was learnt.
    assert learnt.adapter is not None
    assert learnt.adapter.gate_a.device.type == "cpu"
