"""Tasks whose lessons come in sessions: what they teach and ask, and what their matrices say."""

from __future__ import annotations

import random

import pytest

from hope_lab.evaluate.data.intents import CLASSES, UTTERANCES, make_intents
from hope_lab.evaluate.data.items import facts_of, invented_names, mentions
from hope_lab.evaluate.data.relations import RELATIONS
from hope_lab.evaluate.report.retention import matrices, square, summary
from hope_lab.evaluate.tasks import forgetting, incremental
from hope_runtime.errors import InvalidRequestError


def test_no_utterance_is_taught_and_tested_or_means_two_intents() -> None:
    intents = make_intents(0, CLASSES, 9, UTTERANCES - 9)
    said = [text for intent in intents for text in (*intent.taught, *intent.tested)]
    assert len(said) == len(set(said)) == CLASSES * UTTERANCES
    labels = [intent.label for intent in intents]
    assert len(set(labels)) == CLASSES
    assert not any(mentions(text, label) for text in said for label in labels)
    assert make_intents(0, 5, 3, 2) == make_intents(0, 5, 3, 2) != make_intents(1, 5, 3, 2)


def test_classes_arrive_in_sessions_and_all_so_far_are_asked() -> None:
    course = incremental.make_course(0, 3, 2, 4, 3, "chat")
    assert [len(lesson.text) for lesson in course.lessons] == [8] * 3
    assert [len(lesson.asked) for lesson in course.lessons] == [6, 12, 18]
    for lesson in course.lessons:
        labels = {asked.values[0] for asked in lesson.asked}
        for asked in lesson.asked:
            # Against every label so far, and none that is still to come.
            assert {*asked.values, *asked.others} == labels
            assert not mentions(asked.text, asked.values[0])
    taught = "\n".join(part for lesson in course.lessons for part in lesson.parts)
    for asked in course.lessons[-1].asked:
        assert mentions(taught, asked.values[0])
        assert f'"{asked.text.split(chr(34))[1]}"' not in taught
    with pytest.raises(InvalidRequestError, match="exceed"):
        incremental.make_course(0, 10, 10, 4, 3, "chat")
    with pytest.raises(InvalidRequestError, match="exceed"):
        incremental.make_course(0, 2, 2, UTTERANCES, 1, "chat")


def test_each_session_is_about_another_subject_and_other_people() -> None:
    course = forgetting.make_course(0, len(RELATIONS), 2, "chat")
    assert [len(lesson.asked) for lesson in course.lessons] == [
        2 * (index + 1) for index in range(len(RELATIONS))
    ]
    last = course.lessons[-1].asked
    assert [asked.about for asked in last] == [
        str(index + 1) for index in range(len(RELATIONS)) for _ in range(2)
    ]
    assert course == forgetting.make_course(0, len(RELATIONS), 2, "chat")
    assert course != forgetting.make_course(1, len(RELATIONS), 2, "chat")
    for lesson in course.lessons:
        for asked in lesson.asked[-2:]:
            assert sum(mentions(text, asked.values[0]) for text in lesson.text) == 1
            assert not mentions(asked.text, asked.values[0])


def test_facts_of_a_relation_use_every_value_before_one_comes_again() -> None:
    rng = random.Random(0)
    relation = RELATIONS[0]
    items = facts_of(relation, len(relation.values), invented_names(rng), rng)
    assert {item.value for item in items} == set(relation.values)
    assert len({item.question for item in items}) == len(items)


def test_a_summary_by_hand() -> None:
    found = summary([[0.8], [0.6, 1.0], [0.7, 0.5, 0.9]])
    assert found["learnt"] == pytest.approx((0.8 + 1.0 + 0.9) / 3)
    assert found["final"] == pytest.approx((0.7 + 0.5 + 0.9) / 3)
    # Of the first at most 0.8 was known and 0.7 is left, of the second 1.0 and 0.5.
    assert found["forgetting"] == pytest.approx((0.1 + 0.5) / 2)
    assert summary([[0.5]])["forgetting"] is None
    assert set(summary([[0.5], [None, 0.5]]).values()) == {None}


def test_a_matrix_for_each_arm_and_policy() -> None:
    rows = [
        {"arm": arm, "policy": policy, "after": after, "about": about, "score": score}
        for arm, policy in (("frozen", None), ("memory", "p"))
        for after, about, score in (("a", "a", 1.0), ("b", "a", 0.5), ("b", "b", 0.25))
    ]
    found = matrices(rows, ("a", "b"))
    assert [(item["arm"], item["policy"]) for item in found] == [("frozen", None), ("memory", "p")]
    assert found[1]["matrix"] == [[1.0], [0.5, 0.25]]
    assert found[1]["forgetting"] == 0.5
    assert square(found[1]["matrix"]) == [[1.0, None], [0.5, 0.25]]
