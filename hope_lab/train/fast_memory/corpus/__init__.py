"""The corpus of the fast memory's training: kinds of facts, and the many ways to tell and ask them.

The data lies beside this file: `*.jsonl`, a relation a line, and general.txt, everyday questions
that no told fact answers, a question a line. Every line is checked when it is read. None of the
wordings and values stands in hope_lab/evaluate, whose questions judge what is learnt here; a test
compares the two.

One relation in ten and one value in eight are held out by a digest of their letters: training
never sees them.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

from hope_runtime.errors import HopeError

Asked = tuple[str, str]
"""A question and its answer."""

RELATIONS_HELD_OUT_OF, VALUES_HELD_OUT_OF = 10, 8
GENERAL = "general.txt"
_LEAST_FORMS = 3


class CorpusError(HopeError, ValueError):
    """A line of the corpus breaks the format; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact.

    `told` and the questions of `asked` hold {n}, the person or thing, and never only {v}, the
    value; `told_by_user` and `asked_by_user` are about the user and have no {n}. Every told form
    and every answer holds {v} once. `about` is "person", or "thing" with `subjects`: patterns in
    which {w} is an invented word and {d} a digit. `values` exclude each other; with `digits` the
    value is a number of so many digits, and with neither it is somebody's name.
    """

    name: str
    about: str
    subjects: tuple[str, ...]
    told: tuple[str, ...]
    asked: tuple[Asked, ...]
    told_by_user: tuple[str, ...]
    asked_by_user: tuple[Asked, ...]
    values: tuple[str, ...]
    digits: int

    @property
    def is_held_out(self) -> bool:
        """Whether training never sees any of it."""
        return zlib.crc32(self.name.encode()) % RELATIONS_HELD_OUT_OF == 0

    def values_of(self, *, held_out: bool) -> tuple[str, ...]:
        """The values that are held out, or the others."""
        return tuple(value for value in self.values if value_is_held_out(value) == held_out)


def value_is_held_out(value: str) -> bool:
    """Whether training never sees a value, whatever the relation. Case does not count."""
    return zlib.crc32(value.lower().encode()) % VALUES_HELD_OUT_OF == 0


@cache
def relations() -> tuple[Relation, ...]:
    """All relations of the package, in the order of files and lines. Raises CorpusError."""
    found: dict[str, Relation] = {}
    for name in sorted(entry.name for entry in files(__name__).iterdir()):
        if name.endswith(".jsonl"):
            text = files(__name__).joinpath(name).read_text(encoding="utf-8")
            for relation in parse(text.splitlines(), name):
                if relation.name in found:
                    raise CorpusError(f"{name}: the relation {relation.name!r} exists twice")
                found[relation.name] = relation
    return tuple(found.values())


@cache
def general_questions() -> tuple[str, ...]:
    """Everyday questions and requests that no told fact answers."""
    text = files(__name__).joinpath(GENERAL).read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def parse(lines: Sequence[str], source: str) -> Iterator[Relation]:
    """The relations of a file's lines, checked. Raises CorpusError."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _relation(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{source}, line {number}: {error}") from error


def _relation(plain: dict[str, Any]) -> Relation:
    expected = {field.name for field in fields(Relation)}
    if set(plain) != expected:
        raise ValueError(f"the keys differ from the format in {sorted(set(plain) ^ expected)}")
    relation = Relation(
        name=plain["name"],
        about=plain["about"],
        subjects=tuple(plain["subjects"]),
        told=tuple(plain["told"]),
        asked=tuple((question, answer) for question, answer in plain["asked"]),
        told_by_user=tuple(plain["told_by_user"]),
        asked_by_user=tuple((question, answer) for question, answer in plain["asked_by_user"]),
        values=tuple(plain["values"]),
        digits=int(plain["digits"]),
    )
    _check(relation)
    return relation


def _check(relation: Relation) -> None:
    _require(re.fullmatch(r"[a-z][a-z0-9_]*", relation.name) is not None, "name", relation.name)
    is_thing = relation.about == "thing"
    _require(is_thing or relation.about == "person", "about", relation.about)
    _require(is_thing == bool(relation.subjects), "subjects belong to things", relation.name)
    for subject in relation.subjects:
        _holds(subject, allowed=("{w}", "{d}"))
    for told, asked, named in (
        (relation.told, relation.asked, True),
        (relation.told_by_user, relation.asked_by_user, False),
    ):
        _require(bool(told) == bool(asked), "what is told is asked", relation.name)
        _require(not told or min(len(told), len(asked)) >= _LEAST_FORMS, "few forms", relation.name)
        _require(len(set(told)) == len(told), "a told form occurs twice", relation.name)
        _require(len(dict(asked)) == len(asked), "a question occurs twice", relation.name)
        needed = ("{n}",) if named else ()
        for form in told:
            _holds(form, allowed=(*needed, "{v}"), needed=needed)
            _require(form.count("{v}") == 1, "{v} stands in a told form once", form)
        for question, answer in asked:
            _holds(question, allowed=needed, needed=needed)
            _holds(answer, allowed=(*needed, "{v}"))
            _require(answer.count("{v}") == 1, "{v} stands in an answer once", answer)
    _require(bool(relation.told or relation.told_by_user), "nothing is told", relation.name)
    _require(not (relation.values and relation.digits), "values or digits", relation.name)
    _check_values(relation.values)


def _check_values(values: Sequence[str]) -> None:
    """No value may be taken for another, whatever its case."""
    for index, value in enumerate(values):
        _require(bool(value.strip()), "an empty value", value)
        alone = re.compile(rf"(?<!\w){re.escape(value.lower())}(?!\w)")
        for other, longer in enumerate(values):
            inside = other != index and alone.search(longer.lower())
            _require(not inside, "a value in another", value)


def _holds(form: str, *, allowed: Sequence[str], needed: Sequence[str] = ()) -> None:
    rest = form
    for place in allowed:
        rest = rest.replace(place, "")
    _require("{" not in rest and "}" not in rest, "a place that is not allowed here", form)
    _require(all(place in form for place in needed), "a place is missing", form)
    _require(bool(form.strip()), "an empty form", form)


def _require(holds: bool, what: str, where: str) -> None:
    if not holds:
        raise ValueError(f"{what}: {where!r}")
