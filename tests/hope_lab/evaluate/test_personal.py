"""What users say about themselves: one message, and replies that speak to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_lab.evaluate.data.course import Asked
from hope_lab.evaluate.data.items import mentions
from hope_lab.evaluate.tasks.personal import in_right_person, make_course, to_the_user


@given(st.integers(0, 1000), st.integers(0, 5), st.integers(1, 12))
def test_a_user_tells_every_value_once_and_no_question_gives_one_away(
    seed: int, person: int, facts: int
) -> None:
    course = make_course(seed, person, facts)
    assert make_course(seed, person, facts) == course
    (lesson,) = course.lessons
    assert lesson.messages is not None
    (message,) = lesson.messages
    assert len(lesson.asked) == facts
    for asked in lesson.asked:
        (value,) = asked.values
        assert message.count(value) == 1
        assert not any(mentions(other.text, value) for other in lesson.asked)
        assert value not in asked.others
        assert not any(mentions(message, o) and o not in _told(lesson.asked) for o in asked.others)


def _told(asked: tuple[Asked, ...]) -> set[str]:
    return {one.values[0] for one in asked}


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Your name is Tamsin.", True),
        ("Tamsin.", True),
        ("It is Tamsin. I remember it well.", True),
        ("I believe that you are called Tamsin.", True),
        ("My name is Tamsin.", False),
        ("I'm Tamsin.", False),
        ("I am Tamsin. You told me so.", False),
    ],
)
def test_a_reply_about_the_assistant_is_in_the_wrong_person(reply: str, right: bool) -> None:
    assert in_right_person(reply) is right
    assert to_the_user([(Asked("Who am I?", ("Tamsin",)), reply)])[0] == float(right)


def test_the_right_person_with_a_wrong_value_is_wrong() -> None:
    asked = Asked("Who am I?", ("Tamsin",), ("Wexler",))
    for reply in ("Your name is Wexler.", "You are Tamsin Wexler.", "You never told me."):
        assert to_the_user([(asked, reply)])[0] == 0
