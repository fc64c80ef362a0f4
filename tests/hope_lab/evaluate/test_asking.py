"""Batched greedy replies are those of the engine, and verdicts are what they are said to be."""

from __future__ import annotations

import pytest
from fast_memories import noise, small_fast_memory

from hope_lab.evaluate.asking import ask, chat_prompt, first_sentence, is_correct, raw_prompt
from hope_lab.evaluate.learnt import NOTHING, Learnt, learnt_of
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.layers.lora import initial
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import with_written
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import SUMMED_GRADIENT_POLICY


@pytest.mark.parametrize("fast", [False, True])
def test_replies_of_a_batch_are_those_of_the_engine_one_at_a_time(
    base_model: BaseModel, fast: bool
) -> None:
    texts = ["What is the capital of Norway?", "Who keeps a parrot?", "Hi", "Name two tools."]
    fast_memory = small_fast_memory(base_model)
    memory = SessionMemory.fresh(base_model.fingerprint, SUMMED_GRADIENT_POLICY)
    if fast:
        memory = with_written(fast_memory, memory, noise(fast_memory, 1))
    with TorchEngine(base_model, threads=1, fast_memory=fast_memory) as engine:
        single = []
        for text in texts:
            turn = GenerateTurn("new", (Message("user", text),), Sampling(max_tokens=10))
            ticket = engine.generate(text, memory, turn, lambda piece: None)
            single.append(ticket.future.result().text)
    prompts = [chat_prompt(base_model.tokenizer, memory, text) for text in texts]
    replies = ask(base_model, prompts, learnt_of(memory, fast_memory), new_tokens=10)
    assert replies == single
    assert (replies != ask(base_model, prompts, NOTHING, new_tokens=10)) is fast


def test_rows_without_a_shared_beginning_do_not_disturb_each_other(tiny_model: BaseModel) -> None:
    prompts = [raw_prompt(tiny_model.tokenizer, text) for text in ("abc", "hello you", "x", "no")]
    adapter = initial(tiny_model.config, 2, seed=0)
    adapter.down_b.normal_(std=0.5)  # an effect that shows
    alone = [ask(tiny_model, [ids], Learnt(adapter), new_tokens=8)[0] for ids in prompts]
    assert ask(tiny_model, prompts, Learnt(adapter), new_tokens=8) == alone
    assert ask(tiny_model, prompts, NOTHING, new_tokens=8) != alone


def test_batches_keep_the_order_of_the_prompts(
    tiny_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [raw_prompt(tiny_model.tokenizer, "ab" * size) for size in (5, 1, 4, 2, 3)]
    whole = ask(tiny_model, prompts, NOTHING, new_tokens=4)
    monkeypatch.setattr("hope_lab.evaluate.asking.ROWS", 2)
    finished: list[int] = []
    assert ask(tiny_model, prompts, NOTHING, new_tokens=4, done=finished.append) == whole
    assert finished == [2, 2, 1]
    assert ask(tiny_model, [], NOTHING) == []


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (" It is Oslo. Or is it?", "It is Oslo."),
        ("Sure! It is Oslo.", "Sure!"),
        ("Oslo\nRome", "Oslo"),
        ("\n\nOslo, version 3.5 of it", "Oslo, version 3.5 of it"),
        ("Is it Oslo?", "Is it Oslo?"),
        ("", ""),
    ],
)
def test_the_first_sentence(reply: str, sentence: str) -> None:
    assert first_sentence(reply) == sentence


@pytest.mark.parametrize(
    ("reply", "correct"),
    [
        ("They live in OSLO.", True),
        ("Oslo", True),
        ("In Cape\n Town.", False),
        ("It is not Osloan.", False),
        ("Oslo or Rome.", False),
        ("Oslo. Rome is far.", True),
        ("I do not know. Oslo.", False),
        ("Not Romeo but Oslo.", True),
    ],
)
def test_a_reply_is_correct_with_the_value_alone_in_its_first_sentence(
    reply: str, correct: bool
) -> None:
    assert is_correct(reply, "Oslo", ["Rome", "Cape Town"]) is correct


def test_a_value_of_two_words_may_be_spaced_in_any_way() -> None:
    assert is_correct("She likes  burnt   Orange!", "burnt orange", ["teal"])
    assert not is_correct("She likes burnt toast and orange.", "burnt orange", ["teal"])
