"""What a user says of himself, cut into statements; greetings, requests and questions are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.learning.recipes.replay.examples import may_be_voiced
from hope_runtime.learning.statements.english.clauses import (
    as_introduction,
    clause_starts,
    standing_alone,
)
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.word_order import questions_by_word_order
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span


def parts(text: str) -> list[str]:
    starts = clause_starts(text)
    ends = [*starts[1:], len(text)]
    return [standing_alone(text[a:b]) for a, b in zip(starts, ends, strict=True)]


@pytest.mark.parametrize(
    ("said", "statements"),
    [
        (
            "I'm studying Japanese and I was born in October.",
            ["I'm studying Japanese.", "I was born in October."],
        ),
        (
            "My name is Tom, I live in Leeds, and my dog is called Rex",
            ["My name is Tom.", "I live in Leeds.", "My dog is called Rex."],
        ),
        (
            "I\u2019m Odila and the colour I like best is red.",
            ["I\u2019m Odila.", "The colour I like best is red."],
        ),
        (
            " I work as a baker, but my sister is a nurse.",
            ["I work as a baker.", "My sister is a nurse."],
        ),
        # One thing is said, or one depends on the other.
        ("I like tea and cake.", ["I like tea and cake."]),
        ("If it rains I stay home, and I read.", ["If it rains I stay home, and I read."]),
        ("I was born and raised in Leeds.", ["I was born and raised in Leeds."]),
        ("Guess what, I don't know and my oh my.", ["Guess what, I don't know and my oh my."]),
    ],
)
def test_two_statements_are_cut_and_one_is_not(said: str, statements: list[str]) -> None:
    assert parts(said) == statements


@given(st.text("aI m'y,and.TomX", max_size=60) | st.text(max_size=60))
def test_cuts_leave_no_letter_out(text: str) -> None:
    starts = clause_starts(text)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert all(at < len(text) for at in starts[1:])


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("I'm Tamsin.", "My name is Tamsin."),
        ("Hi, I am Odila Marsh!", "My name is Odila Marsh."),
        ("People call me Bo.", "My name is Bo."),
        ("I'm Julian.", "My name is Julian."),
        ("I'm Megan.", "My name is Megan."),
        ("I'm Eric, by the way.", "I'm Eric, by the way."),
        ("I'm Polish.", "I'm Polish."),
        ("I'm Nigerian.", "I'm Nigerian."),
        ("I'm German.", "I'm German."),
        ("I am Catholic.", "I am Catholic."),
        ("I'm hungry.", "I'm hungry."),
        ("I'm Tamsin's brother.", "I'm Tamsin's brother."),
        ("Call me tomorrow.", "Call me tomorrow."),
        ("I am Groot and you are not.", "I am Groot and you are not."),
    ],
)
def test_who_says_what_he_is_called_introduces_himself(said: str, meant: str) -> None:
    assert as_introduction(said) == meant


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("I'm allergic to celery.", "What am I allergic to?"),
        ("I've been learning the cello.", "What have I been learning?"),
        ("I study Welsh in the evenings.", "What do I study?"),
        ("I'm learning Polish at the moment.", "What am I learning?"),
        ("I was born in October.", "When was I born?"),
        ("I moved to Leeds last year.", "Where did I move to?"),
        ("My sister's name is Odila.", "What is my sister's name?"),
        ("I need a lift to the airport.", "What do I need a lift to?"),
    ],
)
def test_word_order_understands_how_people_talk_of_themselves(
    statement: str, question: str
) -> None:
    assert questions_by_word_order(statement)[0] == question


@pytest.mark.parametrize(
    ("said", "voiced"),
    [
        ("My dog is called Pip.", True),
        ("Zanthor lives in Oslo.", True),
        ("The door code is 4821.", True),
        ("Hi!", False),
        ("Nice to meet you.", False),
        ("Let me introduce myself.", False),
        ("Tell me a joke.", False),
        ("What is my dog called?", False),
        ("Where does Zanthor live?", False),
    ],
)
def test_only_what_was_stated_is_said_again(base_model, said: str, voiced: bool) -> None:
    span = Span(tuple(base_model.tokenizer.encode(said)), Speaker.USER, 0)
    assert may_be_voiced(Statement(span, said), Names(base_model.tokenizer)) is voiced
