"""Options of every task: recipes, arms, the cache, and what makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from task_results import Run

from hope_lab.evaluate import main, running
from hope_lab.evaluate.contenders import ARMS
from hope_lab.evaluate.data.course import Course


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
