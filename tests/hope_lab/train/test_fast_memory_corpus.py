"""The corpus of the fast memory and the texts that are made of it: format, and what is held out."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from hope_lab.evaluate.data import items
from hope_lab.evaluate.data.everyday import EVERYDAY
from hope_lab.evaluate.data.relations import RELATIONS as JUDGES
from hope_lab.train.fast_memory import people
from hope_lab.train.fast_memory.corpus import (
    CorpusError,
    general_questions,
    parse,
    relations,
    value_is_held_out,
)
from hope_lab.train.fast_memory.episodes import LEAST_BEFORE, Split, Storyteller
from hope_lab.train.fast_memory.features import round_texts
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(chat_model: BaseModel) -> Tokenizer:
    return chat_model.tokenizer


def test_texts_are_a_function_of_the_seed(tokenizer: Tokenizer) -> None:
    teller = Storyteller(tokenizer, Split.TRAINED)
    assert round_texts(teller, 3, 5, 12) == round_texts(teller, 3, 5, 12)
    assert round_texts(teller, 3, 5, 12) != round_texts(teller, 3, 6, 12)
    assert round_texts(teller, 3, 5, 12) != round_texts(teller, 4, 5, 12)


@pytest.mark.parametrize("split", Split)
def test_the_value_is_told_once_and_only_the_answer_has_it(
    tokenizer: Tokenizer, split: Split
) -> None:
    teller = Storyteller(tokenizer, split)
    for story in round_texts(teller, 0, 0, 60).stories:
        told = tokenizer.decode(
            [i for i, learnable in zip(story.ids, story.learnable, strict=True) if learnable]
        )
        for question in story.questions:
            assert question.text.lower() in told.lower()
            prompt = tokenizer.decode(question.prompt).split("<|", 1)[0]
            own = question.about[0] or "nobody"
            assert not items.mentions(prompt.replace(own, ""), question.text)
            value = tokenizer.decode(question.answer[question.value])
            cut = question.is_completion and question.value.stop == len(question.answer)
            if not cut:
                assert question.text.lower() in value.strip().lower()
                assert len(value.strip()) <= len(question.text) + 2, "quotes or an apostrophe"
            assert (question.answer[-1] in tokenizer.eos_ids) is not question.is_completion


def test_completions_are_sentences_that_break_off_before_the_value(tokenizer: Tokenizer) -> None:
    teller = Storyteller(tokenizer, Split.TRAINED)
    texts = round_texts(teller, 0, 0, 60)
    completions = [one for one in texts.questions if one.is_completion]
    assert 0.15 < len(completions) / len(texts.questions) < 0.4
    for one in completions:
        assert teller.opening_of(one) == teller.document_opening
        assert len(one.prompt) >= LEAST_BEFORE
        assert one.value.start == 0


def test_only_what_is_told_may_be_learnt(tokenizer: Tokenizer) -> None:
    teller = Storyteller(tokenizer, Split.TRAINED)
    for story in round_texts(teller, 0, 0, 30).stories:
        first = story.learnable.index(True)
        assert story.ids[:first] in (teller.opening, teller.document_opening)
        after = [i for i, ok in zip(story.ids, story.learnable, strict=True) if not ok][first:]
        assert bool(after) == (story.ids[:first] == teller.opening)


def test_names_values_and_relations_are_held_out(tokenizer: Tokenizer) -> None:
    """No relation, name or value of evaluation is ever seen in training."""
    about: dict[Split, set[str]] = {}
    values: dict[Split, set[str]] = {}
    for split in Split:
        teller = Storyteller(tokenizer, split)
        questions = round_texts(teller, 1, 0, 200).questions
        about[split] = {question.about[1] for question in questions}
        values[split] = {question.text for question in questions}
        people_asked = {
            question.about[0]
            for question in questions
            for relation in relations()
            if relation.name == question.about[1] and relation.about == "person"
        }
        held_out = {people.is_held_out(name) for name in people_asked if name}
        assert held_out == {split is not Split.TRAINED}
    assert not about[Split.TRAINED] & about[Split.UNSEEN]
    assert about[Split.KNOWN] & about[Split.TRAINED]
    words = {value for value in values[Split.TRAINED] if not value.isdigit()}
    drawn = {value for one in relations() for value in one.values}
    assert not any(value_is_held_out(value) for value in words & drawn)
    assert not values[Split.TRAINED] & values[Split.KNOWN]


def test_one_relation_in_ten_and_one_value_in_eight_are_held_out() -> None:
    whole = relations()
    assert len(whole) > 900
    assert 0.08 < sum(one.is_held_out for one in whole) / len(whole) < 0.12
    values = [value for one in whole for value in one.values]
    assert 0.11 < sum(map(value_is_held_out, values)) / len(values) < 0.14
    assert all(one.values_of(held_out=False) for one in whole if one.values)
    assert all(
        sorted(one.values) == sorted(one.values_of(held_out=True) + one.values_of(held_out=False))
        for one in whole
    )


GOOD = {
    "name": "x_colour",
    "about": "thing",
    "subjects": ["the {w} bridge"],
    "told": ["They painted {n} {v}.", "{n} is {v} now.", "Everybody sees {n} in {v}."],
    "asked": [["Colour of {n}?", "{v}."], ["How does {n} look?", "It is {v}."],
              ["Which paint did {n} get?", "It got {v}."]],
    "told_by_user": [],
    "asked_by_user": [],
    "values": ["dusty pink", "rust"],
    "digits": 0,
}  # fmt: skip


def test_a_line_of_the_corpus_is_read() -> None:
    (relation,) = parse([json.dumps(GOOD), ""], "x.jsonl")
    assert relation.name == "x_colour"
    assert relation.asked[0] == ("Colour of {n}?", "{v}.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "X colour"),
        ("about", "animal"),
        ("subjects", []),
        ("subjects", ["the {n} bridge"]),
        ("told", ["They painted it {v}.", "{n} is {v} now.", "Everybody sees {n} in {v}."]),
        ("told", ["They painted {n}.", "{n} is {v} now.", "Everybody sees {n} in {v}."]),
        ("told", ["{n} is {v} and {v}.", "{n} is {v} now.", "Everybody sees {n} in {v}."]),
        ("told", ["{n} is {v} now.", "{n} is {v} now.", "Everybody sees {n} in {v}."]),
        ("told", ["{n} is {v} now."]),
        ("asked", [["Is {n} {v}?", "{v}."], *GOOD["asked"][1:]]),
        ("asked", [["Colour of {n}?", "No idea."], *GOOD["asked"][1:]]),
        ("asked", [["Colour of {x}, {n}?", "{v}."], *GOOD["asked"][1:]]),
        ("told_by_user", GOOD["told"]),
        ("values", ["rust", "deep rust"]),
        ("digits", 4),
        ("more", 1),
    ],
)
def test_a_broken_line_is_refused_with_its_place(field: str, value: Any) -> None:
    with pytest.raises(CorpusError, match=r"x\.jsonl, line 2"):
        list(
            parse(
                [json.dumps(GOOD), json.dumps(GOOD | {"name": "x_other", field: value})], "x.jsonl"
            )
        )


def test_nothing_here_is_what_recall_is_judged_by() -> None:
    """`hope evaluate recall` has wording and values of its own, so nothing is fitted to it."""

    def plain(form: str) -> str:
        return form.replace("{name}", "{n}").replace("{value}", "{v}").lower()

    judged = {
        plain(form)
        for relation in JUDGES
        for form in (
            *relation.told,
            *relation.asked,
            *relation.told_by_user,
            *relation.asked_by_user,
        )
    }
    trained = {
        form.lower()
        for relation in relations()
        for form in (
            *relation.told,
            *relation.told_by_user,
            *(question for question, _ in (*relation.asked, *relation.asked_by_user)),
        )
    }
    assert not judged & trained
    judged_values = {value.lower() for relation in JUDGES for value in relation.values}
    trained_values = {value.lower() for relation in relations() for value in relation.values}
    assert not judged_values & trained_values
    everyday = {question.lower() for question, _ in EVERYDAY}
    assert not everyday & {question.lower() for question in general_questions()}
    drawn = items.generate(40, 0)
    names = {people.name(random.Random(i), held_out=False) for i in range(200)}
    assert not any(name in item.told.split() for name in names for item in drawn)
