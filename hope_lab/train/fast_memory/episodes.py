"""Texts that are read and questions that only a memory of them can answer, from a seed.

A *story* is one window of text, a user's turn or a document, with the questions that may be asked
about it elsewhere: questions in a chat, and completions, sentences of a plain text that break off
before the value. Stories of one episode are read one after the other into the same memory; each
question stands in a window of its own, so nothing but the memory knows the answer. What is told
later about the same thing replaces what was told earlier.

Knows the tokenizer and the chat template. Leaves wording to corpus and names to people.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hope_lab.train.fast_memory import people
from hope_lab.train.fast_memory.corpus import Relation, relations
from hope_runtime.learning.prompt_prefixes import chat_opening, plain_opening
from hope_runtime.tokenizer import Tokenizer

FIRST_PERSON_SHARE = 0.3
CHAT_SHARE = 0.5
SAME_PERSON_SHARE = 0.4
MOST_FACTS_A_STORY = 6
# Of the questions of training so many stand in a few more words.
WRAPPED_SHARE = 0.4
# Of the facts so many are asked as a completion, too.
COMPLETION_SHARE = 0.35
# What stands before the value of a completion, in tokens, and how much is asked from there on.
LEAST_BEFORE, MOST_BEHIND = 6, 12

Ids = tuple[int, ...]
Key = tuple[str, str]
"""Subject of a fact: the person or thing (empty for the user) and the relation."""


class Split(Enum):
    """Relations, names and values that texts are made of. KNOWN are the relations of training
    with names and values that training never sees, UNSEEN relations that it never sees either."""

    TRAINED = "trained"
    KNOWN = "known"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Question:
    """`prompt` and `answer` are token ids after the opening of a chat, or of a plain text for a
    completion; a chat's answer ends its turn. The tokens answer[value] are the value's own, `text`
    its letters."""

    about: Key
    is_completion: bool
    prompt: Ids
    answer: Ids
    value: slice
    text: str


@dataclass(frozen=True, slots=True)
class Story:
    """`ids` of one window and which of them may be learnt; `questions`, at least one a fact."""

    ids: Ids
    learnable: tuple[bool, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class _Fact:
    subject: str
    relation: Relation
    value: str

    @property
    def about(self) -> Key:
        return self.subject, self.relation.name

    @property
    def forms(self) -> tuple[str, ...]:
        return self.relation.told if self.subject else self.relation.told_by_user

    @property
    def is_person(self) -> bool:
        return bool(self.subject) and self.relation.about == "person"


class Storyteller:
    """Stories of one split in one tokenizer's ids."""

    def __init__(self, tokenizer: Tokenizer, split: Split) -> None:
        self._tokenizer = tokenizer
        self._held_out = split is not Split.TRAINED
        pieces = tokenizer.turn_pieces([{"role": "user", "content": "?"}], first=True)
        place = next(index for index, piece in enumerate(pieces) if piece.is_content)
        self.opening: Ids = chat_opening(tokenizer)
        """The tokens of every chat up to the user's first word."""
        self.closing: Ids = self._template("".join(piece.text for piece in pieces[place + 1 :]))
        """From behind the user's last word up to the first word of the reply."""
        history = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        ids = tokenizer.encode_template(tokenizer.render(history, add_generation_prompt=False))
        self._end = tuple(token for token in ids if token in tokenizer.eos_ids)[-1:]
        self.document_opening: Ids = plain_opening(tokenizer)
        chosen = [one for one in relations() if one.is_held_out == (split is Split.UNSEEN)]
        if split is Split.KNOWN:  # of few values, none may be held out
            chosen = [one for one in chosen if not one.values or one.values_of(held_out=True)]
        self._by_name = {relation.name: relation for relation in chosen}
        self._told = [relation for relation in chosen if relation.told]
        self._own = [relation for relation in chosen if relation.told_by_user]

    def opening_of(self, question: Question) -> Ids:
        """The tokens before a question's prompt."""
        return self.document_opening if question.is_completion else self.opening

    def story(self, rng: random.Random, facts: int = 0, earlier: Sequence[Key] = ()) -> Story:
        """A window of `facts` facts (some, when 0). Of `earlier` keys, some are told anew."""
        made = self._facts(rng, facts or rng.randint(1, MOST_FACTS_A_STORY), earlier)
        chat = rng.random() < CHAT_SHARE or any(not fact.subject for fact in made)
        told = self._sentences(rng, made)
        sentences = []
        for sentence in told:
            sentences.append(sentence)
            if rng.random() < 0.15:
                sentences.append(rng.choice(_BETWEEN))
        text = ("\n" if rng.random() < 0.15 else " ").join(sentences)
        content = tuple(self._tokenizer.encode(text))
        before, after = (self.opening, self.closing) if chat else (self.document_opening, ())
        questions: list[Question] = []
        for fact in made:
            questions.append(self._question(rng, fact))
            if rng.random() < COMPLETION_SHARE:
                questions += self._completion(rng, fact)
        learnable = (False,) * len(before) + (True,) * len(content) + (False,) * len(after)
        return Story((*before, *content, *after), learnable, tuple(questions))

    def _facts(self, rng: random.Random, count: int, earlier: Sequence[Key]) -> list[_Fact]:
        facts: list[_Fact] = []
        used: set[Key] = set()
        person: str | None = None
        again = list(earlier)
        while len(facts) < count:
            if again:
                subject, name = again.pop()
                relation = self._by_name[name]
            elif self._own and rng.random() < FIRST_PERSON_SHARE:
                subject, relation = "", rng.choice(self._own)
            else:
                relation = rng.choice(self._told)
                is_person = relation.about == "person"
                same = is_person and person is not None and rng.random() < SAME_PERSON_SHARE
                subject = person if same and person else self._subject(rng, relation)
                person = subject if is_person else None
            if (subject, relation.name) in used:
                continue
            used.add((subject, relation.name))
            facts.append(_Fact(subject, relation, self._value(rng, relation)))
        if rng.random() < 0.5:
            rng.shuffle(facts)
        return facts

    def _sentences(self, rng: random.Random, facts: Sequence[_Fact]) -> list[str]:
        sentences = []
        before = None
        for fact in facts:
            form = rng.choice(fact.forms)
            subject = fact.subject
            known = fact.is_person and subject == before and form.startswith("{n} ")
            if known and rng.random() < 0.3:
                subject = "She" if sum(map(ord, subject)) % 2 else "He"
            before = fact.subject
            sentence = _sentence(_filled(form, subject, fact.value))
            if rng.random() < 0.1:
                sentence = f"{rng.choice(_ASIDES)} {sentence}"
            sentences.append(sentence)
        return sentences

    def _question(self, rng: random.Random, fact: _Fact) -> Question:
        relation = fact.relation
        asked, answer = rng.choice(relation.asked if fact.subject else relation.asked_by_user)
        text = _sentence(_filled(asked, fact.subject))
        if not self._held_out and rng.random() < WRAPPED_SHARE:
            text = rng.choice(_WRAPPED).format(q=text)
        lead, behind = answer.split("{v}")
        lead = _sentence(_filled(lead, fact.subject))
        value = fact.value if lead else _sentence(fact.value)
        whole, place = self._around(lead, value, _filled(behind, fact.subject))
        prompt = (*self._tokenizer.encode(text), *self.closing)
        return Question(fact.about, False, prompt, (*whole, *self._end), place, fact.value)

    def _completion(self, rng: random.Random, fact: _Fact) -> list[Question]:
        """A told form of the fact up to its value; none where too little stands before it."""
        lead, behind = _filled(rng.choice(fact.forms), fact.subject).split("{v}")
        whole, place = self._around(_sentence(lead), fact.value, behind)
        first = place.start
        if (
            first < LEAST_BEFORE
            or tuple(self._tokenizer.encode(_sentence(lead).rstrip())) != (whole[:first])
        ):
            return []
        answer = whole[first : first + MOST_BEHIND]
        value = slice(0, min(place.stop - first, len(answer)))
        return [Question(fact.about, True, whole[:first], answer, value, fact.value)]

    def _around(self, lead: str, value: str, behind: str) -> tuple[Ids, slice]:
        """The tokens of a sentence, and the place of its value's tokens among them."""
        encode = self._tokenizer.encode
        whole = tuple(encode(lead + value + behind))
        first = len(encode(lead.rstrip()))
        return whole, slice(first, min(max(first + 1, len(encode(lead + value))), len(whole)))

    def _value(self, rng: random.Random, relation: Relation) -> str:
        if relation.digits:
            low = 10 ** (relation.digits - 1)
            while True:
                number = rng.randrange(low, 10 * low)
                if (number % 7 == 0) == self._held_out:
                    return str(number)
        if not relation.values:
            return people.name(rng, held_out=self._held_out)
        return rng.choice(relation.values_of(held_out=self._held_out) or relation.values)

    def _subject(self, rng: random.Random, relation: Relation) -> str:
        if relation.about == "person":
            return people.name(rng, held_out=self._held_out)
        return people.filled(rng, rng.choice(relation.subjects), held_out=self._held_out)

    def _template(self, text: str) -> Ids:
        return tuple(self._tokenizer.encode_template(text))


def _filled(form: str, subject: str, value: str | None = None) -> str:
    filled = form.replace("{n}", subject)
    return filled if value is None else filled.replace("{v}", value)


def _sentence(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


_ASIDES = (
    "By the way,", "It is true that", "I heard that", "Remember this:", "As far as I know,",
    "Note:", "Fun fact:", "Also,", "FYI,", "Just so you know,", "For the record,"
)  # fmt: skip
_BETWEEN = (
    "Nice weather, isn't it?", "I have had a long day.", "Thanks for your help earlier.",
    "Let me tell you a few things.", "Please keep this in mind.", "It rained all morning.",
    "Nothing else happened.", "We talked about it for a while.", "Everybody agreed.",
    "More about that later.", "That was all for the day.", "I hope you are well.",
)  # fmt: skip
_WRAPPED = (
    "Quick question: {q}", "I have a question. {q}", "{q} Please answer in one sentence.",
    "Hello! {q}", "{q} I can't recall.", "Tell me this. {q}", "Hi there. {q} Thanks!",
    "Let's see what you know. {q}", "One more thing: {q}", "{q} You were told.", "{q} Be brief.",
    "Do you know this? {q}", "Can you help me? {q}", "I am curious. {q}", "Please tell me: {q}",
    "{q} I need the answer now.", "Good morning. {q}", "Sorry to ask again. {q}", "Hey, {q}",
    "Somebody asked me: {q}", "{q} I would like to know.", "{q} It is important.",
)  # fmt: skip
