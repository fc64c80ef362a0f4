"""Items: what the generator promises for every seed, and what a file of items may hold."""

from __future__ import annotations

import json
import random
import re
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_lab.evaluate.data.everyday import EVERYDAY, unrelated
from hope_lab.evaluate.data.items import ItemError, generate, invented_names, mentions, read_items
from hope_lab.evaluate.data.relations import RELATIONS

SEEDS = st.integers(0, 1 << 32)
GOOD: dict[str, Any] = {
    "told": "Bo lives in Oslo.",
    "question": "Where is Bo at home?",
    "completion": "Bo lives in ",
    "value": "Oslo",
    "others": ["Rome", "Bern"],
}


@given(SEEDS, st.integers(1, 90))
def test_every_generated_item_is_sound(seed: int, count: int) -> None:
    items = generate(count, seed)
    assert len(items) == count
    for item in items:
        assert item.told.startswith(item.completion + " " + item.value)
        assert item.value not in item.others
        assert not mentions(item.question, item.value)
        assert not mentions(item.completion, item.value)
        assert item.unseen is not None
        assert not mentions(item.unseen, item.value)
        assert "{" not in item.told + item.question + item.unseen
        assert item.unseen != item.question
    assert len({(item.question, item.value) for item in items}) == count


@given(SEEDS)
def test_values_are_not_repeated_while_there_are_others(seed: int) -> None:
    values = [item.value for item in generate(60, seed)]
    assert len(set(values)) == len(values)


@given(SEEDS)
def test_a_quarter_of_the_facts_are_the_users_own(seed: int) -> None:
    items = generate(40, seed)
    own = [item for item in items if re.search(r"\b(I|me|my)\b", item.question, re.IGNORECASE)]
    # "Which city should I ..." of somebody else's facts may count too.
    assert 10 <= len(own) <= 18


def test_the_same_seed_gives_the_same_items_and_another_one_others() -> None:
    assert generate(30, 5) == generate(30, 5)
    assert generate(30, 5) != generate(30, 6)
    assert generate(1, 0)


@given(SEEDS)
def test_invented_names_share_no_word(seed: int) -> None:
    words = " ".join(islice(invented_names(random.Random(seed)), 40)).split()
    assert len(set(words)) == len(words)
    assert not any(word.endswith("s") for word in words)


def test_relations_are_many_and_their_values_cannot_be_mistaken_for_each_other() -> None:
    assert len(RELATIONS) >= 14
    for relation in RELATIONS:
        assert len(relation.values) >= 12
        assert len(relation.told) >= 2
        assert len(relation.asked) >= 3
        assert bool(relation.told_by_user) == bool(relation.asked_by_user)
        for template in (*relation.told, *relation.told_by_user):
            assert not template.startswith("{value}")
            assert template.count("{value}") == 1
            if " a {value}" in template:
                assert not any(value[0].lower() in "aeio" for value in relation.values)
        assert all("{name}" in text for text in (*relation.told, *relation.asked))
        assert not any("{name}" in text for text in relation.told_by_user + relation.asked_by_user)
    for one, other in combinations([v for r in RELATIONS for v in r.values], 2):
        assert not mentions(one, other)
        assert not mentions(other, one)


def test_everyday_questions_and_their_answers_hold_no_value() -> None:
    values = [value for relation in RELATIONS for value in relation.values]
    assert len(unrelated(values)) == len(EVERYDAY) >= 20
    assert len(unrelated(["Paris", "spider"])) == len(EVERYDAY) - 2


def write(path: Path, *lines: object) -> Path:
    file = path / "items.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return file


def test_foreign_items_are_read_and_their_subject_is_replaced(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, "", GOOD | {"subject": "Bo", "extra": 1})
    plain, named = read_items(file, 30, seed=0)
    assert plain.completion == "Bo lives in"
    assert plain.others == ("Rome", "Bern")
    assert plain.unseen is None
    assert named.unseen is not None
    assert re.fullmatch(r"Where is [A-Z]\w+( [A-Z]\w+)? at home\?", named.unseen)
    assert "Bo " not in named.unseen


def test_foreign_items_are_sampled_by_the_seed(tmp_path: Path) -> None:
    lines = [GOOD | {"told": f"Fact {n:02}: Bo lives in Oslo."} for n in range(20)]
    file = write(tmp_path, *lines)
    samples = [[item.told for item in read_items(file, 5, seed)] for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert all(before < after for before, after in pairwise(samples[0]))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[1]", "an item must be an object"),
        ({"told": None}, "'told' must be a non-empty string"),
        ({"question": " "}, "'question' must be a non-empty string"),
        ({"others": "Rome"}, "'others' must be a list"),
        ({"others": ["Rome", ""]}, "'others' must be a list"),
        ({"others": ["oslo"]}, "no entry of 'others'"),
        ({"value": "Bern"}, "'told' must contain 'value'"),
        ({"completion": "Bo lives in Oslo"}, "'completion' must not contain 'value'"),
        ({"question": "Is it Oslo?"}, "'question' must not contain 'value'"),
        ({"subject": "Al"}, "'question' must contain 'subject'"),
        ({"subject": 3}, "'subject' must be a non-empty string"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: str | dict[str, Any], complaint: str) -> None:
    file = write(tmp_path, GOOD, change if isinstance(change, str) else GOOD | change)
    with pytest.raises(ItemError, match=f"items.jsonl, line 2: .*{re.escape(complaint)}"):
        read_items(file, 30, seed=0)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    file = write(tmp_path, {name: text for name, text in GOOD.items() if name != key})
    with pytest.raises(ItemError, match=f"line 1: the key '{key}' is missing"):
        read_items(file, 30, seed=0)


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="contains no items"):
        read_items(write(tmp_path, ""), 30, seed=0)
    with pytest.raises(ItemError, match="cannot read"):
        read_items(tmp_path / "missing.jsonl", 30, seed=0)
