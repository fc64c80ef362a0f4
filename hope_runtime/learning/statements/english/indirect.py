"""Indirect questions: "Where do I live?" as "Do you know where I live?".

People who want to know whether they are remembered ask so, and a memory that was asked in one way
only does not answer. Questions whose order of words is not understood have no indirect form.
"""

from __future__ import annotations

import re
import zlib

from hope_runtime.learning.statements.english.word_order import third_person

# Asked for a yes, a model without memory is sorry; asked to tell, it tells something.
_LEADS = ("Do you know {}?", "Do you remember {}?", "Can you tell me {}?")
_WH = r"(?P<wh>(?:What|Which|Where|When|Who|How)(?: [a-z]+)*?)"
_I = re.compile(rf"^{_WH} (?P<verb>do|am|was|have|can|should|must) I\b(?P<rest>[^?]*)\?$")
_DOES = re.compile(
    rf"^{_WH} does (?P<who>my [a-z]+|[A-Z][\w'\u2019-]*(?: [A-Z][\w'\u2019-]*)*) "
    r"(?P<verb>[a-z]+)(?P<rest>[^?]*)\?$"
)
_IS = re.compile(
    rf"^{_WH} (?P<verb>is|are|was) (?P<who>(?:my|[A-Z][\w\u2019-]*(?: [A-Z][\w\u2019-]*)*'s) "
    r"[a-z'\u2019 ]+?|[A-Z][\w'\u2019-]*(?: [A-Z][\w'\u2019-]*)*)(?P<rest> called| named)?\?$"
)
# A question that ends so has left its subject before: "What is Ada afraid of?".
_HANGING = re.compile(r" (?:of|in|at|to|for|with|about|from|on|by|as)$")


def indirect(question: str) -> str | None:
    """The question behind one of three leads, which the question decides; None where its form is
    not understood."""
    clause = _clause(question)
    lead = _LEADS[zlib.crc32(question.encode()) % len(_LEADS)]
    return clause and lead.format(clause)


def _clause(question: str) -> str | None:
    if found := _I.match(question):
        verb = "" if found["verb"] == "do" else f" {found['verb']}"
        return f"{_lower(found['wh'])} I{verb}{found['rest']}"
    if found := _DOES.match(question):
        return f"{_lower(found['wh'])} {found['who']} {third_person(found['verb'])}{found['rest']}"
    found = _IS.match(question)
    if found is None or _HANGING.search(found["who"]):
        return None
    return f"{_lower(found['wh'])} {found['who']} {found['verb']}{found['rest'] or ''}"


def _lower(word: str) -> str:
    return word[:1].lower() + word[1:]
