"""Facts that a memory is taught and asked about: invented ones from a seed, or a file of foreign
ones.  Knows how items are made, read and checked. Leaves telling them to teaching.py and asking to
asking.py; the wording is in relations.py."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hope_lab.evaluate.data.relations import RELATIONS, Relation
from hope_runtime.errors import HopeError

# A quarter of the facts are about the user himself.
FIRST_PERSON_SHARE = 0.25
FACTS_PER_PERSON = 3
_REQUIRED = ("told", "question", "completion", "value", "others")


class ItemError(HopeError):
    """A file of items cannot be used; the message names line and key."""


@dataclass(frozen=True, slots=True)
class Item:
    """One fact. `completion` is `told` up to the value, without the space before it.

    `others` are wrong values of the same kind. `unseen` asks the same of somebody who is never
    mentioned; None where nobody can be put in the subject's place.
    """

    told: str
    question: str
    completion: str
    value: str
    others: tuple[str, ...]
    unseen: str | None = None


def mentions(text: str, value: str) -> bool:
    """Whether `value` stands in `text` as whole words, in any case and spacing."""
    words = r"\s+".join(re.escape(word) for word in value.split())
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def generate(count: int, seed: int) -> list[Item]:
    """`count` facts about invented people and the user; the same for the same seed.

    A person has one fact a relation. Values of a relation come again only when all were used.
    """
    if count < 1:
        raise ItemError("at least one fact is required")
    rng = random.Random(f"items:{seed}")
    own = [relation for relation in RELATIONS if relation.told_by_user]
    rng.shuffle(own)
    own = own[: round(count * FIRST_PERSON_SHARE)]
    values = {relation.name: _endless(relation.values, rng) for relation in RELATIONS}
    names = invented_names(rng)
    items = [_own_fact(relation, next(values[relation.name]), next(names), rng) for relation in own]
    person = ""
    for index, relation in enumerate(_take(_cycle(RELATIONS, rng), count - len(own))):
        if index % FACTS_PER_PERSON == 0:
            person = next(names)
        items.append(_fact(relation, person, next(values[relation.name]), next(names), rng))
    rng.shuffle(items)
    return items


def facts_of(
    relation: Relation, count: int, names: Iterator[str], rng: random.Random
) -> list[Item]:
    """`count` facts of one relation about different people; a value comes again only when all
    were used."""
    values = _endless(relation.values, rng)
    return [_fact(relation, next(names), next(values), next(names), rng) for _ in range(count)]


def read_items(path: Path, count: int, seed: int) -> list[Item]:
    """At most `count` items of a JSON Lines file, sampled by the seed, in the file's order.

    Each line is an object with `told`, `question`, `completion`, `value` (strings), `others`
    (a list of strings), and perhaps `subject`, the name in the question that an invented one may
    replace. Raises ItemError naming the line and the key that is wrong.
    """
    rng = random.Random(f"items:{seed}")
    names = invented_names(rng)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ItemError(f"cannot read items from {path}: {error}") from error
    parsed = [
        _parse(line, f"{path.name}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not parsed:
        raise ItemError(f"{path} contains no items")
    chosen = sorted(rng.sample(range(len(parsed)), min(count, len(parsed))))
    told = " ".join(item.told for item, _ in parsed)
    fresh = (name for name in names if not mentions(told, name))
    return [_retargeted(*parsed[index], next(fresh)) for index in chosen]


def invented_names(rng: random.Random) -> Iterator[str]:
    """Distinct names of one or two words made of syllables; no two share a word."""
    used: set[str] = set()
    while True:
        words = [_word(rng) for _ in range(rng.choice((1, 2)))]
        if len(set(words)) == len(words) and used.isdisjoint(words):
            used.update(words)
            yield " ".join(words)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ONSETS = _parts("B Br D Dr F G Gr H J K Kr L M N P Pl R S Sk T Tr V W Y Z Th Sh Qu")
_MIDDLES = _parts("b d f g k l ll m n nd p r rr s st t v z lm rv")
_VOWELS = _parts("a e i o u a e i o ai ei oa")
_CODAS = _parts("l n r k m th nd x d v lt rn")


def _word(rng: random.Random) -> str:
    """Two or three syllables; it never ends in s, so that 's can follow."""
    word = rng.choice(_ONSETS) + rng.choice(_VOWELS)
    for _ in range(rng.choice((1, 1, 2))):
        word += rng.choice(_MIDDLES) + rng.choice(_VOWELS)
    return word + (rng.choice(_CODAS) if rng.random() < 0.6 else "")


def _fact(relation: Relation, name: str, value: str, stranger: str, rng: random.Random) -> Item:
    template, question = rng.choice(relation.told), rng.choice(relation.asked)
    told = template.replace("{name}", name)
    unseen = question.format(name=stranger)
    return _filled(relation, told, question.format(name=name), value, unseen)


def _own_fact(relation: Relation, value: str, stranger: str, rng: random.Random) -> Item:
    told, question = rng.choice(relation.told_by_user), rng.choice(relation.asked_by_user)
    unseen = rng.choice(relation.asked).format(name=stranger)
    return _filled(relation, told, question, value, unseen)


def _filled(relation: Relation, told: str, question: str, value: str, unseen: str) -> Item:
    return Item(
        told=told.format(value=value),
        question=question,
        completion=told.partition("{value}")[0].rstrip(),
        value=value,
        others=tuple(other for other in relation.values if other != value),
        unseen=unseen,
    )


def _cycle(relations: Sequence[Relation], rng: random.Random) -> Iterator[Relation]:
    """All relations again and again in one shuffled order, so that neighbours differ."""
    order = list(relations)
    rng.shuffle(order)
    while True:
        yield from order


def _endless(values: Sequence[str], rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(values, len(values))


def _take(relations: Iterator[Relation], count: int) -> Iterable[Relation]:
    return (next(relations) for _ in range(count))


def _parse(line: str, place: str) -> tuple[Item, str | None]:
    """The item of a line and its subject."""
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ItemError(f"{place}: not valid JSON ({error.msg})") from None
    if not isinstance(found, dict):
        raise ItemError(f"{place}: an item must be an object with the keys {', '.join(_REQUIRED)}")
    for key in _REQUIRED:
        if key not in found:
            raise ItemError(f"{place}: the key '{key}' is missing")
    for key in (*_REQUIRED[:-1], "subject"):
        text = found.get(key, "-")
        if not isinstance(text, str) or not text.strip():
            raise ItemError(f"{place}: '{key}' must be a non-empty string")
    others = found["others"]
    if not isinstance(others, list) or not all(isinstance(x, str) and x.strip() for x in others):
        raise ItemError(f"{place}: 'others' must be a list of non-empty strings")
    value, subject = found["value"], found.get("subject")
    if not mentions(found["told"], value):
        raise ItemError(f"{place}: 'told' must contain 'value'")
    if mentions(found["completion"], value):
        raise ItemError(f"{place}: 'completion' must not contain 'value'")
    if mentions(found["question"], value):
        raise ItemError(f"{place}: 'question' must not contain 'value'")
    if any(mentions(value, other) for other in others):
        # The right reply would count as wrong.
        raise ItemError(f"{place}: no entry of 'others' may equal or be part of 'value'")
    if subject is not None and not mentions(found["question"], subject):
        raise ItemError(f"{place}: 'question' must contain 'subject'")
    texts = {key: found[key] for key in ("told", "question", "value")}
    item = Item(completion=found["completion"].rstrip(), others=tuple(others), **texts)
    return item, subject


def _retargeted(item: Item, subject: str | None, stranger: str) -> Item:
    if subject is None:
        return item
    pattern = re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)", re.IGNORECASE)
    unseen = pattern.sub(stranger, item.question)
    return Item(item.told, item.question, item.completion, item.value, item.others, unseen)
