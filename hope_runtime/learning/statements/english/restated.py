"""Restatement: a user's sentence as the plain statements that it makes.

"Our dog is called Pip, she is a whippet." becomes "My dog is called Pip." and "My dog Pip is a
whippet.", "My daughter Mirja is seven." becomes "My daughter is called Mirja." and "My daughter
Mirja is seven years old.": what a sentence says on the way is asked for as well, and a sentence
that answers everything says too much. Closed lists of function words; what does not look like this
stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hope_runtime.learning.statements.english import library
from hope_runtime.learning.statements.english.persons import CALENDAR

_NUMBER = (
    r"(?:\d{1,3}|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-[a-z]+)?"
    r"|[a-z]+teen|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
)
_GROUPS = "|".join((library.PEOPLE, library.PETS))
# Who has a name and is somebody: "boyfriend" and the like beside those of the library.
_BEINGS = frozenset(
    {word for group in _GROUPS.split("|") for word in group.split()} - {"married", "pet"}
    | {"boyfriend", "girlfriend", "fiance", "fiancee", "boss", "neighbour", "neighbor", "baby"}
    | {"grandson", "granddaughter", "flatmate", "roommate", "mom", "mother-in-law", "kid"}
)
_PETS = frozenset(word for group in library.PETS.split("|") for word in group.split())
_NAME = r"[A-Z][\w\u2019'-]*(?: [A-Z][\w\u2019'-]*)?"
_KIND = r"(?:(?:older|younger|little|big|eldest|youngest|best|new|old|other) )?[a-z-]+"
# "My daughter Mirja is seven.", "My wife, Ana, works as a nurse."
_APPOSED = re.compile(
    rf"^My (?P<kind>{_KIND})(?P<comma>,?) (?P<name>{_NAME})(?P=comma) "
    rf"(?P<rest>(?:is|was|has|had|will|can|[a-z]+s|[a-z]+ed) .+)$"
)
# "My dog is called Pip, she is a whippet.", "My sister's name is Ana and she lives in Rome."
_CONTINUED = re.compile(
    rf"^My (?P<kind>{_KIND})(?: is called| is named|'s name is| is) (?P<name>{_NAME})"
    rf"(?:[,;.]? and|[,;]) (?:he|she|it)(?P<rest>(?:['\u2019]s| is| has| [a-z]+s| [a-z]+ed) .+)$"
)
_AGE = re.compile(
    rf"^(?P<who>I|My {_KIND}|{_NAME})"
    r"(?:['\u2019]m| am| is|['\u2019]s|(?: has| have|['\u2019]ve)?(?: just)? turned)"
    rf" (?P<age>{_NUMBER})(?: years old| years of age)?"
    r"(?: (?:now|today|yesterday|tomorrow|already|last \w+|this \w+|on \w+|in \w+))*[.!]?$"
)
_NO_NAMES = CALENDAR | {"I"}
# "My dog Pip is called Bo now." corrects the name, "My dog Pip is not old." something else.
_CORRECTS = re.compile(
    r"^(?:is|was|has been) (?:now |not |no longer )|.*\b(?:called|named|renamed)\b"
)
# "My cat's called Ada."
_NAMED = re.compile(r"^((?:My|Our) [a-z -]+)['\u2019]s (called|named)\b")
# "We are five." is said of several, and true of none.
_WE = re.compile(r"^We (?!are\b|were\b|have been\b|all\b|both\b)(?=[a-z])")


@dataclass(frozen=True, slots=True)
class Restated:
    """A plain statement. One about somebody who has a `name` is asked about by the name alone and
    as what he is to the user."""

    text: str
    name: str = ""

    @property
    def alias(self) -> str:
        """Words for whom the name is, "my" and a noun; "" where there is no name."""
        before = self.text.partition(f" {self.name}")[0] if self.name else ""
        return before[:1].lower() + before[1:]

    @property
    def about(self) -> str:
        """The statement with the name alone: "Mirja is seven years old."; "" without a name."""
        return self.text[len(self.alias) + 1 :] if self.name else ""


def restated(text: str) -> list[Restated]:
    """The statements that a user's sentence makes; itself alone, mostly."""
    text = _singular(text)
    found = _CONTINUED.match(text) or _APPOSED.match(text)
    if found is None or found["kind"].split()[-1] not in _BEINGS or found["name"] in _NO_NAMES:
        return [Restated(_aged(text))]
    kind, name = found["kind"], found["name"]
    rest = re.sub(r"^['\u2019]s ", "is ", found["rest"].strip())
    if _CORRECTS.match(rest):
        return [Restated(text)]
    about = _aged(f"{name} {rest}")
    return [Restated(f"My {kind} is called {name}."), Restated(f"My {kind} {about}", name)]


def age_of(text: str) -> tuple[str, str] | None:
    """Whose age a statement tells, and the age; None where it tells none."""
    found = _AGE.match(text)
    if found is None:
        return None
    who = found["who"]
    # "My number is seven." tells no age.
    if who.startswith("My ") and who.split()[-1] not in _BEINGS:
        return None
    return who, found["age"]


def breed_questions(one: Restated) -> list[str]:
    """Questions for what kind of animal `name` is; none about people."""
    noun = one.alias.split()[-1] if one.alias else ""
    if noun not in _PETS or not re.match(rf"{re.escape(one.name)} is an? ", one.about):
        return []
    return [f"What breed is {one.name}?", f"What kind of {noun} is {one.name}?"]


def _singular(text: str) -> str:
    """A statement about "our" affairs as one about the user's own."""
    text = _WE.sub("I ", _NAMED.sub(r"\1 is \2", text))
    return re.sub(r"\bour\b", "my", re.sub(r"\bOur\b", "My", text))


def _aged(text: str) -> str:
    """An age in full: "Mirja turned eight today." says how old she is."""
    age = age_of(text)
    if age is None:
        return text
    who, years = age
    return f"{who} {'am' if who == 'I' else 'is'} {years} years old."
