"""The task end to end on tiny inputs, and the shape of what it reports."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hope_lab.evaluate import asking, heldout, main, running
from hope_lab.evaluate.contenders import ARMS
from hope_lab.evaluate.data import everyday
from hope_lab.evaluate.data.items import generate
from hope_lab.evaluate.data.recall_questions import Question, questions_about
from hope_lab.evaluate.learnt import Learnt
from hope_lab.evaluate.report.recall_report import Settings, document, print_report
from hope_lab.evaluate.tasks import recall
from hope_lab.evaluate.tasks.recall import SeedResult
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import SUMMED_GRADIENT_POLICY

SETTINGS = Settings(model="m", policy="p", told="chat", filler=0, dtype="float32")
RECALLED = {*ARMS, "interval", "asked"} | {f"{arm}_interval" for arm in set(ARMS) - {"memory"}}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, base_model: BaseModel) -> None:
    """The real model with little to ask and to score: this is about the course of the task."""
    monkeypatch.setattr(running, "load_base_model", lambda source, dtype: base_model)
    monkeypatch.setattr(everyday, "EVERYDAY", everyday.EVERYDAY[:2])
    monkeypatch.setattr(recall, "NEW_TOKENS", 4)

    def ask(model: BaseModel, prompts: Sequence[Any], learnt: Learnt, **options: Any) -> list[str]:
        return asking.ask(model, prompts, learnt, **options, new_tokens=4)

    monkeypatch.setattr(recall, "ask", ask)
    ids = heldout.domain_ids
    monkeypatch.setattr(
        heldout, "domain_ids", lambda tokenizer, domain: ids(tokenizer, domain)[:40]
    )


def run(*words: str) -> int:
    shared = ["--dtype", "float32", "--threads", "1"]
    shared += [] if "--policy" in words else ["--policy", "summed_gradient"]
    shared += [] if "--cache" in words else ["--no-cache"]
    return main(["recall", *shared, *words])


def check_keys(found: dict[str, Any]) -> None:
    for name in ("answers", "completions"):
        assert set(found[name]) == RECALLED
        assert 0 <= found[name]["interval"][0] <= found[name]["memory"]
        assert found[name]["memory"] <= found[name]["interval"][1] <= 1
    assert 0 <= found["intrusions"] <= 1
    assert set(found["heldout_nats"]) == {"base", "adapted", "worst_ratio", "mean_ratio"}
    assert set(found["heldout_nats"]["base"]) == set(found["heldout_nats"]["adapted"])
    for name in ("learn_tokens_per_second", "passes_per_token", "state_bytes", "questions"):
        assert found[name] > 0


@pytest.mark.usefixtures("quick")
def test_two_facts_told_in_chat_learnt_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "filler.txt"
    text.write_text("The tide came in slowly. Nobody had moved the boat.\n" * 40, encoding="utf-8")
    code = run("--facts", "2", "--filler", "30", "--filler-text", str(text), "--json")
    out, err = capsys.readouterr()
    assert code == 0
    assert "telling and learning" in err
    found = json.loads(out)  # nothing but the document is on the standard output
    check_keys(found)
    assert found["seed"] == 0
    assert found["model"] == "default"
    assert found["policy"] == "summed_gradient"
    assert found["questions"] == len(found["asked"]) == 2 * 3 + 2
    assert 30 <= found["filler_tokens"] < found["learnt_tokens"]
    assert found["heldout_nats"]["adapted"] != found["heldout_nats"]["base"]
    assert found["state_bytes"] > 10_000_000
    for asked in found["asked"]:
        assert set(asked["replies"]) >= {"frozen", "memory"}
        if asked["value"]:
            assert asked["value"] not in asked["text"]
            assert set(asked["correct"]) == set(ARMS)
        else:
            assert set(asked["intruded"]) == {"frozen", "memory"}


@pytest.mark.usefixtures("quick")
def test_foreign_items_ingested_as_a_document_shown_as_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = tmp_path / "items.jsonl"
    item = {
        "told": "The keeper of the tower is called Wendeline.",
        "question": "Who keeps the tower?",
        "completion": "The keeper of the tower is called",
        "value": "Wendeline",
        "others": ["Ottokar"],
    }
    items.write_text(json.dumps(item), encoding="utf-8")
    code = run("--items", str(items), "--told", "document", "--filler", "0", "--show")
    out, _ = capsys.readouterr()
    assert code == 0
    for word in ("answers", "completions", "intrusions", "held-out", "state, bytes", "Wendeline"):
        assert word in out


def result(seed: int, correct: bool, fits: bool = True) -> SeedResult:
    item = generate(1, seed)[0]
    arms = ARMS if fits else tuple(arm for arm in ARMS if arm != "prompt")
    verdicts = {arm: correct and arm == "memory" for arm in arms}
    replies = dict.fromkeys(arms, "x")
    questions = [
        Question("answer", "a", (1,), item, replies, verdicts),
        Question("completion", "c", (1,), item, replies, verdicts),
        Question("unseen", "u", (1,), None, replies, {"frozen": False, "memory": True}),
        Question("unrelated", "v", (1,), None, replies, {"frozen": False, "memory": False}),
    ]
    adapted = {"code": 2.0 + seed, "chat": 4.0}
    return SeedResult(
        seed, questions, {"code": 2.0, "chat": 4.0}, adapted, 100, 400, 2.0, 7 + seed, 0
    )


def test_one_seed_has_exactly_the_promised_keys() -> None:
    found = document([result(0, True)], SETTINGS)
    check_keys(found)
    promised = {"answers", "completions", "intrusions", "heldout_nats", "questions", "seed"}
    promised |= {"learn_tokens_per_second", "passes_per_token", "state_bytes", "model"}
    assert promised <= set(found)
    assert found["seed"] == 0
    assert found["answers"]["memory"] == 1
    assert found["answers"]["frozen"] == found["answers"]["prompt"] == 0
    assert found["intrusions"] == 0.5
    assert found["intrusions_by_arm"]["memory"]["unseen"] == 1
    assert found["intrusions_by_arm"]["frozen"]["pooled"] == 0
    assert found["learn_tokens_per_second"] == 50
    assert found["passes_per_token"] == 4
    json.dumps(found)


def test_several_seeds_are_pooled_and_listed() -> None:
    found = document([result(0, True), result(1, False)], SETTINGS)
    assert found["seed"] == [0, 1]
    assert found["answers"]["memory"] == 0.5
    assert found["answers"]["asked"] == 2
    assert [item["answers"]["memory"] for item in found["per_seed"]] == [1, 0]
    assert [item["seed"] for item in found["per_seed"]] == [0, 1]
    assert found["heldout_nats"]["adapted"] == {"code": 2.5, "chat": 4}
    assert found["heldout_nats"]["worst_ratio"] == 1.5
    assert found["heldout_nats"]["mean_ratio"] == 1.125
    assert found["state_bytes"] == 8


def test_facts_that_do_not_fit_the_prompt_are_no_result() -> None:
    found = document([result(0, True), result(1, True, fits=False)], SETTINGS)
    assert found["answers"]["prompt"] is None
    assert found["answers"]["prompt_interval"] is None
    assert found["answers"]["memory"] == 1


def test_no_question_holds_what_was_taught(base_model: BaseModel) -> None:
    items = generate(30, 3)
    memory = SessionMemory.fresh(base_model.fingerprint, SUMMED_GRADIENT_POLICY)
    for question in questions_about(base_model, memory, items):
        text = base_model.tokenizer.decode(question.ids)
        assert question.text in text
        assert not any(item.told in text for item in items)
        if question.item is not None:
            assert question.item.value.lower() not in text.lower()


def test_without_a_memory_there_is_nothing_to_say_of_it() -> None:
    whole = result(0, True)
    for question in whole.questions:
        for arm in ("memory", "memory+retrieval"):
            question.verdicts.pop(arm, None)
    found = document([replace(whole, heldout_adapted=None)], SETTINGS)
    assert found["answers"]["memory"] is found["answers"]["interval"] is None
    assert found["answers"]["retrieval"] == 0
    assert found["intrusions"] is None
    assert found["heldout_nats"]["adapted"] is found["heldout_nats"]["worst_ratio"] is None
    stream = io.StringIO()
    print_report([([whole], SETTINGS)], as_json=False, show=False, stream=stream)
    assert "retrieval" in stream.getvalue()


@pytest.mark.usefixtures("quick")
def test_two_policies_have_a_document_each_and_what_is_known_is_not_asked_again(
    tmp_path: Path,
    chat_model: BaseModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "load_base_model", lambda source, dtype: chat_model)
    told = ("--facts", "1", "--filler", "0", "--json", "--cache", str(tmp_path))
    assert run(*told, "--policy", "summed_gradient", "--arms", "frozen", "memory") == 0
    first = json.loads(capsys.readouterr().out)
    asked: list[int] = []
    original = recall.ask

    def ask(model: BaseModel, prompts: Sequence[Any], learnt: Learnt, **options: Any) -> list[str]:
        asked.append(len(prompts))
        return original(model, prompts, learnt, **options)

    monkeypatch.setattr(recall, "ask", ask)
    words = ("--policy", "summed_gradient", "default", "--replay", "statement_price=1")
    assert run(*told, *words, "--arms", "frozen", "memory") == 0
    both = json.loads(capsys.readouterr().out)
    assert [found["policy"] for found in both] == ["summed_gradient", "default"]
    assert both[0] == first
    assert both[1]["answers"]["frozen"] == first["answers"]["frozen"]
    assert both[0]["answers"]["retrieval"] is None
    # The memory that is new: what is asked in chat, and the one completion.
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--facts", "0"], "0 is too small; the minimum is 1"),
        (["--filler", "many"], "not a whole number"),
        (["--policy", "none"], "invalid choice"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["recall", *words])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_missing_file_is_one_line_on_the_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    assert run("--items", str(tmp_path / "none.jsonl"), "--filler", "0", "--json") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hope evaluate: cannot read items from ")
    assert err.count("\n") == 1
    torch.set_num_threads(threads)
