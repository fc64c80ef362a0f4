"""Replies of the torch engine: what is cached, dropped or sampled changes no record of them."""

from __future__ import annotations

import pytest
import torch
from engines import ask, assert_cut_after
from memories import POLICY
from torch_turns import answer

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.errors import ModelError, WindowOverflowError
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import observe
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.window import Window

SMALL = 96  # a window that the system prompt leaves some room in


def test_a_reply_is_a_record_and_its_text(engine: TorchEngine, memory: SessionMemory) -> None:
    outcome, parts = answer(engine, memory, ask(tokens=8))
    assert_cut_after(8, outcome, parts, engine.model)


def test_a_reply_ends_with_the_models_end_token_or_a_stop_string(base_model: BaseModel) -> None:
    memory = SessionMemory.fresh(base_model.fingerprint, POLICY)
    with TorchEngine(base_model, window_tokens=256, threads=1) as engine:
        outcome, _ = answer(engine, memory, ask("Say only: yes.", tokens=40))
        assert outcome.finish_reason is FinishReason.STOP
        assert outcome.record.tokens[-1] in base_model.tokenizer.eos_ids
        stop = outcome.text[3:6]
        cut, parts = answer(engine, memory, ask("Say only: yes.", tokens=40, stop=(stop,)))
        assert cut.finish_reason is FinishReason.STOP_STRING
        assert cut.text == outcome.text[: outcome.text.index(stop)]
        assert "".join(part.text for part in parts) == cut.text


def chat(
    engine: TorchEngine, memory: SessionMemory, turns: int, *, forget: bool = False
) -> list[GenerateOutcome]:
    outcomes = []
    for number in range(turns):
        outcome, _ = answer(engine, memory, ask(f"Question {number}, and more?", tokens=20))
        if forget:
            engine.slot_pool.drop("row")
        memory = observe(memory, outcome.record, window_tokens=engine.window_tokens)
        outcomes.append(outcome)
    return outcomes


def test_a_conversation_is_the_same_whether_rows_are_kept_or_dropped(
    chat_model: BaseModel, engine: TorchEngine, memory: SessionMemory
) -> None:
    kept, dropped = chat(engine, memory, 8), chat(engine, memory, 8, forget=True)
    for one, other in zip(kept, dropped, strict=True):
        assert one.record == other.record
        assert one.surprise_nats == other.surprise_nats


@torch.no_grad()
def test_a_reply_goes_on_when_the_window_hops_under_it(
    chat_model: BaseModel, memory: SessionMemory
) -> None:
    with TorchEngine(chat_model, window_tokens=SMALL, threads=1) as engine:
        outcome, _ = answer(engine, memory, ask(tokens=150))
    assert outcome.output_tokens == 150
    prompt = outcome.record.tokens[: outcome.input_tokens]
    reply = outcome.record.tokens[outcome.input_tokens :][:150]
    pinned = outcome.record.pinned
    window = Window(SMALL).pin(prompt[:pinned]).append(prompt[pinned:])
    for token in reply:
        scores = logits(chat_model, forward(chat_model, torch.tensor([window.tokens])))[0, -1]
        assert scores[token] == pytest.approx(float(scores.max()), abs=1e-3)
        window = window.append((token,))
    assert window.dropped > 0
    after = observe(memory, outcome.record, window_tokens=SMALL).conversations["default"].window
    assert after.tokens[: len(window.pinned)] == window.pinned
    assert after.position == window.position + 1  # the end token


@torch.no_grad()
def test_logprobs_are_the_models_own_whatever_the_sampling(
    engine: TorchEngine, memory: SessionMemory, chat_model: BaseModel
) -> None:
    turn = ask(tokens=8, temperature=1.5, repetition_penalty=2.0, seed=4, logprobs=3)
    outcome, parts = answer(engine, memory, turn)
    reply = outcome.record.segments[-1].tokens[:8]
    # The whole stream once more, in one plain pass.
    stream = torch.tensor([outcome.record.tokens])
    expected_TV = logits(chat_model, forward(chat_model, stream))[0].log_softmax(-1)
    at = stream.shape[1] - len(outcome.record.segments[-1].tokens) - 1
    found = [each for part in parts for each in part.logprobs]
    assert found == list(outcome.reply.logprobs)
    assert tuple(each.token for each in found) == reply
    for offset, each in enumerate(found):
        expected_V = expected_TV[at + offset]
        assert each.logprob == pytest.approx(float(expected_V[each.token]), abs=1e-3)
        best = expected_V.topk(3)
        assert [token for token, _ in each.top] == best.indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_a_turn_that_cannot_be_read_whole_is_refused(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    long = ask("word " * 400)
    with pytest.raises(WindowOverflowError, match="room for"):
        engine.check(memory, long)
    with pytest.raises(WindowOverflowError, match="room for") as caught:
        answer(engine, memory, long)
    assert caught.value.field == "messages"


def test_the_default_length_fits_the_window(chat_model: BaseModel, memory: SessionMemory) -> None:
    with TorchEngine(chat_model, window_tokens=SMALL, threads=1) as engine:
        turn = GenerateTurn("default", (Message("user", "Hi"),))
        outcome, _ = answer(engine, memory, turn)
    assert outcome.input_tokens + outcome.output_tokens <= SMALL


def test_a_window_longer_than_the_model_knows_is_refused(chat_model: BaseModel) -> None:
    with pytest.raises(ModelError, match="8192 positions"):
        TorchEngine(chat_model, window_tokens=8193)


def test_a_row_of_the_wrong_conversation_is_only_a_cache(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    first, _ = answer(engine, memory, ask("One."), row="shared")
    other, _ = answer(engine, memory, ask("Two."), row="shared")
    engine.slot_pool.drop("shared")
    again, _ = answer(engine, memory, ask("Two."), row="shared")
    assert other.record == again.record != first.record
