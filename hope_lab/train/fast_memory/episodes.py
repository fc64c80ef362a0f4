"""Texts that are read and questions that only a memory of them can answer, from a seed.

A *story* is one window of text, a user's turn or a document, with the questions that may be asked
about it elsewhere. Stories of one episode are read one after the other into the same memory; each
question stands in a window of its own, so nothing but the memory knows the answer. What is told
later about the same thing replaces what was told earlier.

Knows the tokenizer and the chat template. Leaves wording to relations.py and names to people.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hope_lab.train.fast_memory import people
from hope_lab.train.fast_memory.relations import (
    RELATIONS,
    Asked,
    Relation,
    held_out_values,
    trained_values,
)
from hope_runtime.learning.prompt_prefixes import chat_opening, plain_opening
from hope_runtime.tokenizer import Tokenizer

FIRST_PERSON_SHARE = 0.25
CHAT_SHARE = 0.5
MOST_FACTS_A_STORY = 6
# Of the questions of training so many stand in a few more words.
WRAPPED_SHARE = 0.4

_Form = TypeVar("_Form", str, Asked)
Ids = tuple[int, ...]
Key = tuple[str, str]
"""What a fact is about: the person (empty for the user himself) and the relation."""


@dataclass(frozen=True, slots=True)
class Question:
    """`prompt` and `answer` are token ids after the chat's opening; the answer ends its turn.

    The tokens answer[value] are the value's own, `text` its letters.
    """

    about: Key
    prompt: Ids
    answer: Ids
    value: slice
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """`ids` of one window and which of them may be learnt; `questions`, one for each fact."""

    ids: Ids
    learnable: tuple[bool, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class _Fact:
    person: str
    relation: Relation
    value: str


class Storyteller:
    """Stories in one tokenizer's ids. With `held_out` names, values and wording are the ones that
    training never sees."""

    def __init__(self, tokenizer: Tokenizer, *, held_out: bool) -> None:
        self._tokenizer = tokenizer
        self._held_out = held_out
        pieces = tokenizer.turn_pieces([{"role": "user", "content": "?"}], first=True)
        place = next(index for index, piece in enumerate(pieces) if piece.is_content)
        self.opening: Ids = chat_opening(tokenizer)
        """What every chat begins with, up to the user's first word."""
        self._closing = self._template("".join(piece.text for piece in pieces[place + 1 :]))
        history = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        ids = tokenizer.encode_template(tokenizer.render(history, add_generation_prompt=False))
        self._end = tuple(token for token in ids if token in tokenizer.eos_ids)[-1:]
        self.document_opening: Ids = plain_opening(tokenizer)
        self._told = [relation for relation in RELATIONS if relation.told]
        self._own = [relation for relation in RELATIONS if relation.told_by_user]

    def story(self, rng: random.Random, facts: int = 0, earlier: Sequence[Key] = ()) -> Story:
        """A window of `facts` facts (some, when 0). Of `earlier` keys, some are told anew."""
        facts = facts or rng.randint(1, MOST_FACTS_A_STORY)
        made = self._facts(rng, facts, earlier)
        chat = rng.random() < CHAT_SHARE or any(not fact.person for fact in made)
        sentences = self._sentences(rng, made)
        text = ("\n" if rng.random() < 0.15 else " ").join(sentences)
        content = tuple(self._tokenizer.encode(text))
        before, after = (self.opening, self._closing) if chat else (self.document_opening, ())
        questions = tuple(self._question(rng, fact) for fact in made)
        learnable = (False,) * len(before) + (True,) * len(content) + (False,) * len(after)
        return Story((*before, *content, *after), learnable, questions)

    def _facts(self, rng: random.Random, count: int, earlier: Sequence[Key]) -> list[_Fact]:
        facts: list[_Fact] = []
        used: set[Key] = set()
        person = ""
        again = list(earlier)
        while len(facts) < count:
            if again:
                person, name = again.pop()
                relation = next(one for one in RELATIONS if one.name == name)
            else:
                if not facts or rng.random() < 0.6:
                    own = rng.random() < FIRST_PERSON_SHARE
                    person = "" if own else people.name(rng, held_out=self._held_out)
                relation = rng.choice(self._told if person else self._own)
            if (person, relation.name) in used:
                continue
            used.add((person, relation.name))
            facts.append(_Fact(person, relation, self._value(rng, relation)))
        if rng.random() < 0.5:
            rng.shuffle(facts)
        return facts

    def _sentences(self, rng: random.Random, facts: Sequence[_Fact]) -> list[str]:
        sentences = []
        before = None
        for fact in facts:
            forms = fact.relation.told if fact.person else fact.relation.told_by_user
            form = self._pick(rng, forms)
            who = fact.person
            if fact.person == before and form.startswith("{n} ") and rng.random() < 0.3:
                who = "She" if sum(map(ord, fact.person)) % 2 else "He"
            before = fact.person
            sentence = form.format(n=who, v=fact.value)
            if rng.random() < 0.1:
                sentence = self._pick(rng, _ASIDES) + " " + sentence
            sentences.append(sentence)
        return sentences

    def _question(self, rng: random.Random, fact: _Fact) -> Question:
        pairs = fact.relation.asked if fact.person else fact.relation.asked_by_user
        question, answer = self._pick(rng, pairs)
        before, after = answer.split("{v}")
        lead = before.format(n=fact.person)
        question = question.format(n=fact.person)
        if not self._held_out and rng.random() < WRAPPED_SHARE:
            question = rng.choice(_WRAPPED).format(q=question)
        prompt = (*self._tokenizer.encode(question), *self._closing)
        whole = self._tokenizer.encode(lead + fact.value + after)
        first = len(self._tokenizer.encode(lead.rstrip()))
        last = len(self._tokenizer.encode(lead + fact.value))
        about = (fact.person, fact.relation.name)
        return Question(about, prompt, (*whole, *self._end), slice(first, last), fact.value)

    def _value(self, rng: random.Random, relation: Relation) -> str:
        if relation.digits:
            while True:
                low = 10 ** (relation.digits - 1)
                number = rng.randrange(low, 10 * low)
                if (number % 7 == 0) == self._held_out:
                    return str(number)
        if not relation.values:
            return people.name(rng, held_out=self._held_out)
        held, trained = held_out_values(relation), trained_values(relation)
        return rng.choice(held if self._held_out else trained)

    def _pick(self, rng: random.Random, forms: Sequence[_Form]) -> _Form:
        if len(forms) < 3:
            return rng.choice(forms)
        return forms[-1] if self._held_out else rng.choice(forms[:-1])

    def _template(self, text: str) -> Ids:
        return tuple(self._tokenizer.encode_template(text))


_ASIDES = ("By the way,", "It is true that", "I heard that", "Remember this:", "As far as I know,",
           "Note:")  # fmt: skip
_WRAPPED = (
    "Quick question: {q}", "I have a question. {q}", "{q} Please answer in one sentence.",
    "Hello! {q}", "{q} I can't recall.", "Tell me this. {q}", "Hi there. {q} Thanks!",
    "Let's see what you know. {q}", "One more thing: {q}", "{q} You were told.",
)  # fmt: skip
