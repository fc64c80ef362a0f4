"""A user's sentence as the plain statements that it makes, and indirect questions."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from hope_lab.evaluate.data import specificity_facts as facts_of
from hope_runtime.learning.statements.english.indirect import indirect
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.parser import EnglishParser
from hope_runtime.learning.statements.english.restated import restated
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.words import anchors, of_another
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span

PARSER = EnglishParser()


def said(text: str, *, start: int = 0, speaker: Speaker = Speaker.USER) -> list[Statement]:
    return PARSER.parts(Statement(Span((1,), speaker, start), text))


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        (
            "My daughter Mirja is seven.",
            ["My daughter is called Mirja.", "My daughter Mirja is seven years old."],
        ),
        ("My wife, Ana, works as a nurse.",
         ["My wife is called Ana.", "My wife Ana works as a nurse."]),
        ("My best friend Tom collects stamps.",
         ["My best friend is called Tom.", "My best friend Tom collects stamps."]),
        (
            "Our dog is called Brontë, she is a whippet.",
            ["My dog is called Brontë.", "My dog Brontë is a whippet."],
        ),
        ("My sister's name is Ana and she lives in Rome.",
         ["My sister is called Ana.", "My sister Ana lives in Rome."]),
        ("Mirja turned eight today.", ["Mirja is eight years old."]),
        ("I'm 34.", ["I am 34 years old."]),
        ("I've just turned 35.", ["I am 35 years old."]),
        ("We live in Oslo.", ["I live in Oslo."]),
        ("My cat's called Ada.", ["My cat is called Ada."]),
        # These are plain, or say something else.
        ("My cat is called Ada.", ["My cat is called Ada."]),
        ("My dog Pip is called Bo now.", ["My dog Pip is called Bo now."]),
        ("My son Tom is no longer a nurse.", ["My son Tom is no longer a nurse."]),
        ("My number is seven.", ["My number is seven."]),
        ("We are five.", ["We are five."]),
        ("I turned seven pages.", ["I turned seven pages."]),
        ("My car Monday is blue.", ["My car Monday is blue."]),
        ("My favourite Beatle is Ringo.", ["My favourite Beatle is Ringo."]),
        ("Mein Hund heißt Rex.", ["Mein Hund heißt Rex."]),
    ],
)  # fmt: skip
def test_a_sentence_makes_plain_statements(text: str, statements: list[str]) -> None:
    assert [one.text for one in restated(text)] == statements


def test_of_somebody_with_a_name_is_asked_by_what_he_is_to_the_speaker_too() -> None:
    [naming, age] = said("My daughter Mirja is seven.")
    assert "What is my daughter called?" in naming.questions
    assert {"How old is Mirja?", "How old is my daughter?"} <= set(age.questions)
    [_, breed] = said("My dog is called Pip, she is a whippet.")
    assert {"What breed is Pip?", "What breed is my dog?"} <= set(breed.questions)
    [_, work] = said("My wife Ana works as a nurse.")
    assert {"What does Ana work as?", "What does my wife work as?"} <= set(work.questions)
    held = {anchors()[place].question for place in PARSER.answered_by_words(age)}
    assert "How old is my daughter?" in held


def test_questions_that_were_practised_go_back_to_their_statements() -> None:
    asked = ("What is my daughter called?", "How old is Mirja?", "Which age is Mirja?")
    whole = Statement(Span((1,), Speaker.USER, 0), "My daughter Mirja is seven.", asked)
    [naming, age] = PARSER.parts(whole)
    assert naming.questions == asked[:1]
    assert age.questions == asked[1:]


def test_a_documents_sentence_is_left_as_it_is() -> None:
    [one] = said("My daughter Mirja is seven.", speaker=Speaker.DOCUMENT)
    assert one.text == "My daughter Mirja is seven."


def test_a_birthday_takes_the_place_of_the_age_alone(chat_model) -> None:
    names = Names(chat_model.tokenizer)
    [naming, age] = said("My daughter Mirja is seven.")
    [later] = said("Mirja turned eight today.", start=9)
    assert PARSER.supersedes(later, age, names, ())
    assert not PARSER.supersedes(later, naming, names, ())
    assert PARSER.in_its_place(later, age).text == "My daughter Mirja is eight years old."
    [mine], [new] = said("I'm 34."), said("I turned 35 yesterday.", start=9)
    assert PARSER.supersedes(new, mine, names, ())
    [_, home] = said("My sister Ana lives in Rome.")
    [moved] = said("Ana lives in Oslo now.", start=9)
    assert PARSER.supersedes(moved, home, names, ())
    [other] = said("Tom lives in Oslo now.", start=9)
    assert not PARSER.supersedes(other, home, names, ())


def test_neighbours_of_somebody_with_a_name_are_others(chat_model) -> None:
    names, rng = Names(chat_model.tokenizer), random.Random(0)
    [_, age] = said("My daughter Mirja is seven.")
    near = PARSER.near([age], [], names, rng)
    assert any(re.fullmatch(r"How old is [A-Z][a-z]+\?", question) for question in near)
    assert not any("Mirja" in question for question in near)
    pairs = [PARSER.swapped(age, [age], names, rng) for _ in range(40)]
    assert all(pair and not {pair.question} & set(age.questions) for pair in pairs)


@pytest.mark.parametrize(
    ("question", "clause"),
    [
        ("Where do I live?", "where I live"),
        ("How old am I?", "how old I am"),
        ("What have I taken up?", "what I have taken up"),
        ("What is my dog called?", "what my dog is called"),
        ("What is my dog's name?", "what my dog's name is"),
        ("How old is Mirja?", "how old Mirja is"),
        ("What does Ana work as?", "what Ana works as"),
        ("What does my wife study?", "what my wife studies"),
        ("Which city does Ana live in?", "which city Ana lives in"),
    ],
)
def test_a_question_can_be_asked_indirectly(question: str, clause: str) -> None:
    asked = indirect(question)
    assert asked is not None
    assert f" {clause}" in asked


@pytest.mark.parametrize(
    "question",
    ["What did I buy?", "What is Ada afraid of?", "Is my dog old?", "Tell me my name.", "Wo?", ""],
)
def test_what_is_not_understood_has_no_indirect_form(question: str) -> None:
    assert indirect(question) is None


def test_indirect_questions_can_be_asked_of_others() -> None:
    assert of_another("Can you tell me how old I am?", "Tom") == "Can you tell me how old Tom is?"
    assert of_another("Do you know how old I am?", "you") == "Do you know how old you are?"


def test_what_cannot_be_asked_of_another_is_no_contrast(chat_model) -> None:
    names, rng = Names(chat_model.tokenizer), random.Random(0)
    [name] = said("My name is Linnea.")
    name = replace(name, questions=tuple(PARSER.questions(name.stated)))
    assert {"What am I called?", "How should you address me?"} <= set(name.questions)
    pairs = [pair for _ in range(60) if (pair := PARSER.swapped(name, [name], names, rng))]
    assert not {pair.question for pair in pairs} & set(name.questions)
    assert any(re.match("How should you address [A-Z]", pair.question) for pair in pairs)


def test_indirect_anchors_are_none_of_the_evaluations_questions() -> None:
    asked = {question for one in facts_of.ATTRIBUTES for question in one.asked}
    assert not asked & {anchor.question for anchor in anchors()}
