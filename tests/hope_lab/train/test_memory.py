"""`hope train fast-memory`: its features, its loss, its schedule, its files and its resumption."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hope_lab.evaluate import main as evaluate
from hope_lab.train.cli import main
from hope_lab.train.fast_memory import features, log
from hope_lab.train.fast_memory.checkpoint import STATE
from hope_lab.train.fast_memory.config import MemoryTrainConfig
from hope_lab.train.fast_memory.corpus import (
    general_questions,
)
from hope_lab.train.fast_memory.episodes import Split, Storyteller
from hope_lab.train.fast_memory.features import Reader, RoundTexts, round_texts
from hope_lab.train.fast_memory.loop import FAST_MEMORY, train_fast_memory
from hope_lab.train.fast_memory.loss import REST_WEIGHT, dropout, scored
from hope_lab.train.fast_memory.pool import Pool
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    init_weights,
)


@pytest.fixture(autouse=True)
def few_texts_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model's own texts are as good as many."""
    monkeypatch.setattr(features, "PLAIN_WINDOWS", 4)
    monkeypatch.setattr(features, "general_questions", lambda: general_questions()[:2])


def small_fast_memory(model: BaseModel, **overrides: Any) -> FastMemoryConfig:
    sizes = {"key_width": 16, "value_width": 32, "input_width": 24, "hidden": 32, "n_heads": 2}
    config = FastMemoryConfig(d_model=64, sources=(0, 1), target=2)
    return replace(config, **sizes | overrides)


def quick(**overrides: Any) -> MemoryTrainConfig:
    settings = {
        "steps": 4,
        "facts_a_step": 8,
        "first_rounds": 1,
        "most_rounds": 2,
        "round_every": 2,
        "stories_a_round": 6,
        "test_stories": 6,
        "test_every": 100,
        "log_every": 1,
        "warmup_steps": 2,
    }
    return MemoryTrainConfig(**settings | overrides)


def read_as_pool(model: BaseModel, teller: Storyteller, texts: RoundTexts) -> Pool:
    config = small_fast_memory(model)
    reader = Reader(model, config, teller)
    return Pool([reader.stories(texts)], reader.unchanged(0), config.taps)


def test_what_was_told_last_is_what_is_asked(chat_model: BaseModel) -> None:
    teller = Storyteller(chat_model.tokenizer, Split.TRAINED)
    rng = random.Random(0)
    first = teller.story(rng, facts=1)
    about = first.questions[0].about
    second = teller.story(rng, facts=1, earlier=[about])
    assert second.questions[0].about == about
    pool = read_as_pool(chat_model, teller, RoundTexts((first, second), (None, 0)))
    orders = set()
    for seed in range(40):
        episode = pool.episode(random.Random(seed), 2)
        orders.add(episode.stories)
        last = (first, second)[episode.stories[-1]]
        assert tuple(pool.questions[item] for item in episode.asked) == last.questions
        assert not episode.strangers
        assert all(item >= len(pool.questions) for item in episode.unchanged)
    assert {(0, 1), (1, 0)} <= orders


def test_half_of_what_is_not_answered_is_of_a_kind_that_was_told(chat_model: BaseModel) -> None:
    teller = Storyteller(chat_model.tokenizer, Split.TRAINED)
    texts = round_texts(teller, 0, 0, 200)
    pool = read_as_pool(chat_model, teller, texts)
    same = other = 0
    for seed in range(60):
        episode = pool.episode(random.Random(seed), 16)
        told = {pool.questions[item].about for item in episode.asked}
        for item in episode.strangers:
            about = pool.questions[item].about
            assert about not in told
            kinds = {name for _, name in told}
            same, other = same + (about[1] in kinds), other + (about[1] not in kinds)
    # Many a kind was told of one thing only, and then another question stands in for it.
    assert same > 20
    assert other > 20


def test_features_are_what_the_forward_pass_gives(chat_model: BaseModel) -> None:
    """A loss over kept features is the loss of reading and asking through the model itself."""
    from hope_lab.evaluate.tasks.memory import read_stories
    from hope_runtime.models.decoder.forward import forward, logits
    from hope_runtime.models.fast_memory.memory import FastMemoryPass, fresh_carry

    config = small_fast_memory(chat_model)
    weights = init_weights(config, 0)
    teller = Storyteller(chat_model.tokenizer, Split.TRAINED)
    told = round_texts(teller, 0, 0, 3)
    assert any(question.is_completion for question in told.questions)
    pool = read_as_pool(chat_model, teller, told)
    fast_memory = FastMemory(config, weights)
    episode = replace(pool.episode(random.Random(0), 99), strangers=())
    found = scored(chat_model, config, weights, pool, [episode], whole_vocabulary=True)
    stories = [told.stories[index] for index in episode.stories]
    state = replace(read_stories(chat_model, fast_memory, stories), carry=fresh_carry(config, 1))
    total, weight = 0.0, 0.0
    for question in (pool.questions[item] for item in episode.asked):
        opening = teller.opening_of(question)
        ids = torch.tensor([opening + question.prompt + question.answer])
        with torch.no_grad():
            hidden = forward(chat_model, ids, fast_memory=FastMemoryPass(fast_memory, state))
            score = logits(chat_model, hidden)[0].log_softmax(-1)
        first = len(opening) + len(question.prompt)
        for place, token in enumerate(question.answer):
            is_value = question.value.start <= place < question.value.stop
            share = 1.0 if is_value else REST_WEIGHT
            total -= share * float(score[first + place - 1, token])
            weight += share
    assert found.answer_nats == pytest.approx(total / weight, rel=2e-3)
    candidates = scored(chat_model, config, weights, pool, [episode], rng=random.Random(0))
    assert candidates.answer_nats < found.answer_nats, "fewer words to choose from"
    assert candidates.kl == pytest.approx(found.kl, abs=0.2)


def test_an_empty_memory_changes_nothing(chat_model: BaseModel) -> None:
    config = small_fast_memory(chat_model)
    teller = Storyteller(chat_model.tokenizer, Split.TRAINED)
    pool = read_as_pool(chat_model, teller, round_texts(teller, 0, 0, 4))
    weights = dict(init_weights(config, 0).named())
    nothing = FastMemoryWeights.from_named(weights | {"out": torch.zeros_like(weights["out"])})
    episode = pool.episode(random.Random(0), 4)
    assert scored(chat_model, config, nothing, pool, [episode], whole_vocabulary=True).kl == 0


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
    how = quick(steps=5, save_every=2)
    whole = train_fast_memory(chat_model, config, how, tmp_path / "whole")

    def interrupt(step: log.MemoryStep) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_fast_memory(chat_model, config, how, tmp_path / "cut", report=interrupt)
    cut = train_fast_memory(chat_model, config, how, tmp_path / "cut", resume=True)
    for (name, mine), (_, theirs) in zip(whole.weights.named(), cut.weights.named(), strict=True):
        assert torch.equal(mine, theirs), name
    assert [line.step for line in log.read(tmp_path / "cut")] == [1, 2, 3, 4, 5]
    with pytest.raises(InvalidRequestError, match="other settings"):
        train_fast_memory(chat_model, config, quick(seed=1), tmp_path / "cut", resume=True)
    with pytest.raises(InvalidRequestError, match="already contains a run"):
        train_fast_memory(chat_model, config, quick(), tmp_path / "cut")


def test_texts_are_renewed_and_older_ones_leave_the_disk(
    chat_model: BaseModel, tmp_path: Path
) -> None:
    how = quick(steps=7)
    train_fast_memory(chat_model, small_fast_memory(chat_model), how, tmp_path)
    kept = sorted(file.stem for file in (tmp_path / "texts").glob("round-*"))
    assert kept == ["round-00002", "round-00003"]


def test_a_run_of_some_minutes_ends_with_a_finished_schedule(
    chat_model: BaseModel, tmp_path: Path
) -> None:
    how = quick(steps=None, minutes=0.02, learning_rate=1e-3, log_every=1, warmup_steps=1)
    train_fast_memory(chat_model, small_fast_memory(chat_model), how, tmp_path)
    lines = log.read(tmp_path)
    assert lines[-1].minutes >= 0.02
    assert lines[-1].held_out is not None
    assert (tmp_path / FAST_MEMORY).exists()


def test_a_run_whose_time_ends_just_after_its_last_step_was_judged_is_tested_and_stored(
    chat_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def progress(self: MemoryTrainConfig, step: int, seconds: float) -> float:
        """Over from the second time it is asked how far the run is."""
        asked.append(seconds)
        return 1.0 if len(asked) >= 2 else 0.5

    monkeypatch.setattr(MemoryTrainConfig, "progress", progress)
    monkeypatch.setattr(MemoryTrainConfig, "rate", lambda *_: 1e-3)
    how = quick(steps=None, minutes=1.0, log_every=1000, save_every=1000)
    train_fast_memory(chat_model, small_fast_memory(chat_model), how, tmp_path)
    assert log.read(tmp_path)[-1].held_out is not None
    assert (tmp_path / FAST_MEMORY).exists()


def test_the_rate_falls_to_the_end_of_the_steps_or_of_the_time() -> None:
    timed = MemoryTrainConfig(steps=None, minutes=10, learning_rate=1.0)
    assert timed.rate(0, 0) == pytest.approx(0.01)
    assert timed.rate(200, 299) == 1.0
    assert timed.rate(900, 450) == pytest.approx(0.5)
    assert timed.rate(10**6, 600) == pytest.approx(timed.last_rate)
    assert timed.progress(10**6, 599) < 1 <= timed.progress(3, 600)
    stepped = MemoryTrainConfig(steps=1000, learning_rate=1.0)
    assert stepped.rate(750, 10**6) == pytest.approx(0.5)
    assert stepped.progress(999, 10**6) < 1 == stepped.progress(1000, 0)
    with pytest.raises(ValueError, match="steps or of minutes"):
        MemoryTrainConfig(steps=None)


def test_a_run_goes_on_from_a_stored_fast_memory(chat_model: BaseModel, tmp_path: Path) -> None:
    config = small_fast_memory(chat_model)
    begin = FastMemory(config, init_weights(config, 7))
    before = {name: tensor.clone() for name, tensor in begin.weights.named()}
    how = quick(steps=1, learning_rate=1e-9, weight_decay=0.0, begin_digest=begin.digest)
    found = train_fast_memory(chat_model, config, how, tmp_path / "a", begin=begin.weights)
    for name, tensor in found.weights.named():
        assert torch.allclose(tensor, before[name], atol=1e-6), name
    for name, tensor in begin.weights.named():
        assert torch.equal(tensor, before[name]), "what was given is not written to"
    with pytest.raises(InvalidRequestError, match="other settings"):
        train_fast_memory(chat_model, config, quick(steps=2), tmp_path / "a", resume=True)


def test_dropout_is_a_function_of_its_seed() -> None:
    seen, cpu = torch.ones(4, 50, 20), torch.device("cpu")
    dropped = dropout(0.25, 1, cpu)(seen)
    assert torch.equal(dropped, dropout(0.25, 1, cpu)(seen))
    assert not torch.equal(dropped, dropout(0.25, 2, cpu)(seen))
    assert 0.7 < float(dropped.mean()) < 0.8
    assert torch.equal(dropout(0.0, 1, cpu)(seen), seen)


@pytest.mark.parametrize(
    ("command", "option"), [("fast-memory", "--fast-memory"), ("memory", "--branch")]
)
def test_the_command_trains_and_the_evaluation_asks(
    chat_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
    command: str,
    option: str,
) -> None:
    """By today's names and by the older ones."""
    monkeypatch.setattr(
        "hope_lab.train.fast_memory.cli.MemoryTrainConfig",
        lambda **given: quick(steps=given["steps"], begin_digest=given["begin_digest"]),
    )
    out = tmp_path / "run"
    words = [command, "--out", str(out), "--steps", "2", "--layers", "0", "1"]
    sizes = ["n_heads=2", "key_width=16", "value_width=32", "input_width=24", "hidden=32"]
    model = ["--model", str(chat_model_dir), "--dtype", "float32", "--device", "cpu"]
    assert main([*words, "--shape", *sizes, *model]) == 0
    assert "values_8" in capsys.readouterr().out
    assert (out / STATE).exists()
    file = str(out / FAST_MEMORY)
    told = ["memory", option, file, "--facts", "2", "--questions", "3", "--json"]
    assert evaluate([*told, "--model", str(chat_model_dir), "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recall"]["2 facts"]["questions"] >= 3
    assert set(found["plain_text_nats"]) >= {"fiction", "chat"}
    again = [command, "--out", str(tmp_path / "more"), "--steps", "1", "--begin", file]
    assert main([*again, *model]) == 0
    assert main([*again, "--layers", "0", *model]) == 1
    assert "--begin brings its layers" in capsys.readouterr().err
    assert evaluate(["memory", "--model", str(chat_model_dir)]) == 1
    assert "no trained" in capsys.readouterr().err
