"""English statements: closed lists of function words and everyday questions, no knowledge of any
particular topic. Text in other languages matches nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from hope_runtime.learning.statements.english import corrections, neighbours
from hope_runtime.learning.statements.english.clauses import as_introduction, clause_starts
from hope_runtime.learning.statements.english.indirect import indirect
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.paraphrases import paraphrases
from hope_runtime.learning.statements.english.restated import (
    Restated,
    age_of,
    breed_questions,
    restated,
)
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.word_order import questions_by_word_order
from hope_runtime.learning.statements.english.words import anchors, keys_of_question
from hope_runtime.learning.statements.parser import Anchor, Exchange
from hope_runtime.session.log import Speaker

# "My cat is called V.", "I have a cat named V.", "X has a cat called V.", "X's cat's name is V."
_NAMED = re.compile(
    r"^(?:(?P<my>[Mm]y|[A-Z]\w*(?: [A-Z]\w*)*'s) (?P<noun>[a-z]+(?: [a-z]+)?)"
    r"(?: is| was|'s name is|'s name was) (?:called |named )?"
    r"|(?P<who>I|[A-Z]\w*(?: [A-Z]\w*)*) (?:have|has|had) (?:an?|one) "
    r"(?P<kept>[a-z]+(?: [a-z]+)?)(?: which is| who is)? (?:called|named) )(?P<value>[A-Z])"
)
# How many of the questions about somebody by name are asked by what they are to the user, too.
_ALIASED = 2
# A run of three digits or more, or digits and letters in one word: a number, a code, a UUID.
_ODD = re.compile(r"\d{3,}|(?<!\w)(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{4,}")
# One at the end of a sentence: text that goes on in lower case behind it is another one.
_ODD_END = re.compile(rf"(?:{_ODD.pattern})[.!?][\"'\u201d\u2019)]*(?=\s)")
# Questions that tell what they ask for without a key word: for the speaker's name, for an age.
_CLEAR = re.compile(r"\bmy name\b|\bwho am I\b|\bam I called\b|\bhow old\b", re.IGNORECASE)
_WHOM = frozenset([
    "mother", "father", "brother", "sister", "wife", "husband", "son", "daughter", "aunt",
    "uncle", "cousin", "grandmother", "grandfather", "friend", "teacher", "doctor", "nephew",
    "niece", "colleague", "partner", "boss", "neighbour", "neighbor", "landlord", "tutor",
])  # fmt: skip


class EnglishParser:
    """The parser of English; see StatementParser for what its methods do."""

    @property
    def library(self) -> Sequence[Anchor]:
        return anchors()

    def clause_starts(self, text: str) -> list[int]:
        return clause_starts(text)

    def questions(self, stated: str) -> list[str]:
        plain = corrections.plainly(stated)
        found = _naming_questions(plain) or _age_questions(plain)
        if not found:
            by_order = questions_by_word_order(plain)
            if re.search(r"\b(?:is|am) an? ", plain):  # what it is, not who
                by_order = [question for question in by_order if not question.startswith("Who")]
            others = paraphrases(plain)
            # In turn: the one is certain to fit, the other is how people ask.
            found = [*by_order[:1], *others, *by_order[1:]]
            # "What am I?" asks for everything, and would be answered with this alone.
            found = self.specific(found) or found
            found += _in_other_tones(found[:1])
        return list(dict.fromkeys(found))

    def parts(self, statement: Statement) -> list[Statement]:
        if statement.span.speaker is not Speaker.USER:
            return [statement]
        said = restated(statement.text)
        if [each.text for each in said] == [statement.text]:
            return [statement]
        parts = [replace(statement, text=one.text, questions=self._asked(one)) for one in said]
        if not statement.questions:
            return parts
        # Practised before: each question goes back to what it was asked of, others to the last.
        *others, last = parts
        left, shared = statement.questions, []
        for part in others:
            mine = tuple(question for question in left if question in part.questions)
            left = tuple(question for question in left if question not in mine)
            shared.append(replace(part, questions=mine))
        return [*shared, replace(last, questions=left)]

    def _asked(self, one: Restated) -> tuple[str, ...]:
        """Questions about somebody by name, and the likelier ones by what they are to the user."""
        plain = one.about or as_introduction(one.text)
        asked = breed_questions(one) or self.questions(plain)
        if one.alias:
            found = []
            for place, question in enumerate(asked):
                found.append(question)
                if place < _ALIASED and one.name in question:
                    found.append(question.replace(one.name, one.alias))
            asked = found
        return tuple(dict.fromkeys(asked))

    def specific(self, questions: Sequence[str]) -> list[str]:
        return [
            question
            for question in questions
            if keys_of_question(question) or _CLEAR.search(question)
        ]

    def value(self, stated: str) -> str:
        return corrections.value(stated)

    def is_odd(self, stated: str) -> bool:
        return bool(_ODD.search(corrections.value(stated)))

    def odd_starts(self, text: str) -> list[int]:
        ends = [found.end() for found in _ODD_END.finditer(text)]
        return [0, *(end for end in ends if end < len(text))]

    def answered_by_words(self, statement: Statement) -> list[int]:
        return neighbours.answered_by_words(statement)

    def begun(self, statements: Sequence[Statement]) -> list[Exchange]:
        return neighbours.begun(statements)

    def near(
        self,
        statements: Sequence[Statement],
        earlier: Sequence[Statement],
        names: Names,
        rng: random.Random,
    ) -> list[str]:
        return neighbours.near(statements, earlier, names, rng)

    def unlike(
        self, statements: Sequence[Statement], earlier: Sequence[Statement], rng: random.Random
    ) -> list[str]:
        return neighbours.unlike(statements, earlier, rng)

    def swapped(
        self,
        statement: Statement,
        others: Sequence[Statement],
        names: Names,
        rng: random.Random,
    ) -> Exchange | None:
        return neighbours.swapped(statement, others, names, rng)

    def supersedes(
        self, new: Statement, old: Statement, names: Names, replies: Sequence[str]
    ) -> bool:
        return corrections.supersedes(new, old, names, replies)

    def plainly(self, text: str) -> str:
        return corrections.plainly(text)

    def in_its_place(self, new: Statement, old: Statement) -> Statement:
        return corrections.in_its_place(new, old)

    def updated(self, statement: Statement, new: Statement, old: Statement) -> Statement:
        return corrections.updated(statement, new, old)


def _naming_questions(stated: str) -> list[str]:
    """Questions for the name of whom or what somebody has."""
    found = _NAMED.match(stated)
    if found is None:
        return []
    noun = found["noun"] or found["kept"]
    owner = found["my"] or ("my" if found["who"] == "I" else f"{found['who']}'s")
    if noun in ("name", "favourite") or noun.startswith("favourite "):
        return []
    owner = "my" if owner == "My" else owner
    asked = [f"What is {owner} {noun} called?", f"What is {owner} {noun}'s name?"]
    if noun.split()[-1] in _WHOM:
        asked.append(f"Who is {owner} {noun}?")
    asked.append(f"Remind me what {owner} {noun} is called.")
    return [*asked, f"Tell me the name of {owner} {noun}.", *_in_other_tones(asked[1:2])]


def _age_questions(stated: str) -> list[str]:
    """Questions for an age that is told in full."""
    told = age_of(stated)
    if told is None or not stated.rstrip(".!").endswith("years old"):
        return []
    if told[0] == "I":
        asked = ["How old am I?", "What is my age?"]
    else:
        who = told[0][:1].lower() + told[0][1:] if told[0].startswith("My ") else told[0]
        asked = [f"How old is {who}?", f"What is {who}'s age?"]
    return [*asked, *_in_other_tones(asked[:1])]


def _in_other_tones(questions: Sequence[str]) -> list[str]:
    """The same of somebody who asks politely, and of somebody who knew."""
    found = [indirect(question) for question in questions]
    return [*filter(None, found), *map(_reminding, questions)]


def _reminding(question: str) -> str:
    """The question as one of somebody who knew: what is practised in one tone of voice alone is
    not known in another."""
    first, _, rest = question.partition(" ")
    return f"I forgot: {first.lower() if first != 'I' else first} {rest}"
