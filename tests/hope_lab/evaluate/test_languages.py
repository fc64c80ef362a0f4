"""Invented languages: regular, all different, and tested on sentences that were never taught."""

from __future__ import annotations

import pytest

from hope_lab.evaluate.data.languages import (
    Language,
    Meaning,
    Phrase,
    affixed,
    english,
    make_language,
    sentences,
)
from hope_lab.evaluate.scoring import translated, translation
from hope_lab.evaluate.tasks.ctnl import ALONE, FIRST, SECOND, SEQUENCE, make_courses

MEANING = Meaning(Phrase("dog", True, "old"), "follow", True, Phrase("boat", False))


def test_a_sentence_by_hand() -> None:
    words = {"dog": "zag", "old": "mur", "follow": "pel", "boat": "tin"}
    language = Language("Xic", words, "VOS", False, "ka-", "-mi", "-zu")
    assert language.say(MEANING) == "pelzu tinmi kazag mur"
    assert english(MEANING) == "the old dogs followed the boat"
    future = Meaning(Phrase("boat", False), "wash", False, Phrase("dog", True))
    assert english(future) == "the boat will wash the dogs"
    other = Language("Yic", words, "SOV", True, "-ka", "mi-", "zu-")
    assert other.say(MEANING) == "mur zagka mitin zupel"
    assert affixed("a", "-b") == "ab"
    assert affixed("a", "b-") == "ba"


def test_every_seed_and_number_has_a_language_of_its_own() -> None:
    languages = [make_language(seed, number) for seed in range(4) for number in range(2)]
    assert make_language(0, 1) == languages[1]
    assert len({language.name for language in languages}) == len(languages)
    assert len({language.say(MEANING) for language in languages}) == len(languages)
    for language in languages:
        # A lexicon that can be read back: no word means two things.
        assert len(set(language.lexicon.values())) == len(language.lexicon)
        assert not set(language.lexicon.values()) & set(language.lexicon)


@pytest.mark.parametrize("taught", [10, 40])
def test_no_tested_sentence_was_taught_and_all_of_its_words_were(taught: int) -> None:
    for seed in range(5):
        lessons, tests = sentences(seed, 0, taught, 12)
        assert (len(lessons), len(tests)) == (taught, 12)
        assert len({*lessons, *tests}) == taught + 12
        known = set().union(*(meaning.words for meaning in lessons))
        assert all(meaning.words <= known for meaning in tests)
        language = make_language(seed, 0)
        said = {language.say(meaning) for meaning in lessons}
        assert not said & {language.say(meaning) for meaning in tests}
        assert not set(map(english, lessons)) & set(map(english, tests))


def test_the_courses_teach_one_then_the_other_and_the_second_alone() -> None:
    both, alone = make_courses(3, 10, 4, "document")
    assert both.labels == {"course": SEQUENCE, "seed": 3}
    assert alone.labels == {"course": ALONE, "seed": 3}
    first, second = both.lessons
    assert [asked.about for asked in first.asked] == [FIRST] * 4
    assert [asked.about for asked in second.asked] == [FIRST] * 4 + [SECOND] * 4
    assert second.asked[:4] == first.asked
    assert alone.lessons[0].asked == second.asked[4:]
    assert alone.lessons[0].text == second.text
    for lesson in both.lessons:
        taught = "\n".join(lesson.parts)
        for asked in lesson.asked:
            assert f'"{asked.values[0]}"' not in taught
            assert asked.text.split('"')[1] not in [line.split('"')[1] for line in lesson.parts]


def test_a_translation_is_what_is_quoted_last_or_the_sentence() -> None:
    assert translation('"zag tin" means "the old dog".') == "the old dog"
    assert translation("The old dog washed the boat. It was wet.") == "The old dog washed the boat"
    assert translation('The "old dog".') == "old dog"
    assert translation('It says "the old dog') == 'It says "the old dog'


def test_perfect_translations_score_a_hundred() -> None:
    course = make_courses(0, 10, 4, "document")[1]
    asked = course.lessons[0].asked
    assert translated([(one, one.values[0]) for one in asked]) == (pytest.approx(100), (100, 100))
    score, interval = translated([(one, "zzz") for one in asked])
    assert score == 0
    assert interval == (0, 0)
