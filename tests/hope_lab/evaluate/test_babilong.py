"""Story files: what is in them, what is wrong with them, and facts that keep their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from hope_lab.evaluate.asking import is_correct
from hope_lab.evaluate.data.babi import Story, StoryError, read_stories
from hope_lab.evaluate.data.haystack import Haystack, Prose
from hope_lab.evaluate.tasks.babilong import asked_of, scattered
from hope_runtime.models.decoder.weights import BaseModel

STORIES = """1 Mary went to the attic.
2 John took the lamp.
3 Where is Mary? \tattic\t1
4 Mary went to the barn.
5 Where is Mary?\tbarn\t4
1 Bill gave the pear to Jeff.
2 What did Bill give to Jeff? \tpear\t1
"""


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    (tmp_path / "qa1_one_train.txt").write_text(STORIES, encoding="utf-8")
    (tmp_path / "qa10_ten_train.txt").write_text("1 X.\n", encoding="utf-8")
    return tmp_path


def test_a_question_comes_with_all_facts_that_were_told_before_it(stories: Path) -> None:
    first, second, third = read_stories(stories, 1)
    assert first == Story(
        ("Mary went to the attic.", "John took the lamp."), "Where is Mary?", "attic"
    )
    assert second.facts == (*first.facts, "Mary went to the barn.")
    assert second.answer == "barn"
    assert third == Story(("Bill gave the pear to Jeff.",), "What did Bill give to Jeff?", "pear")
    assert read_stories(stories / "qa1_one_train.txt", 5) == [first, second, third]


def test_a_bar_may_stand_for_the_tab(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("1 Mary left.\n2 Who left? |Mary|1\n3 Who came?|Ann\n", encoding="utf-8")
    assert read_stories(path, 1) == [
        Story(("Mary left.",), "Who left?", "Mary"),
        Story(("Mary left.",), "Who came?", "Ann"),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 A.\nB.\n", "line 2: expected a number"),
        ("2 A.\n2 B.\n", "line 2: number 2 must not follow 2"),
        ("1 A?\t\t1\n", "line 1: the question has no answer"),
        ("1 A.\n", "contains no questions"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StoryError, match=complaint):
        read_stories(path, 1)


def test_a_directory_has_one_file_for_a_task(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(StoryError, match=r"0 files qa2_\*\.txt"):
        read_stories(stories, 2)
    with pytest.raises(StoryError, match="cannot read"):
        read_stories(tmp_path / "none", 1)


def test_the_facts_stand_in_the_text_once_and_in_order(
    stories: Path, tiny_model: BaseModel
) -> None:
    prose = Prose("The sea was calm. Nobody spoke.\n" * 50)
    story = read_stories(stories, 1)[1]
    for seed in range(5):
        hidden = scattered(story, seed)
        text = "".join(Haystack(prose, tiny_model.tokenizer, 1500, hidden, seed))
        places = [text.index(fact) for fact in story.facts]
        assert places == sorted(places)
        assert all(text.count(fact) == 1 for fact in story.facts)
        assert story.question not in text
    assert scattered(story, 0) == scattered(story, 0) != scattered(story, 1)


def test_a_reply_may_repeat_the_question_and_name_no_other_answer() -> None:
    story = Story((), "What did Bill give to Jeff?", "pear")
    asked = asked_of(story, ["Bill", "Fred", "Jeff", "apple", "pear"])
    assert asked.text.startswith(story.question)
    assert set(asked.others) == {"Fred", "apple"}
    assert is_correct("Bill gave the pear to Jeff.", asked.values[0], asked.others)
    assert not is_correct("The pear or the apple.", asked.values[0], asked.others)
