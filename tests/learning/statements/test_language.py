"""What is derived from a statement: persons, names, questions. No value that is not in the span."""

from __future__ import annotations

import random

import pytest

from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.persons import is_first_person, to_second_person
from hope_runtime.learning.statements.english.questions import answers
from hope_runtime.learning.statements.english.word_order import (
    questions_by_word_order,
    value_of,
)


@pytest.fixture(scope="module")
def names(base_model):
    return Names(base_model.tokenizer)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("My name is Tamsin.", "Your name is Tamsin."),
        ("I am allergic to nuts.", "You are allergic to nuts."),
        ("Ada gave me her book.", "Ada gave you her book."),
        ("Zanthor lives in Oslo.", "Zanthor lives in Oslo."),
        ("Ich wohne in Riga.", "Ich wohne in Riga."),
    ],
)
def test_what_users_say_of_themselves_is_said_to_them(said, told):
    assert to_second_person(said) == told


def test_only_the_speaker_is_the_first_person():
    assert is_first_person("They like my cat.")
    assert not is_first_person("Mya likes Ian.")


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("Zanthor lives in Oslo.", "Where does Zanthor live?"),
        ("Brisa's boat is called the Daisy.", "What is Brisa's boat called?"),
        ("Oderic is married to Mira Stone.", "Who is Oderic married to?"),
        ("My name is Tamsin.", "What is my name?"),
        ("I work as a welder.", "What do I work as?"),
        ("By the way, my dentist is called Bo Hallin.", "What is my dentist called?"),
        ("Lorcan studied in Porto.", "Where did Lorcan study?"),
        ("I have taken up the harp.", "What have I taken up?"),
        ("At the altar Oderic said yes to Mira Stone.", "Who did Oderic say yes to at the altar?"),
        ("Every Saturday Brisa plays handball.", "What does Brisa play every Saturday?"),
        ("Ishara works as a baker these days.", "What does Ishara work as?"),
    ],
)
def test_word_order_finds_the_question(statement, question):
    assert question in questions_by_word_order(statement)


@pytest.mark.parametrize(
    "text",
    ["Oslo.", "", "Where does Zanthor live?", "It was Elijah.", "Er wohnt in Riga!", "a b c"],
)
def test_what_is_no_plain_statement_gives_no_question(text):
    assert questions_by_word_order(text) == []


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("Zanthor lives in Oslo.", "Oslo"),
        ("Brisa's favourite colour is olive green.", "olive green"),
        ("These days I earn my living as a baker.", "baker"),
        ("Letters for Pavo go to Cobden Gate.", "Cobden Gate"),
        ("Yes!", None),
    ],
)
def test_what_a_statement_tells_stands_at_its_end(statement, value):
    assert value_of(statement) == value


def test_a_question_never_holds_the_value():
    values = {"Zanthor lives in Oslo.": "Oslo", "Pavo's door code is 4821.": "4821"}
    for statement, value in values.items():
        assert all(value not in question for question in questions_by_word_order(statement))


@pytest.mark.parametrize(
    ("question", "accepted"),
    [
        ("Where does Zanthor live?", True),
        ("Where does Brisa live?", False),  # a stranger
        ("Did Zanthor live in Oslo in 1999?", False),  # a number from nowhere
        ("Where do I live?", False),  # another person
        ("Zanthor lives in Oslo?", False),  # nothing left to answer
        ("Where does Zanthor live", False),
    ],
)
def test_a_generated_question_brings_nothing_of_its_own(names, question, accepted):
    assert answers(names, question, "Zanthor lives in Oslo.") is accepted


def test_names_are_found_and_the_beginning_of_a_sentence_is_none(names):
    assert names.find("The teacher of Ada Wren is Zorvan.") == ["Ada Wren", "Zorvan"]
    assert names.find("There was nobody.") == []
    assert names.find("I like Oslo.") == ["Oslo"]
    assert names.find("Every Saturday Ada Wren sings.") == ["Ada Wren"]


def test_invented_names_are_reproducible_and_many(names):
    first = [names.invent(random.Random(3)) for _ in range(2)]
    assert first[0] == first[1]
    rng = random.Random(0)
    assert len({names.invent(rng) for _ in range(200)}) > 190
