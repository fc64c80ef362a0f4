"""Replays: what a span is turned into before a level learns it.

A fact that was read once in passing is retrievable elsewhere only if it was practised without its
left context, and usable in a chat only if it was practised in the assistant's own voice. So a span
is replayed alone, as something the assistant says, and as the answer to questions that the base
model itself asked about it (questions.py). A replay carries no value that is not in its span.

A contrast is the same replay told of somebody invented: there the level must leave the base's
prediction as it is, or every question of the same form would get the taught answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hope_runtime.learning.packing import Example
from hope_runtime.learning.prompt_prefixes import before_text
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.persons import (
    speaks_of_himself,
    to_second_person,
)
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.word_order import questions_by_word_order
from hope_runtime.session.log import Speaker
from hope_runtime.tokenizer import Tokenizer


class ReplayWriter:
    """Writes examples in the form of one model's text and chat template."""

    def __init__(self, tokenizer: Tokenizer, names: Names) -> None:
        self._tokenizer = tokenizer
        self._names = names

    def replays(self, statement: Statement) -> list[Example]:
        """Every form in which a statement is practised."""
        text = statement.text
        examples = [self.plain(text)]
        if not self._tokenizer.has_chat_template:
            return examples
        answer = self.answer(statement)
        if statement.first_person:
            examples.append(self.exchange(text, answer))
        else:
            examples.append(self._said(answer))
        examples += [self.exchange(question, answer) for question in statement.questions]
        return examples

    def answer(self, statement: Statement) -> str:
        """A statement as the assistant says it."""
        stated = statement.stated
        return to_second_person(stated) if statement.first_person else stated

    def contrast(self, statement: Statement, rng: random.Random) -> Example | None:
        """One exchange about the statement, told of somebody invented; None when nobody is named
        in it or nothing is asked."""
        told = self.told_of_a_stranger(statement, rng)
        return told and self.exchange(*told)

    def stranger_question(self, statement: Statement, rng: random.Random) -> Example | None:
        """One question of the statement's, asked about somebody invented, up to where the
        assistant answers; None as above."""
        told = self.told_of_a_stranger(statement, rng)
        if told is None:
            return None
        return self._asked(told[0])

    def question(self, ids: tuple[int, ...]) -> Example:
        """A user's message, up to where the assistant answers; nothing in it is predicted."""
        form = self._chat
        before = (*form.user, *ids, *form.end, *form.assistant)
        return Example(before, (False,) * len(before), form.prefix)

    @property
    def end(self) -> tuple[int, ...]:
        """Token ids that end a message."""
        return self._chat.end

    def told_of_a_stranger(
        self, statement: Statement, rng: random.Random
    ) -> tuple[str, str] | None:
        """Question and statement with another name; None as for `contrast`."""
        if not statement.questions or not self._tokenizer.has_chat_template:
            return None
        question = rng.choice(statement.questions)
        told = statement.text
        for name in self._names.find(told):
            if name in question:
                stranger = self._names.invent(rng, words=len(name.split()))
                told = told.replace(name, stranger)
                question = question.replace(name, stranger)
        return (question, told) if told != statement.text else None

    def up_to_value(self, asked: str, answered: str, value: str) -> Example | None:
        """An exchange that ends with the first token of `value`; None where that is none of the
        answer's tokens. What follows it is no secret: held there, too, a level could not spell the
        value."""
        at = answered.find(value)
        if not value or at < 0:
            return None
        encode = self._tokenizer.encode
        before = tuple(encode(answered[:at].rstrip()))
        whole = tuple(encode(answered))
        if whole[: len(before)] != before or len(whole) <= len(before):
            return None
        return self.question(tuple(encode(asked))).followed_by(whole[: len(before) + 1])

    def plain(self, text: str) -> Example:
        """The text alone; every token is predicted but the first of all."""
        begin = before_text(self._tokenizer)
        ids = tuple(self._tokenizer.encode(self._tokenizer.opening(text)))
        return Example((*begin, *ids), (False,) * len(begin) + (True,) * len(ids))

    def _said(self, text: str) -> Example:
        """The assistant says it of its own accord."""
        form = self._chat
        reply = self._answered(text)
        return Example(
            (*form.assistant, *reply),
            (False,) * len(form.assistant) + (True,) * len(reply),
            form.prefix,
        )

    def exchange(self, asked: str, answered: str) -> Example:
        """The user says one thing and the assistant answers; only the answer is predicted."""
        return self._asked(asked).followed_by(self._answered(answered))

    def _asked(self, text: str) -> Example:
        return self.question(tuple(self._tokenizer.encode(self._chat.user_lead + text)))

    def _answered(self, text: str) -> tuple[int, ...]:
        form = self._chat
        return (*self._tokenizer.encode(form.assistant_lead + text), *form.end)

    @cached_property
    def _chat(self) -> _ChatForm:
        return _chat_form(self._tokenizer)


@dataclass(frozen=True, slots=True)
class _ChatForm:
    """Token ids of the chat template's parts: what comes before the first user message, what
    opens a user's and an assistant's message, and what ends one. Leads are spaces that belong to
    the first word of a message."""

    prefix: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    end: tuple[int, ...]
    user_lead: str
    assistant_lead: str


def _chat_form(tokenizer: Tokenizer) -> _ChatForm:
    user, assistant = tokenizer.fields("user"), tokenizer.fields("assistant")
    before = tokenizer.encode_template(user.before)
    after = tokenizer.encode_template(user.after)
    cut = _after_last_end(tokenizer, before)
    close = _after_last_end(tokenizer, after)
    # What ends a message: up to the first end token behind it; some templates have none.
    ends = [index for index, token in enumerate(after) if token in tokenizer.eos_ids]
    end = after[: ends[0] + 1] if ends else []
    return _ChatForm(
        prefix=tuple(before[:cut]),
        user=tuple(before[cut:]),
        assistant=tuple(after[close:]),
        end=tuple(end),
        user_lead=user.lead,
        # A prompt that ends with the space already has it.
        assistant_lead="" if user.after.endswith(" ") else assistant.lead,
    )


def _after_last_end(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    ends = [index for index, token in enumerate(ids) if token in tokenizer.eos_ids]
    return ends[-1] + 1 if ends else 0


def may_be_voiced(statement: Statement, names: Names) -> bool:
    """Whether the assistant may say this of its own accord later on.

    What the user stated, of themselves too: no question, and no greeting or request, in which
    nobody is named and no clause says what is. Of a document only what names somebody or
    something: its "I" is not the user, and its pronouns mean nobody out of context.
    """
    if statement.span.speaker is Speaker.USER:
        text = statement.stated
        said = bool(questions_by_word_order(text) or names.find(text) or speaks_of_himself(text))
        return said and not text.endswith("?")
    return bool(names.find(statement.text)) and not statement.first_person
