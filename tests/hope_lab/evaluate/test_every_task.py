"""Every task from its command line to its JSON, on a tiny random model with the real engine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hope_lab.evaluate import main, running
from hope_lab.evaluate.cli import TASKS
from hope_lab.evaluate.contenders import ARMS
from hope_lab.evaluate.data.course import Course

Run = Callable[..., dict[str, Any]]
TinyLlama = Callable[..., tuple[Any, Path]]

COMMON = {"task", "model", "dtype", "seeds", "policies", "replay", "rows"}
ROW = {"arm", "policy", "score", "interval", "asked"}
COST = {"policy", "learnt_tokens", "trained_tokens", "learn_seconds", "passes_per_token"}
COST |= {"state_bytes"}
SHOWN = {"after", "arm", "policy", "text", "values", "reply"}

PROSE = "The tide came in slowly. Nobody had moved the boat.\n" * 60
STORY = "1 Mary went to the attic.\n2 Ann saw it.\n3 Where is Mary? \tattic\t1\n" * 3


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "qa1_x.txt").write_text(STORY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(files: Path, chat_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a task and parses what it prints, by default with the cheap recipe and no cache."""

    def go(
        task: str, *words: str, cache: bool = False, model: Path = chat_model_dir
    ) -> dict[str, Any]:
        shared = ["--model", str(model), "--threads", "1", "--json"]
        shared += ["--cache", str(files / "cache")] if cache else ["--no-cache"]
        if "--policy" not in words:
            shared += ["--policy", "summed_gradient"]
        assert main([task, *words, *shared]) == 0
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    return go


def check(found: dict[str, Any], labels: set[str], costs: set[str], *, own: set[str]) -> None:
    """The keys of a task whose contenders answer questions."""
    assert set(found) == COMMON | {"per_seed", "costs"} | own
    for row in found["rows"]:
        assert set(row) == ROW | labels
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert {row["arm"] for row in found["rows"]} == set(ARMS)
    for row in found["per_seed"]:
        assert set(row) == ROW | labels | {"seed"}
    for row in found["costs"]:
        assert set(row) == COST | costs
        assert row["trained_tokens"] > 0
        assert row["learn_seconds"] > 0


def test_needle(run: Run, files: Path) -> None:
    text = ("--text", str(files / "prose.txt"))
    kinds = ("passkey", "multi_query")
    words = ("--kinds", *kinds, "--lengths", "150", "300", "--samples", "1", *text)
    found = run("needle", *words, "--show")
    shown = found.pop("shown")
    check(found, {"kind", "length"}, {"kind", "length"}, own=set())
    assert len(found["rows"]) == 2 * 2 * len(ARMS)
    assert len(found["costs"]) == 2 * 2
    assert [row["asked"] for row in found["rows"]] == [1] * len(found["rows"])
    assert set(shown[0]) == SHOWN | {"kind", "length", "seed", "sample"}
    longer = {row["length"]: row["learnt_tokens"] for row in found["costs"]}
    assert 100 < longer[150] <= 150 < 250 < longer[300] <= 300


def test_personal(run: Run) -> None:
    found = run("personal", "--people", "2", "--facts", "2")
    assert {row["arm"] for row in found["rows"]} == set(ARMS)
    for row in found["rows"]:
        assert set(row) == ROW | {"named"}
        assert row["asked"] == 2 * 2
        assert row["score"] <= row["named"]
    assert found["costs"][0]["trained_tokens"] > 0


def test_babilong(run: Run, files: Path) -> None:
    words = ("--stories", str(files), "--text", str(files / "prose.txt"), "--lengths", "120")
    found = run("babilong", *words, "--samples", "2")
    check(found, {"story", "length"}, {"story", "length"}, own=set())
    assert [row["asked"] for row in found["rows"]] == [2] * len(ARMS)


def test_ctnl(run: Run) -> None:
    found = run("ctnl", "--pairs", "10", "--tests", "2")
    own = {"pairs", "told", "matrices"}
    check(found, {"course", "after", "about"}, {"course"}, own=own)
    assert len(found["matrices"]) == len(ARMS)
    for item in found["matrices"]:
        assert set(item) == {"arm", "policy", "learnt", "final", "forgetting", "matrix"}
        assert [len(row) for row in item["matrix"]] == [1, 2]
    assert len(found["rows"]) == len(ARMS) * (3 + 1)


def test_incremental(run: Run) -> None:
    sizes = ("--sessions", "2", "--classes", "2", "--examples", "2", "--tests", "1")
    found = run("incremental", *sizes, "--told", "document")
    check(found, {"after"}, set(), own={"classes", "examples", "told", "matrices"})
    assert [row["asked"] for row in found["rows"] if row["arm"] == "memory"] == [2, 4]


def test_forgetting(run: Run) -> None:
    found = run("forgetting", "--sessions", "3", "--facts", "1", "--seeds", "0", "1")
    check(found, {"after"}, set(), own={"facts", "told", "matrices"})
    assert [len(row) for row in found["matrices"][0]["matrix"]] == [1, 2, 3]
    asked = [row["asked"] for row in found["rows"] if row["arm"] == "frozen"]
    assert asked == [2, 4, 6]
    assert len(found["per_seed"]) == 2 * len(found["rows"])


def test_poison(run: Run) -> None:
    words = ("--facts", "2", "--attacks", "gibberish", "repeated", "--tokens", "64")
    found = run("poison", *words, "--seeds", "0", "1")
    figures = {"unguarded_damage", "guarded_damage", "honest_damage", "recall_before"}
    figures |= {"recall_after", "unguarded_recall_after", "false_alarms", "others_moved"}
    assert set(found) == COMMON | figures | {"tokens", "fed", "attacks", "guards", "summary"}
    # Another session learnt beside each poisoned one, and came out as if alone.
    assert found["others_moved"] == 0
    stages = [(row["seed"], row["guarded"], row["after"]) for row in found["rows"]]
    assert stages == [
        (seed, guarded, after)
        for seed in (0, 1)
        for guarded in (False, True)
        for after in ("facts", "gibberish", "repeated")
    ]
    for row in found["rows"]:
        assert row["consolidations"] > 0
        assert row["asked"] == 2
        assert row["guarded"] or not row["events"]
    unguarded = [row["nats"] for row in found["rows"] if not row["guarded"]]
    first, second = unguarded[2] / unguarded[0] - 1, unguarded[5] / unguarded[3] - 1
    assert found["unguarded_damage"] == pytest.approx((first + second) / 2)


def test_poison_without_poison_counts_false_alarms(run: Run) -> None:
    found = run("poison", "--facts", "3", "--attacks")
    assert found["guarded_damage"] is None
    assert [(row["guarded"], row["after"]) for row in found["rows"]] == [(True, "facts")]
    assert 0 <= found["false_alarms"] <= 1


@pytest.fixture
def letters(tiny_llama: TinyLlama, files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 264 tokens, which has no chat template: enough to read a text with."""
    monkeypatch.setenv("HOPE_CACHE_DIR", str(files / "models"))
    _, directory = tiny_llama(max_position_embeddings=1024)
    return directory


def test_adaptation(run: Run, files: Path, letters: Path) -> None:
    text = files / "letters.txt"
    text.write_text("".join(f"Day {n}. The tide was {n * 7 % 10}.\n" for n in range(400)))
    words = ("--text", str(text), "--tokens", "1200", "--block", "300")
    found = run("adaptation", *words, "--seeds", "0", "1", model=letters)
    assert set(found) == COMMON | {"tokens", "block"}
    arms = ["off", "off_calibrated", "on", "on_calibrated"]
    assert [(row["seed"], row["arm"]) for row in found["rows"]] == [
        (seed, arm) for seed in (0, 1) for arm in arms
    ]
    keys = {"seed", "arm", "policy", "mean_nats", "last_half_nats", "positions", "nats"}
    keys |= {"gain", "gain_interval", "gain_over_calibrated", "gain_over_calibrated_interval"}
    for row in found["rows"]:
        assert set(row) == keys | {"learnt_tokens", "trained_tokens", "learn_seconds"}
        assert len(row["nats"]) == len(row["positions"]) == 4
        # All tokens but the very first are predicted.
        assert 1150 < row["positions"][-1] < 1200
    off, fitted, on, _ = found["rows"][:4]
    assert on["learnt_tokens"] == on["positions"][-1] + 1
    assert off["trained_tokens"] is None
    # Before the first boundary, at 512 tokens, nothing was learnt; after it, something was.
    assert on["nats"][0] == pytest.approx(off["nats"][0], rel=1e-5)
    assert on["nats"][-1] != pytest.approx(off["nats"][-1], rel=1e-5)
    # A random model says nothing of this text, so the frequencies of its words are worth much.
    assert fitted["last_half_nats"] < off["last_half_nats"] - 1
    assert fitted["gain"] > 1


def test_the_control_is_the_same_whatever_a_memory_learns(
    run: Run, files: Path, letters: Path
) -> None:
    words = ("--text", str(files / "prose.txt"), "--tokens", "1200", "--block", "300")
    cheap = ("--replay", "plain_price=1", "statement_price=1")
    one = run("adaptation", *words, "--policy", "summed_gradient", model=letters)
    other = run("adaptation", *words, "--policy", "replay", *cheap, model=letters)
    by_arm = [{row["arm"]: row["nats"] for row in found["rows"]} for found in (one, other)]
    assert by_arm[0]["off_calibrated"] == by_arm[1]["off_calibrated"]
    assert by_arm[0]["on"] != by_arm[1]["on"]


def test_two_recipes_side_by_side_and_only_the_arms_that_are_wanted(run: Run, files: Path) -> None:
    found = run(
        *("needle", "--lengths", "150", "--samples", "1", "--text", str(files / "prose.txt")),
        *("--policy", "replay", "summed_gradient", "--arms", "memory", "retrieval"),
        *("--replay", "statement_price=2", "plain_price=1"),
    )
    assert [(row["arm"], row["policy"]) for row in found["rows"]] == [
        ("retrieval", None),
        ("memory", "replay"),
        ("memory", "summed_gradient"),
    ]
    assert set(found["policies"]) == {"replay", "summed_gradient"}
    assert found["replay"] == ["statement_price=2", "plain_price=1"]


def test_a_prompt_that_is_too_long_is_no_result(run: Run, files: Path) -> None:
    found = run(
        *("needle", "--lengths", "400", "--samples", "1", "--text", str(files / "prose.txt")),
        *("--arms", "frozen", "prompt", "--prompt-tokens", "300"),
    )
    assert [row["score"] is None for row in found["rows"]] == [False, True]


def test_a_result_is_computed_once_and_again_for_another_question(
    run: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes a course is counted here, and what it costs is left out."""
    taken: list[str] = []

    def take(course: Course, who: Any, advance: Any) -> dict[str, Any]:
        taken.append(type(who).__name__)
        # A reply for each time that something was computed.
        asked = [[str(len(taken)) for _ in lesson.asked] for lesson in course.lessons]
        numbers = ("learnt_tokens", "trained_tokens", "learn_seconds", "state_bytes")
        return {"replies": dict.fromkeys(ARMS, asked), "costs": dict.fromkeys(numbers, 1)}

    monkeypatch.setattr(running, "take", take)
    base = ("needle", "--lengths", "150", "--text", str(files / "prose.txt"), "--arms", "memory")
    first = run(*base, "frozen", "--samples", "1", cache=True)
    assert len(taken) == 2
    assert run(*base, "frozen", "--samples", "1", cache=True) == first
    assert len(taken) == 2
    # Another arm is added, those that are known are not asked again.
    run(*base, "frozen", "prompt", "--samples", "1", cache=True)
    assert taken[2:] == ["_InPrompt"]
    # Another seed and another policy are other results; the baseline knows no policy.
    run(*base, "frozen", "--samples", "1", "--seeds", "1", cache=True)
    assert len(taken) == 5
    words = ("--policy", "replay", "--replay", "statement_price=1", "plain_price=1")
    run(*base, "frozen", "--samples", "1", *words, cache=True)
    assert taken[5:] == ["_Remembering"]
    words = ("--policy", "replay", "--replay", "statement_price=2", "plain_price=1")
    run(*base, "frozen", "--samples", "1", *words, cache=True)
    assert taken[6:] == ["_Remembering"]


def test_tables_for_people(
    files: Path, chat_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--lengths", "150", "--samples", "1", "--text", str(files / "prose.txt"), "--show"]
    shared = ["--model", str(chat_model_dir), "--no-cache", "--arms", "frozen", "retrieval"]
    assert main(["needle", *words, *shared]) == 0
    out, err = capsys.readouterr()
    for word in ("passkey", "retrieval", "score", "reply"):
        assert word in out
    assert "length 150" in err


@pytest.mark.parametrize("task", ["needle", "adaptation", "forgetting", "recall", "poison"])
def test_a_picture(task: str, run: Run, files: Path) -> None:
    pytest.importorskip("matplotlib")
    path = files / "picture.png"
    text = ("--text", str(files / "prose.txt"))
    words = {
        "needle": ("--lengths", "150", "--samples", "1", "--arms", "frozen", *text),
        "adaptation": ("--tokens", "600", "--block", "200", *text),
        "forgetting": ("--sessions", "2", "--facts", "1", "--arms", "frozen"),
        "recall": ("--facts", "1", "--filler", "0", "--arms", "frozen"),
        "poison": ("--facts", "1", "--attacks", "repeated", "--tokens", "20"),
    }[task]
    run(task, *words, "--plot", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_said_before_the_work(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["--text", str(files / "prose.txt"), "--model", "no/model/there", "--no-cache"]
    assert main(["needle", *words, "--plot", str(files / "a.png")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "hope evaluate: plots require matplotlib; run `pip install 'hope-server[train]'`, "
        "or omit --plot\n"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--replay", "price=1"], "has no setting 'price'"),
        (["--replay", "steps=much"], "'much' is not a valid value of steps"),
        (["--replay", "steps=-1"], "steps must not be -1"),
        (
            ["--replay", "new_per_step=0", "--policy", "replay"],
            "new_per_step, window_every and warmup_steps must be at least 1",
        ),
        (["--replay", "steps=1", "--policy", "summed_gradient"], "has none"),
        (["--text", "no/such/file"], "cannot read"),
        (["--lengths", "5"], "too few for the hidden sentences"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: list[str],
    complaint: str,
    files: Path,
    chat_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = ["--text", str(files / "prose.txt"), "--model", str(chat_model_dir), "--no-cache"]
    assert main(["needle", *shared, *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("hope evaluate: ")
    assert complaint in last


def test_every_task_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    names = [task.NAME for task in TASKS]
    assert names[:3] == ["recall", "specificity", "needle"]
    assert len(names) == len(set(names)) == 15
    assert all(re.search(rf"^    {name}\s", listed, re.MULTILINE) for name in names)


def test_specificity(run: Run) -> None:
    words = ("--facts", "1", "2", "--parts", "specificity", "corrections", "conflicts")
    found = run("specificity", *words, "--pairs", "2", "--show")
    assert set(found) == COMMON | {
        *("damage", "corrections", "costs", "groups", "wordings"),
        *("shown", "development_seeds"),
    }
    assert [(row["part"], row["facts"]) for row in found["rows"]] == [
        ("specificity", 1),
        ("specificity", 2),
        ("conflicts", 3),
    ]
    assert found["rows"][0]["leak_asked"] >= 30
    assert found["corrections"][0]["new_asked"] == 4
    assert all(row["passes_per_token"] > 0 for row in found["costs"])
    assert found["development_seeds"] == []
