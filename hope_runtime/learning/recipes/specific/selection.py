"""Choice of what a stretch's levels practise, and the questions that it is practised as answers to.

What users say of themselves and others is practised always. A document pays for what deserves it:
statements about somebody or something named, or with a value that nobody can guess, where they are
news to the base, as far as its budget goes (price.py); a few other texts that surprise are read
again. The rest costs only reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hope_runtime.learning.recipe import Resources, Stretch, Work
from hope_runtime.learning.recipes.replay.examples import may_be_voiced
from hope_runtime.learning.recipes.specific.price import Candidate, pay, step_tokens
from hope_runtime.learning.spans import SpanReader
from hope_runtime.learning.statements import StatementParser
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.questions import ask
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.session.budget import Allowance
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span
from hope_runtime.session.policy import SpecificConfig


@dataclass(frozen=True, slots=True)
class Selected:
    """Statements that are practised in every form, texts that are only read again, spans that wait
    for a later boundary, and what a budget of documents makes of the rest.

    `steps` and `tokens` are the most that the practice may take, None where nothing limits it.
    """

    statements: list[Statement]
    texts: list[str]
    waiting: tuple[Span, ...] = ()
    steps: int | None = None
    tokens: int | None = None

    @property
    def document_share(self) -> float:
        """Share of documents in the statements; 1 of texts alone."""
        told = sum(item.span.speaker is Speaker.USER for item in self.statements)
        return 1 - told / len(self.statements) if self.statements else float(bool(self.texts))


class Selection:
    """Selects from the spans of one base model's sessions."""

    def __init__(
        self, resources: Resources, parser: StatementParser, names: Names, reader: SpanReader
    ) -> None:
        self._model = resources.model
        self._workers = resources.workers
        self._parser = parser
        self._names = names
        self._reader = reader

    def of(self, spans: Sequence[Span], stretch: Stretch) -> Work[Selected]:
        """Select from `spans`, which are those of the stretch with their surprise.

        In the first person questions are those of the statement's form and of ordinary talk.
        Elsewhere the base asks, too, all statements in one pass.
        """
        config = stretch.policy.specific
        statements: list[Statement] = []
        texts: list[Statement] = []
        for span in spans:
            item = self._reader.statement(span)
            if self._is_statement(item, config):
                for part in self._parser.parts(item):
                    if not part.questions and self._model.tokenizer.has_chat_template:
                        part = replace(part, questions=tuple(self._parser.questions(part.stated)))
                    if not span.cues:
                        part = replace(part, questions=part.questions[: config.questions])
                    statements.append(part)
            elif self._is_news(item, config):
                texts.append(item)
        if stretch.allowance is None:
            statements = _dearest(statements, config.document_statements)
            selected = Selected(statements, _within(texts, config.text_tokens))
        else:
            selected = self._paid(statements, texts, stretch, stretch.allowance)
        yield from self._ask(selected.statements, config)
        return selected

    def _paid(
        self,
        statements: list[Statement],
        texts: list[Statement],
        stretch: Stretch,
        allowance: Allowance,
    ) -> Selected:
        """All that users said, and of documents what the allowance pays for."""
        config = stretch.policy.specific
        statements = self._newest(statements)
        told = {item.span.start for item in statements if item.span.speaker is Speaker.USER}
        candidates = [
            Candidate(
                item.span.start,
                item.span.surprise_nats or 0.0,
                self._parser.is_odd(item.stated),
            )
            for item in statements
            if item.span.start not in told
        ]
        paid = pay(candidates, allowance, config, may_wait=stretch.may_wait)
        waiting = tuple(item.span for item in statements if item.span.start in paid.later)
        chosen = [item for item in statements if item.span.start in told | paid.now]
        if told:  # what users say has no budget, and is practised in full
            return Selected(chosen, _within(texts, config.text_tokens), waiting)
        # Texts are read again beside statements alone: a stretch without any costs reading.
        left = paid.tokens - paid.steps * step_tokens(len(chosen))
        room = min(config.text_tokens, max(left, 0) // config.plain_passes)
        return Selected(
            chosen, _within(texts, room) if chosen else [], waiting, paid.steps, paid.tokens
        )

    def _newest(self, statements: list[Statement]) -> list[Statement]:
        """Without what a document says with another odd value later: the last one holds."""
        last: dict[str, int] = {}
        asked = {}
        for item in statements:
            if item.span.speaker is not Speaker.USER and self._parser.is_odd(item.stated):
                asked[item.span.start] = next(iter(self._parser.questions(item.stated)), "")
                last[asked[item.span.start]] = item.span.start
        return [
            item
            for item in statements
            if not (question := asked.get(item.span.start)) or last[question] == item.span.start
        ]

    def _ask(self, statements: list[Statement], config: SpecificConfig) -> Work[None]:
        """Give statements of others the base's questions beside those of their form."""
        named = [
            place
            for place, item in enumerate(statements)
            if not item.first_person and not item.span.cues
        ]
        if named and self._model.tokenizer.has_chat_template:
            stated = [self._parser.plainly(statements[place].stated) for place in named]
            asked_all = yield from ask(self._model, self._workers, self._names, stated, trials=1)
            for place, by_base in zip(named, asked_all, strict=True):
                by_form = statements[place].questions
                turns = (*by_base[:1], *by_form[:1], *by_base[1:2], *by_form[1:], *by_base[2:])
                questions = tuple(dict.fromkeys(turns))[: config.questions]
                statements[place] = replace(statements[place], questions=questions)

    def _is_statement(self, item: Statement, config: SpecificConfig) -> bool:
        """Statements to practise in every form: what the user said, and what a document says in
        plain statements about somebody or something named, or with a value that nobody can guess,
        where it is news to the base."""
        length = len(item.span.ids)
        if not item.text or length > config.odd_statement_tokens:
            return False
        odd = self._parser.is_odd(item.stated)
        if length > config.statement_tokens and not odd:
            return False
        if item.span.speaker is Speaker.USER:
            return may_be_voiced(item, self._names)
        if odd:
            nats, about = config.odd_surprise_nats, not item.first_person
        else:
            nats = config.document_surprise_nats
            about = may_be_voiced(item, self._names)
        if (item.span.surprise_nats or 0.0) < nats:
            return False
        return about and bool(item.questions or self._parser.questions(item.text))

    def _is_news(self, item: Statement, config: SpecificConfig) -> bool:
        """Texts to read again: long ones of users, and what a document says, where they surprise.
        A user's greetings and questions are no knowledge."""
        if not item.text or (item.span.surprise_nats or 0.0) < config.text_surprise_nats:
            return False
        return item.span.speaker is not Speaker.USER or (
            len(item.span.ids) > config.statement_tokens
        )


def _dearest(statements: list[Statement], most: int) -> list[Statement]:
    """All statements of users, and the `most` of documents that surprise most, in order."""
    told = [item for item in statements if item.span.speaker is not Speaker.USER]
    told.sort(key=lambda item: (-(item.span.surprise_nats or 0.0), item.span.start))
    left_out = {item.span.start for item in told[most:]}
    return [item for item in statements if item.span.start not in left_out]


def _within(texts: list[Statement], tokens: int) -> list[str]:
    """Texts of so many tokens together, those that surprise most, in order."""
    kept: list[Statement] = []
    for item in sorted(texts, key=lambda item: -(item.span.surprise_nats or 0.0)):
        tokens -= len(item.span.ids)
        if tokens < 0:
            break
        kept.append(item)
    return [item.text for item in sorted(kept, key=lambda item: item.span.start)]
