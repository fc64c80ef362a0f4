"""Sets of the task `specificity`: conversations that tell something, and probes asked afterwards.

Knows how facts, corrections and conflicts become conversations and which questions lie next to
them; teaching, asking and figures are in specificity.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hope_lab.evaluate.data import specificity_facts as facts_of
from hope_lab.evaluate.data.corrected_facts import corrections
from hope_lab.evaluate.data.items import invented_names, mentions
from hope_lab.evaluate.data.specificity_facts import half, wording

# Groups of neighbouring questions: the speaker's other affairs, the same of other people, the
# model itself, the world, and the same wording about something else.
NEIGHBOURS = ("speaker", "others", "model", "world", "near")
OWN, KEPT = "own", "kept"
# In one conversation, in one of its own for each fact, or in a document.
Told = Literal["chat", "conversations", "document"]
# At least 30 together, whatever is told.
_COUNTS = {"speaker": 9, "others": 8, "model": 5, "world": 8, "near": 9}
FACTS_PER_MESSAGE = 3
# Of facts told in chat, those about somebody else.
NAMED_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Probe:
    """One question. `values` are right answers (empty for a neighbour), `others` wrong ones; a
    reply about the speaker must be in the right person where `personal`."""

    text: str
    group: str
    values: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    personal: bool = False


@dataclass(frozen=True, slots=True)
class Set:
    """Conversations, each of messages, for one memory, and what is asked after the last. `taught`
    are all values that were told; `facts` how many."""

    part: str
    seed: int
    facts: int
    told: Told
    conversations: tuple[tuple[str, ...], ...]
    probes: tuple[Probe, ...]
    taught: tuple[str, ...]
    label: str = ""

    @property
    def key(self) -> list[Any]:
        """All that replies depend on besides who gives them, as JSON."""
        texts = [probe.text for probe in self.probes]
        return [self.told, [list(messages) for messages in self.conversations], texts]


@dataclass(frozen=True, slots=True)
class _Fact:
    """`key` is what it is about; `others` makes its question about another person, `near` about
    another thing of the same."""

    key: str
    told: str
    asked: tuple[str, ...]
    value: str
    wrong: tuple[str, ...]
    personal: bool
    others: Callable[[random.Random], str]
    near: Callable[[random.Random], str]


def specificity_set(seed: int, count: int, told: Told) -> Set:
    """`count` facts told, two questions about each, and at least 30 next to them."""
    rng = random.Random(f"specificity:{seed}:{count}:{told}")
    facts = list(_facts(seed, count, told, rng))
    values = [fact.value for fact in facts]
    probes = [
        Probe(text, OWN, (fact.value,), (*fact.wrong, *_but(values, fact.value)), fact.personal)
        for fact in facts
        for text in fact.asked
    ]
    sentences = [fact.told for fact in facts]
    messages = tuple(
        " ".join(sentences[at : at + FACTS_PER_MESSAGE])
        for at in range(0, len(sentences), FACTS_PER_MESSAGE)
    )
    probes += _neighbours(seed, facts, rng)
    conversations: tuple[tuple[str, ...], ...] = (messages,)
    if told == "conversations":
        conversations = tuple((sentence,) for sentence in sentences)
    return Set("specificity", seed, count, told, conversations, tuple(probes), tuple(values))


def correction_set(seed: int, index: int, count: int) -> Set:
    """One pair of `count`, beside a statement about something else that must stay."""
    pair = corrections(seed, count)[index]
    rng = random.Random(f"bystander:{seed}:{index}")
    value = next(invented_names(rng)).split()[0]
    noun = rng.choice([noun for noun in ("bakery", "canoe", "goat") if noun not in pair.first])
    told = f"My {noun} is called {value}."
    probes = [Probe(text, OWN, (pair.new,), (pair.old, value)) for text in pair.asked]
    probes.append(Probe(f"What is my {noun} called?", KEPT, (value,), (pair.old, pair.new)))
    conversations = ((told, pair.first), (pair.later,))
    taught = (pair.old, pair.new, value)
    return Set(
        "corrections", seed, 2, "chat", conversations, tuple(probes), taught, label=pair.wording
    )


def conflict_set(seed: int) -> Set:
    """Three things told that the base knows otherwise, and what lies next to them."""
    rng = random.Random(f"conflicts:{seed}")
    chosen = rng.sample(half(facts_of.CONFLICTS, seed), 3)
    probes = []
    for _, _, asked, value, known, _ in chosen:
        probes += [Probe(text, OWN, (value,), (known,)) for text in asked]
    probes += [Probe(text, "near") for *_, near in chosen for text in near]
    world = half(facts_of.GENERAL_ASKED, seed)
    probes += [Probe(text, "world") for text in world if not _about(text, chosen)]
    message = " ".join(told for _, told, *_ in chosen)
    taught = tuple(value for _, _, _, value, _, _ in chosen)
    return Set("conflicts", seed, 3, "document", ((message,),), tuple(probes), taught)


def _about(text: str, chosen: Sequence[tuple[Any, ...]]) -> bool:
    return any(mentions(text, subject) for subject, *_ in chosen)


def _but(values: Sequence[str], own: str) -> tuple[str, ...]:
    return tuple(value for value in values if value != own)


def _facts(seed: int, count: int, told: Told, rng: random.Random) -> Iterator[_Fact]:
    """Facts of different kinds: attributes and named things in turn, of the speaker and of others;
    the speaker's own name first when there are three or more."""
    names = (name.split()[0] for name in invented_names(rng))
    attributes = half(facts_of.ATTRIBUTES, seed)
    nouns = half(facts_of.NOUNS, seed)
    rng.shuffle(attributes)
    rng.shuffle(nouns)
    given: dict[str, str] = {}
    first = rng.random() < 0.5
    for index in range(count):
        named = told == "document" or rng.random() < NAMED_SHARE
        if index == 0 and count >= 3 and told != "document":
            yield _own_name(seed, next(names), rng)
            continue
        turn = index // 2
        person = next(names) if named else ""
        if (index % 2 == 0) is first:
            noun = nouns[turn % len(nouns)]
            # The same noun again is another person's.
            if turn >= len(nouns) and not person:
                person = next(names)
            yield _noun_fact(seed, noun, person, next(names), rng)
        else:
            attribute = attributes[turn % len(attributes)]
            if turn >= len(attributes) and not person:
                person = next(names)
            pool = [v for v in half(attribute.values, seed) if given.get(v) is None]
            value = rng.choice(pool or half(attribute.values, seed))
            given[value] = attribute.key
            yield _attribute_fact(seed, attribute, person, value, rng)


def _own_name(seed: int, value: str, rng: random.Random) -> _Fact:
    asked = half(facts_of.OWN_NAME_ASKED, seed)
    told = wording(facts_of.OWN_NAME_TOLD, seed, rng).format(v=value)
    return _Fact(
        "name", told, tuple(asked[:2]), value, (), True,
        lambda r: f"What is the name of {r.choice(half(facts_of.STRANGERS, seed))}'s wife?",
        lambda r: f"Do you know the name of my {r.choice(half(facts_of.OTHER_NOUNS, seed))}?",
    )  # fmt: skip


def _noun_fact(seed: int, noun: str, person: str, value: str, rng: random.Random) -> _Fact:
    asked = half(facts_of.NOUN_ASKED_NAME if person else facts_of.NOUN_ASKED, seed)
    told = facts_of.NOUN_OF_NAME if person else facts_of.NOUN_TOLD
    strangers, nouns = half(facts_of.STRANGERS, seed), half(facts_of.OTHER_NOUNS, seed)
    by_name = half(facts_of.NOUN_ASKED_NAME, seed)

    def others(r: random.Random) -> str:
        if not person and r.random() < 0.25:
            return f"Do you have a {noun}?"
        return r.choice(by_name).format(n=r.choice(strangers), x=noun)

    def near(r: random.Random) -> str:
        return r.choice(asked).format(n=person, x=r.choice(nouns))

    return _Fact(
        f"{person}:{noun}",
        wording(told, seed, rng).format(n=person, x=noun, v=value),
        tuple(text.format(n=person, x=noun) for text in asked),
        value, (), not person, others, near,
    )  # fmt: skip


def _attribute_fact(
    seed: int, attribute: facts_of.Attribute, person: str, value: str, rng: random.Random
) -> _Fact:
    told = attribute.of_name if person else wording(attribute.told, seed, rng)
    asked = attribute.asked_name if person else tuple(half(attribute.asked, seed))
    strangers = half(facts_of.STRANGERS, seed)
    elsewhere = [each for each in half(facts_of.ATTRIBUTES, seed) if each.key != attribute.key]

    def others(r: random.Random) -> str:
        if r.random() < 0.15:
            return attribute.asked_you
        return r.choice(attribute.asked_name).format(n=r.choice(strangers))

    def near(r: random.Random) -> str:
        if person:
            return r.choice(r.choice(elsewhere).asked_name).format(n=person)
        noun = r.choice(half(facts_of.OTHER_NOUNS, seed))
        return r.choice(attribute.asked_name).format(n=f"my {noun}")

    wrong = tuple(v for v in half(attribute.values, seed) if v != value)
    return _Fact(
        f"{person}:{attribute.key}", told.format(n=person, v=value),
        tuple(text.format(n=person) for text in asked), value, wrong, not person, others, near,
    )  # fmt: skip


def _neighbours(seed: int, facts: Sequence[_Fact], rng: random.Random) -> list[Probe]:
    """At least 30 questions that none of `facts` answers, in five groups."""
    keys = {fact.key for fact in facts}
    own = {text for fact in facts for text in fact.asked}
    speaker = [text for _, text in half(facts_of.OWN_ASKED, seed)]
    for attribute in half(facts_of.ATTRIBUTES, seed):
        if f":{attribute.key}" not in keys:
            speaker += half(attribute.asked, seed)[:1]
    if "name" not in keys:
        speaker += half(facts_of.OWN_NAME_ASKED, seed)[:1]
    pools = {
        "speaker": speaker,
        "model": half(facts_of.MODEL_ASKED, seed),
        "world": half(facts_of.GENERAL_ASKED, seed),
    }
    probes = [
        Probe(text, group)
        for group, pool in pools.items()
        for text in rng.sample(pool, min(len(pool), _COUNTS[group]))
    ]
    for group in ("others", "near"):
        made: dict[str, None] = {}
        for turn in range(20 * _COUNTS[group]):
            fact = facts[turn % len(facts)]
            text = (fact.others if group == "others" else fact.near)(rng)
            if text not in own and len(made) < _COUNTS[group]:
                made[text] = None
        probes += [Probe(text, group) for text in made]
    return probes
