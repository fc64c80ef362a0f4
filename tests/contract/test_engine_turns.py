"""What every engine promises of turns: text, stops, sampling, windows, histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engines import WAIT, WINDOW, Make, answer, ask, assert_cut_after, fresh, make_torch, taught

from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason, TextPiece
from hope_runtime.engine.sampling import Sampler
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record
from hope_runtime.session.window import Window


def test_a_reply_is_a_record_and_its_text(engine: SessionEngine, small_model: BaseModel) -> None:
    parts: list[TextPiece] = []
    ticket = engine.generate("row", fresh(small_model), ask(tokens=8), parts.append)
    outcome = ticket.future.result(WAIT)
    assert_cut_after(8, outcome, parts, small_model)
    assert outcome.surprise_nats is not None
    after = observe(fresh(small_model), outcome.record, window_tokens=WINDOW)
    assert outcome.memory.hash() == after.hash()


def test_no_piece_of_text_splits_a_character(engine: SessionEngine, small_model: BaseModel) -> None:
    parts: list[TextPiece] = []
    turn = ask(
        tokens=60, temperature=2.0, seed=3
    )  # noise: characters of many bytes, and broken ones
    ticket = engine.generate("row", fresh(small_model), turn, parts.append)
    reply = ticket.future.result(WAIT).record.segments[-1].tokens[:60]
    whole = b"".join(map(small_model.tokenizer.token_bytes, reply))
    assert "".join(part.text for part in parts) == whole.decode("utf-8", "replace")
    assert any(ord(letter) > 127 for letter in whole.decode("utf-8", "replace"))
    assert sum(part.tokens for part in parts) == 60


def test_a_stop_string_ends_a_reply_wherever_tokens_are_cut(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memory = fresh(small_model)
    whole = answer(engine, memory, ask(tokens=12)).text
    stop = whole[len(whole) // 2 :][:5]
    parts: list[TextPiece] = []
    ticket = engine.generate("row", memory, ask(tokens=12, stop=(stop,)), parts.append)
    cut = ticket.future.result(WAIT)
    assert cut.finish_reason is FinishReason.STOP_STRING
    assert cut.text == whole[: whole.index(stop)] == "".join(part.text for part in parts)


def test_the_models_end_token_ends_a_reply(
    engine: SessionEngine, small_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer(engine, fresh(small_model), ask(tokens=12)).record.segments[-1].tokens
    # The fifth token of the reply is one of the model's end tokens from now on.
    ends = small_model.tokenizer.eos_ids | {whole[4]}
    monkeypatch.setattr(small_model.tokenizer, "eos_ids", ends)
    outcome = answer(engine, fresh(small_model), ask(tokens=12))
    assert outcome.finish_reason is FinishReason.STOP
    assert outcome.record.segments[-1].tokens == whole[:5]
    assert outcome.reply.tokens == 4  # an end has no text


@torch.no_grad()
def test_logprobs_are_the_models_own_whatever_the_sampling(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    turn = ask(tokens=8, temperature=1.5, repetition_penalty=2.0, seed=4, logprobs=3)
    outcome = answer(engine, fresh(small_model), turn)
    reply = outcome.record.segments[-1].tokens[:8]
    stream = torch.tensor([outcome.record.tokens])
    expected_TV = logits(small_model, forward(small_model, stream))[0].log_softmax(-1)
    at = stream.shape[1] - len(outcome.record.segments[-1].tokens) - 1
    assert tuple(each.token for each in outcome.reply.logprobs) == reply
    for offset, each in enumerate(outcome.reply.logprobs):
        expected_V = expected_TV[at + offset]
        assert each.logprob == pytest.approx(float(expected_V[each.token]), abs=1e-4)
        best = expected_V.topk(3)
        assert [token for token, _ in each.top] == best.indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_seed_repeats_a_reply_and_another_one_does_not(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memory = fresh(small_model)

    def reply(seed: int, row: object) -> Record:
        options = {"temperature": 1.0, "top_k": 50, "repetition_penalty": 1.3, "seed": seed}
        return answer(engine, memory, ask(tokens=30, **options), row).record

    first = reply(7, "one")
    assert reply(7, "two") == first == reply(7, "one")
    assert reply(8, "one") != first


def test_nothing_is_drawn_while_a_prompt_is_read(make_engine: Make, small_model: BaseModel) -> None:
    """The reply is the one that plain sampling gives, behind prompts of one step and of several."""
    with make_engine(small_model, window=1024) as engine:
        for length in (5, 600):
            turn = ask("word " * length, tokens=6, temperature=1.0, seed=11)
            outcome = answer(engine, fresh(small_model), turn)
            reply = outcome.record.segments[-1].tokens[:6]
            sampler = Sampler(turn.sampling)
            stream = list(outcome.record.tokens[: outcome.input_tokens])
            for index, token in enumerate(reply):
                with torch.no_grad():
                    hidden = forward(small_model, torch.tensor([stream]))
                    logits_V = logits(small_model, hidden)[0, -1]
                assert sampler.choose(logits_V, list(reply[:index])) == token
                stream.append(token)


@torch.no_grad()
def test_a_reply_goes_on_when_the_window_hops_under_it(
    make_engine: Make, small_model: BaseModel
) -> None:
    small = 96
    with make_engine(small_model, window=small) as engine:
        outcome = answer(engine, fresh(small_model), ask(tokens=150))
    assert outcome.output_tokens == 150
    prompt = outcome.record.tokens[: outcome.input_tokens]
    reply = outcome.record.tokens[outcome.input_tokens :][:150]
    pinned = outcome.record.pinned
    window = Window(small).pin(prompt[:pinned]).append(prompt[pinned:])
    for token in reply:
        scores = logits(small_model, forward(small_model, torch.tensor([window.tokens])))[0, -1]
        assert scores[token] == pytest.approx(float(scores.max()), abs=1e-3)
        window = window.append((token,))
    assert window.dropped > 0


def test_a_conversation_is_the_same_whether_rows_are_kept_or_dropped(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    """Pieces of a conversation: the memory after them and each reply are a function of the log."""

    def chat(*, forget: bool) -> tuple[list[Record], list[float | None], str]:
        memory = taught(small_model, 1)
        records, surprises = [], []
        for number in range(5):
            outcome = answer(engine, memory, ask(f"Question {number}?", tokens=20), "chat")
            if forget:
                engine.drop("chat")
            memory = outcome.memory
            records.append(outcome.record)
            surprises.append(outcome.surprise_nats)
        return records, surprises, memory.hash()

    kept, dropped = chat(forget=False), chat(forget=True)
    assert kept[0] == dropped[0]
    assert kept[1] == pytest.approx(dropped[1], rel=1e-4)
    assert kept[2] == dropped[2]


# Turns of clients that send a whole history again


def test_a_window_that_begins_anew_is_that_of_a_new_conversation(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    first = answer(engine, fresh(small_model), ask("My dog is Rolf."), "row")
    messages = (
        Message("system", "Be brief."),
        Message("user", "My dog is Rolf.", learn=False),
        Message("assistant", "Noted."),
        Message("user", "Who is Rolf?"),
    )
    turn = replace(ask(tokens=8), messages=messages, taught=(b"12345678",), resume=b"where")
    anew = answer(engine, first.memory, replace(turn, fresh=True), "row")
    other = answer(engine, first.memory, replace(turn, conversation="other"))
    assert anew.record.fresh
    assert not other.record.fresh
    assert anew.record.segments == other.record.segments
    window, expected = (
        outcome.memory.conversations[name].window
        for outcome, name in ((anew, "default"), (other, "other"))
    )
    assert window == expected
    # Of the messages only the last one teaches.
    asked = len(small_model.tokenizer.encode("Who is Rolf?"))
    assert anew.record.learnable_tokens == asked
    assert anew.memory.observed_tokens == first.memory.observed_tokens + asked
    # What recognises it is part of the fold: the log alone gives the same memory.
    replayed = fresh(small_model)
    for record in (first.record, anew.record):
        record = Record.decode(record.encode())
        replayed = engine.observe(replayed, record).future.result(WAIT)
    assert replayed == anew.memory
    assert replayed.taught == (b"12345678",)
    assert replayed.conversations["default"].resume == b"where"
    goes_on = answer(engine, anew.memory, ask("Yes?"), "row")
    assert goes_on.memory.conversations["default"].resume == b""
    assert goes_on.memory.taught == replayed.taught


def test_a_text_is_gone_on_with_as_it_stands(engine: SessionEngine, small_model: BaseModel) -> None:
    turn = replace(ask("Once upon a time", tokens=4), plain=True)
    outcome = answer(engine, fresh(small_model), turn)
    tokenizer = small_model.tokenizer
    before, reply = outcome.record.segments
    assert tokenizer.decode(before.tokens) == "Once upon a time"
    assert tokenizer.decode(reply.tokens[:4]) == outcome.reply.text


def test_a_text_is_gone_on_with_without_a_chat_template(tiny_model: BaseModel) -> None:
    """A reply that was cut has nothing to be closed with."""
    model = tiny_model.to(torch.float32, "cpu")
    assert not model.tokenizer.has_chat_template
    with make_torch(model) as engine:
        turn = replace(ask("Once upon a time", tokens=4), plain=True)
        outcome = answer(engine, fresh(model), turn)
        assert outcome.finish_reason is FinishReason.LENGTH
        assert len(outcome.record.segments[-1].tokens) == 4
        with pytest.raises(InvalidRequestError, match="no chat template"):
            answer(engine, fresh(model), ask("Once upon a time", tokens=4))


def test_a_reader_may_end_a_reply(engine: SessionEngine, small_model: BaseModel) -> None:
    pieces: list[TextPiece] = []

    def enough(piece: TextPiece) -> bool:
        pieces.append(piece)
        return len(pieces) == 3

    memory = fresh(small_model)
    ticket = engine.generate("row", memory, ask(tokens=40), enough)
    cut = ticket.future.result(WAIT)
    whole = answer(engine, memory, ask(tokens=40))
    assert cut.finish_reason is FinishReason.STOP
    assert cut.output_tokens < whole.output_tokens
    assert cut.reply.text == "".join(piece.text for piece in pieces)
    assert whole.reply.text.startswith(cut.reply.text)
    # The window goes on behind what was said.
    again = answer(engine, cut.memory, ask("Yes?"), "row")
    assert again.record.tokens
