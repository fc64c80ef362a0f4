"""English statements: their questions, their values, and which takes the place of which."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from itertools import product

import pytest

from hope_lab.evaluate.data.corrected_facts import corrections
from hope_lab.evaluate.data.specificity_sets import conflict_set, specificity_set
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.parser import EnglishParser
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.words import of_another
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span

PARSER = EnglishParser()


@pytest.fixture(scope="module")
def names(chat_model):
    return Names(chat_model.tokenizer)


def told(text, start=0):
    plain = Statement(Span((1,), Speaker.USER, start), text)
    return replace(plain, questions=tuple(PARSER.questions(plain.stated)))


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("My sister is called Clara.", ["What is my sister called?", "What is my sister's name?"]),
        ("Ben Hale has a parrot called Zephyr.", ["What is Ben Hale's parrot called?"]),
        ("I work as a florist.", ["What is my job?", "What do I do for a living?"]),
        ("The drink I like most is kefir.", ["What is my favourite drink?"]),
        ("I moved to Porto last month.", ["Where do I live?"]),
        ("Mein Hund heißt Rex.", []),
        ("Is my sister called Clara?", []),
    ],
)
def test_questions_in_the_statements_own_words_and_in_others(text, questions):
    asked = PARSER.questions(text)
    assert set(questions) <= set(asked)
    assert bool(asked) == bool(questions)
    assert not any(PARSER.value(text) in question for question in asked)


@pytest.mark.parametrize(
    ("text", "plain", "value"),
    [
        ("My cat is now called Bruno.", "My cat is called Bruno.", "Bruno"),
        ("Actually, my boss's name is Igor.", "My boss's name is Igor.", "Igor"),
        ("My colour is no longer teal, it is blue.", "My colour is blue.", "blue"),
        ("My cat is not called Ada but Bruno.", "My cat is called Bruno.", "Bruno"),
        ("I sold the Mazda and bought a Lancia.", "I have a Lancia.", "Lancia"),
        ("I no longer play hockey, I play judo.", "I play judo.", "judo"),
        ("I have moved to Nantes.", "I live in Nantes.", "Nantes"),
        ("I no longer work as a cook, I am a baker now.", "I am a baker.", "baker"),
        ("I used to live in Oslo, but now I live in Ghent.", "I live in Ghent.", "Ghent"),
        ("I don't play the harp any more, I play the flute.", "I play the flute.", "flute"),
        ("My dog is called Rex.", "My dog is called Rex.", "Rex"),
    ],
)
def test_a_correction_is_understood_as_what_holds_now(text, plain, value):
    assert PARSER.plainly(text) == plain
    assert PARSER.value(text) == value


def test_corrections_of_all_wordings_take_the_place_of_what_was_told(names):
    missed = []
    for seed in (0, 100):
        for pair in corrections(seed, 20):
            old, new = told(pair.first), told(pair.later, 100)
            # What the memory answers to the new one's questions, where it must tell.
            if not PARSER.supersedes(new, old, names, [pair.old]):
                missed.append(pair.later)
            else:
                instead = PARSER.in_its_place(new, old)
                assert pair.new in instead.text
                assert pair.old not in instead.text
                assert instead.questions == old.questions
                assert instead.span == new.span
    assert not missed


def test_nothing_else_is_corrected(names):
    """No fact of a set takes the place of another: all of them hold together."""
    for seed, facts in product((0, 1, 100, 101), (6, 12)):
        which = specificity_set(seed, facts, "chat")
        sentences = [
            sentence.strip(".") + "."
            for messages in which.conversations
            for message in messages
            for sentence in message.split(". ")
        ]
        items = [told(text, 100 * index) for index, text in enumerate(sentences)]
        for new, old in product(items, items):
            if new is not old:
                assert not PARSER.supersedes(new, old, names, [""]), (new.text, old.text)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("My cat is called Ada.", "My cat is black."),
        ("My sister is called Clara.", "My brother is called Piet."),
        ("I play the harp.", "I play tennis."),
        ("Ines lives in Oslo now.", "Gregor lives in Madrid."),
        ("My cat is called Ada.", "My cat is called Ada."),
        ("I like tea.", "I like cake."),
    ],
)
def test_what_holds_beside_the_earlier_is_no_correction(new, old, names):
    assert not PARSER.supersedes(told(new, 100), told(old), names, [PARSER.value(old)])


def test_the_library_asks_nothing_that_is_evaluated():
    library = {anchor.question for anchor in PARSER.library}
    assert len(library) > 300
    for seed in (*range(6), *range(100, 106)):
        sets = [specificity_set(seed, facts, "chat") for facts in (1, 3, 6, 30)]
        sets += [specificity_set(seed, 6, "document"), conflict_set(seed)]
        assert not library & {probe.text for which in sets for probe in which.probes}


def test_what_a_statement_answers_is_found_by_words_and_topics():
    def answered(text):
        return {PARSER.library[place].question for place in PARSER.answered_by_words(told(text))}

    assert "Which city do I live in?" in answered("My home is in Ghent.")
    assert "What is my job?" in answered("I earn my living as a florist.")
    assert "What is my mother called?" not in answered("My sister is called Clara.")
    # What was told of somebody else says nothing about the speaker.
    assert "Where do I live?" not in answered("Ines lives in Oslo.")


def test_neighbours_hold_no_value_and_ask_nothing_that_was_told(names):
    items = [told("My sister is called Clara."), told("Ben Hale lives in Oslo.", 100)]
    rng = random.Random(0)
    near = PARSER.near(items, [], names, rng)
    own = {question for item in items for question in item.questions}
    assert len(near) >= 8
    assert not own & set(near)
    assert not any("Clara" in question or "Oslo" in question for question in near)
    swapped = [PARSER.swapped(items[0], items, names, rng) for _ in range(20)]
    asked = {pair.question for pair in swapped if pair}
    assert len(asked) > 5
    assert not own & asked
    begun = PARSER.begun(items)
    assert len(begun) > 30
    assert not any(pair.question in own for pair in begun)


def test_no_neighbour_is_answered_by_what_was_told_earlier(names):
    new = [told("Krufad lives in Oslo."), told("My sister is called Clara.", 100)]
    earlier = [told("Krufad works as a welder.", 200), told("My brother is called Ivo.", 300)]
    about: set[str] = set()
    for seed in range(20):
        alone = PARSER.near(new, [], names, random.Random(seed))
        beside = PARSER.near(new, earlier, names, random.Random(seed))
        assert not any("brother" in question for question in beside)
        assert len(beside) > len(alone) / 2
        about |= {question for question in beside if "Krufad" in question}
        for question in PARSER.unlike(new, earlier, random.Random(seed)):
            assert " my " in question
            assert "sister" not in question
            assert "brother" not in question
    assert about
    assert not any("work" in question or "job" in question for question in about)


def test_a_new_job_leaves_other_things_that_one_is(names):
    new = told("I no longer work as a cook, I am a baker now.", 100)
    replies = ["You work as a cook."] * 3
    assert PARSER.supersedes(new, told("I work as a cook."), names, replies)
    assert not PARSER.supersedes(new, told("I am allergic to walnuts."), names, replies)
    assert PARSER.specific(["What am I?", "I forgot: what am I?"]) == []


@pytest.mark.parametrize(
    ("text", "asked", "never"),
    [
        ("I am a baker.", "What is my job?", "What am I?"),
        ("I am 34 years old.", "How old am I?", "What am I?"),
        ("I have two children.", "How many children do I have?", "What do I have?"),
        ("My name is Ada.", "What is my name?", "What am I?"),
        # Nothing better is known.
        ("I am vegetarian.", "What am I?", "Who am I?"),
    ],
)
def test_questions_tell_what_they_ask_for(text, asked, never):
    found = PARSER.questions(text)
    assert asked in found
    assert never not in found
    assert [question.startswith("I forgot: ") for question in found].count(True) == 1


@pytest.mark.parametrize(
    ("question", "whose", "asked"),
    [
        ("Where do I live?", "Anna", "Where does Anna live?"),
        ("Where do I live?", "my wife", "Where does my wife live?"),
        ("What is my favourite colour?", "my niece", "What is my niece's favourite colour?"),
        ("What am I allergic to?", "you", "What are you allergic to?"),
        ("I forgot: what is my job?", "Oscar", "I forgot: what is Oscar's job?"),
    ],
)
def test_a_question_about_another(question, whose, asked):
    assert of_another(question, whose) == asked


def test_what_is_held_apart_is_said_of_the_model_of_others_and_of_ones_own_people(names):
    fact = told("My favourite colour is teal.")
    rng = random.Random(3)
    pairs = [PARSER.swapped(fact, [fact], names, rng) for _ in range(60)]
    answers = {pair.answer for pair in pairs}
    assert any(re.fullmatch(r"Your \w+'s favourite colour is teal\.", each) for each in answers)
    assert any(re.fullmatch(r"[A-Z]\w+'s favourite colour is teal\.", each) for each in answers)
    assert "My favourite colour is teal." in answers
    assert all(pair.question not in fact.questions for pair in pairs)
