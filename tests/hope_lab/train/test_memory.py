"""`hope train memory`: its texts, what is held out, its loss, its files and its resumption."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hope_lab.evaluate import main as evaluate
from hope_lab.evaluate.data import items
from hope_lab.evaluate.data.relations import RELATIONS as JUDGES
from hope_lab.train.cli import main
from hope_lab.train.fast_memory import log, people
from hope_lab.train.fast_memory.checkpoint import STATE
from hope_lab.train.fast_memory.episodes import Storyteller
from hope_lab.train.fast_memory.features import Reader, RoundTexts, round_texts
from hope_lab.train.fast_memory.loop import BRANCH, MemoryTrainConfig, train_fast_memory
from hope_lab.train.fast_memory.loss import Texts, dropout, scored
from hope_lab.train.fast_memory.relations import RELATIONS
from hope_runtime.checkpoints.fast_memory import (
    load_fast_memory,
    save_fast_memory,
    shipped_fast_memory,
)
from hope_runtime.errors import CorruptModelError, InvalidRequestError, UnsupportedModelError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    init_weights,
)
from hope_runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(chat_model: BaseModel) -> Tokenizer:
    return chat_model.tokenizer


def small_fast_memory(model: BaseModel, **overrides: Any) -> FastMemoryConfig:
    sizes = {"key_width": 16, "value_width": 32, "input_width": 24, "hidden": 32, "n_heads": 2}
    config = FastMemoryConfig(d_model=64, sources=(0, 1), target=2)
    return replace(config, **sizes | overrides)


def quick(**overrides: Any) -> MemoryTrainConfig:
    settings = {
        "steps": 4,
        "facts_a_step": 8,
        "first_rounds": 1,
        "round_every": 2,
        "stories_a_round": 6,
        "test_stories": 6,
        "test_every": 100,
        "log_every": 1,
        "warmup_steps": 2,
    }
    return MemoryTrainConfig(**settings | overrides)


def test_texts_are_a_function_of_the_seed(tokenizer: Tokenizer) -> None:
    teller = Storyteller(tokenizer, held_out=False)
    assert round_texts(teller, 3, 5, 12) == round_texts(teller, 3, 5, 12)
    assert round_texts(teller, 3, 5, 12) != round_texts(teller, 3, 6, 12)
    assert round_texts(teller, 3, 5, 12) != round_texts(teller, 4, 5, 12)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_value_is_told_once_and_only_the_answer_has_it(
    tokenizer: Tokenizer, held_out: bool
) -> None:
    teller = Storyteller(tokenizer, held_out=held_out)
    for story in round_texts(teller, 0, 0, 60).stories:
        told = tokenizer.decode(
            [i for i, learnable in zip(story.ids, story.learnable, strict=True) if learnable]
        )
        for question in story.questions:
            assert question.text in told
            prompt = tokenizer.decode(question.prompt).split("<|", 1)[0]
            assert not items.mentions(prompt, question.text)
            value = tokenizer.decode(question.answer[question.value])
            assert value.strip() == question.text
            assert question.answer[-1] in tokenizer.eos_ids


def test_only_what_is_told_may_be_learnt(tokenizer: Tokenizer) -> None:
    teller = Storyteller(tokenizer, held_out=False)
    for story in round_texts(teller, 0, 0, 30).stories:
        first = story.learnable.index(True)
        assert story.ids[:first] in (teller.opening, teller.document_opening)
        after = [i for i, ok in zip(story.ids, story.learnable, strict=True) if not ok][first:]
        assert bool(after) == (story.ids[:first] == teller.opening)


def test_names_values_and_wording_are_held_out(tokenizer: Tokenizer) -> None:
    """No sentence, question, name or value of evaluation is ever seen in training."""
    seen: dict[bool, set[str]] = {}
    for held_out in (False, True):
        teller = Storyteller(tokenizer, held_out=held_out)
        questions = [q for s in round_texts(teller, 1, 0, 200).stories for q in s.questions]
        assert {people.is_held_out(q.about[0]) for q in questions if q.about[0]} == {held_out}
        seen[held_out] = {q.text for q in questions}
    assert not seen[False] & seen[True]
    forms = [relation.asked for relation in RELATIONS] + [
        relation.asked_by_user for relation in RELATIONS
    ]
    assert all(len(form) >= 3 for form in forms if form), "the last one is held out"
    rng = random.Random(0)
    trained = Storyteller(tokenizer, held_out=False)
    tested = Storyteller(tokenizer, held_out=True)
    for form in forms:
        if form:
            assert tested._pick(rng, form) == form[-1]
            assert all(trained._pick(rng, form) != form[-1] for _ in range(20))


def test_nothing_here_is_what_recall_is_judged_by() -> None:
    """`hope evaluate recall` has wording of its own, so nothing is fitted to it."""

    def plain(form: str) -> str:
        return form.replace("{name}", "{n}").replace("{value}", "{v}").lower()

    judged = {
        plain(form)
        for relation in JUDGES
        for form in (
            *relation.told,
            *relation.asked,
            *relation.told_by_user,
            *relation.asked_by_user,
        )
    }
    trained = {
        form.lower()
        for relation in RELATIONS
        for form in (
            *relation.told,
            *relation.told_by_user,
            *(question for question, _ in (*relation.asked, *relation.asked_by_user)),
        )
    }
    assert not judged & trained
    drawn = items.generate(40, 0)
    names = {people.name(random.Random(i), held_out=False) for i in range(200)}
    assert not any(name in item.told.split() for name in names for item in drawn)


def test_what_was_told_last_is_what_is_asked(chat_model: BaseModel) -> None:
    teller = Storyteller(chat_model.tokenizer, held_out=False)
    rng = random.Random(0)
    first = teller.story(rng, facts=1)
    (question,) = first.questions
    second = teller.story(rng, facts=1, earlier=[question.about])
    assert second.questions[0].about == question.about
    texts = Texts([])
    reader = Reader(chat_model, small_fast_memory(chat_model), teller)
    texts.add(reader.stories(RoundTexts((first, second), (None, 0))))
    orders = set()
    for seed in range(40):
        episode = texts.episode(random.Random(seed), 2)
        told = [
            next(i for i, story in enumerate(texts.stories) if story.seen is one.seen)
            for one in episode.told
        ]
        orders.add(tuple(told))
        (asked,) = episode.asked
        assert asked.question == texts.stories[told[-1]].asked[0].question
        assert not episode.negatives
    assert {(0, 1), (1, 0)} <= orders


def test_features_are_what_the_forward_pass_gives(chat_model: BaseModel) -> None:
    """A loss over kept features is the loss of reading and asking through the model itself."""
    from hope_lab.evaluate.tasks.memory import read_stories
    from hope_runtime.models.decoder.forward import forward, logits
    from hope_runtime.models.fast_memory.memory import FastMemoryPass, fresh_carry

    config = small_fast_memory(chat_model)
    weights = init_weights(config, 0)
    teller = Storyteller(chat_model.tokenizer, held_out=False)
    told = round_texts(teller, 0, 0, 1)
    texts = Texts([])
    texts.add(Reader(chat_model, config, teller).stories(told))
    (story,) = told.stories
    episode = texts.episode(random.Random(0), len(story.questions))
    episode = replace(episode, negatives=())
    found = scored(chat_model, config, weights, [episode], whole_vocabulary=True)
    state = read_stories(chat_model, FastMemory(config, weights), [story])
    total, weight = 0.0, 0.0
    for question in story.questions:
        ids = torch.tensor([teller.opening + question.prompt + question.answer])
        fresh = replace(state, carry=fresh_carry(config, 1))
        with torch.no_grad():
            hidden = forward(
                chat_model, ids, fast_memory=FastMemoryPass(FastMemory(config, weights), fresh)
            )
            score = logits(chat_model, hidden)[0].log_softmax(-1)
        first = len(teller.opening) + len(question.prompt)
        for place, token in enumerate(question.answer):
            is_value = question.value.start <= place < question.value.stop
            share = 1.0 if is_value else 0.5
            total -= share * float(score[first + place - 1, token])
            weight += share
    assert found.answer_nats == pytest.approx(total / weight, rel=2e-3)


def test_training_lowers_the_loss(chat_model: BaseModel, tmp_path: Path) -> None:
    config = small_fast_memory(chat_model)
    how = quick(steps=40, round_every=1000, learning_rate=5e-3, dropout=0.0)
    train_fast_memory(chat_model, config, how, tmp_path / "run")
    lines = log.read(tmp_path / "run")
    first = sum(line.answer_nats for line in lines[:5]) / 5
    last = sum(line.answer_nats for line in lines[-5:]) / 5
    assert last < 0.8 * first
    assert lines[-1].held_out is not None


def test_a_resumed_run_is_the_uninterrupted_one(chat_model: BaseModel, tmp_path: Path) -> None:
    config = small_fast_memory(chat_model)
    whole = train_fast_memory(chat_model, config, quick(steps=4), tmp_path / "whole")
    train_fast_memory(chat_model, config, quick(steps=4), tmp_path / "cut", minutes=0.0)
    assert log.read(tmp_path / "cut")[-1].step == 1
    cut = train_fast_memory(chat_model, config, quick(steps=4), tmp_path / "cut", resume=True)
    for (name, mine), (_, theirs) in zip(whole.weights.named(), cut.weights.named(), strict=True):
        assert torch.equal(mine, theirs), name
    assert [line.step for line in log.read(tmp_path / "cut")] == [1, 2, 3, 4]
    with pytest.raises(InvalidRequestError, match="other settings"):
        train_fast_memory(chat_model, config, quick(seed=1), tmp_path / "cut", resume=True)
    with pytest.raises(InvalidRequestError, match="already contains a run"):
        train_fast_memory(chat_model, config, quick(), tmp_path / "cut")


def test_a_branch_is_stored_for_one_base_model(chat_model: BaseModel, tmp_path: Path) -> None:
    config = small_fast_memory(chat_model)
    fast_memory = FastMemory(config, init_weights(config, 3))
    path = tmp_path / "branch.safetensors"
    save_fast_memory(path, fast_memory, chat_model.fingerprint)
    loaded = load_fast_memory(path, chat_model)
    assert loaded.config == config
    for (name, mine), (_, theirs) in zip(
        fast_memory.weights.named(), loaded.weights.named(), strict=True
    ):
        assert torch.equal(mine.bfloat16().float(), theirs), name
    assert shipped_fast_memory(chat_model) is None
    save_fast_memory(path, fast_memory, "another base")
    with pytest.raises(UnsupportedModelError, match="another base model"):
        load_fast_memory(path, chat_model)
    broken = dict(fast_memory.weights.named())
    broken["out"] = torch.full_like(broken["out"], float("nan"))
    save_fast_memory(
        path, FastMemory(config, FastMemoryWeights.from_named(broken)), chat_model.fingerprint
    )
    with pytest.raises(CorruptModelError):
        load_fast_memory(path, chat_model)
    path.write_bytes(b"nothing")
    with pytest.raises(CorruptModelError):
        load_fast_memory(path, chat_model)


def test_dropout_is_a_function_of_its_seed() -> None:
    seen = torch.ones(4, 50, 20)
    dropped = dropout(0.25, 1)(seen)
    assert torch.equal(dropped, dropout(0.25, 1)(seen))
    assert not torch.equal(dropped, dropout(0.25, 2)(seen))
    assert 0.7 < float(dropped.mean()) < 0.8
    assert torch.equal(dropout(0.0, 1)(seen), seen)


def test_the_command_trains_and_the_evaluation_asks(
    chat_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        "hope_lab.train.fast_memory.cli.MemoryTrainConfig", lambda **k: quick(steps=2)
    )
    out = tmp_path / "run"
    words = ["memory", "--out", str(out), "--steps", "2", "--layers", "0", "1"]
    assert main([*words, "--model", str(chat_model_dir)]) == 0
    assert "values_8" in capsys.readouterr().out
    assert (out / STATE).exists()
    told = ["memory", "--branch", str(out / BRANCH), "--facts", "2", "--questions", "3", "--json"]
    assert evaluate([*told, "--model", str(chat_model_dir), "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recall"]["2 facts"]["questions"] >= 3
    assert set(found["plain_text_nats"]) >= {"fiction", "chat"}
    assert evaluate(["memory", "--model", str(chat_model_dir)]) == 1
    assert "no trained fast memory" in capsys.readouterr().err
