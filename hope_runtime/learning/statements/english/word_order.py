"""Turns an English statement into the questions that it answers, by word order alone.

"X's boat is called V" becomes "What is X's boat called?", "X works for V" "What does X work for?".
No relation and no topic is known, only auxiliaries, prepositions and verb endings. What does not
look like a plain statement gives no question, and neither does any other language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hope_runtime.learning.statements.english.persons import CALENDAR

_AUXILIARIES = frozenset(["is", "are", "was", "were", "am", "will", "can", "should", "must"])
_DETERMINERS = frozenset(
    ["a", "an", "the", "his", "her", "their", "its", "my", "your", "our", "some", "any"]
)
_PREPOSITIONS = frozenset([
    "in", "at", "on", "to", "for", "by", "with", "as", "of", "from", "into", "near", "about",
    "under", "over", "called", "named", "between", "after", "before",
])  # fmt: skip
_PLACES = frozenset(("in", "at", "near"))
_PEOPLE = frozenset(("by", "to", "with"))
_MOTION = frozenset(("move", "moved", "go", "gone", "travel", "fly", "drive", "walk", "return"))
_ADVERBS = frozenset(
    ["always", "often", "usually", "never", "now", "currently", "recently", "still", "also"]
)
# Who or what they mean stands elsewhere, so a question about them cannot be understood alone.
_PRONOUNS = frozenset(("it", "he", "she", "they", "we", "you", "this", "that", "there", "these"))
_NOT_VERBS = frozenset(["his", "its", "this", "as", "us", "always"])
_PASTS = {
    "ate": "eat", "became": "become", "began": "begin", "bought": "buy", "broke": "break",
    "brought": "bring", "built": "build", "came": "come", "caught": "catch", "chose": "choose",
    "drank": "drink", "drew": "draw", "drove": "drive", "fell": "fall", "felt": "feel",
    "flew": "fly", "forgot": "forget", "found": "find", "gave": "give", "got": "get",
    "grew": "grow", "heard": "hear", "held": "hold", "kept": "keep", "knew": "know",
    "left": "leave", "lost": "lose", "made": "make", "meant": "mean", "met": "meet",
    "paid": "pay", "ran": "run", "read": "read", "rode": "ride", "said": "say", "sang": "sing",
    "sat": "sit", "saw": "see", "sent": "send", "sold": "sell", "spent": "spend",
    "spoke": "speak", "stood": "stand", "stole": "steal", "swam": "swim", "taught": "teach",
    "threw": "throw", "told": "tell", "took": "take", "understood": "understand",
    "went": "go", "woke": "wake", "won": "win", "wore": "wear", "wrote": "write",
}  # fmt: skip
_THIRDS = {"has": "have", "does": "do", "goes": "go"}
_PARTICIPLE = re.compile(r"(?:ed|en|een|own|one|ought|aught)$")
# Words that open a time or a place before the subject without a preposition.
_FRONTING = frozenset(["next", "last", "every", "each", "these", "this", "some", "one"])
# "By the way, ...": few words before a comma say nothing that could be asked for.
_LEAD_IN = re.compile(r"^(?:[A-Z][\w']*(?: [a-z][\w']*){0,7}, )+(?=\S)")
_CONTRACTED = {"m": " am", "ve": " have", "ll": " will"}
_CONTRACTION = re.compile(r"\b(I|[Ww]e|[Yy]ou|[Tt]hey)['\u2019](m|ve|ll)\b")
# "... at the moment", "... in the evenings", "... by profession" is not what was told.
_ASIDE = re.compile(
    r"(?: (?:at the moment|at present|right now|for now|nowadays)"
    r"| (?:by (?:profession|trade|training)|for a living)"
    r"| (?:in|during|on|at) (?:the |my )?(?:morning|afternoon|evening|night|weekend|day|free time"
    r"|spare time)s?)+$"
)
_MAX_WORDS = 24
_MAX_VALUE_WORDS = 3


@dataclass(frozen=True, slots=True)
class _Clause:
    """A plain statement: front, subject, verb, core, value, in words of the statement."""

    front: list[str]
    subject: str
    verb: str
    core: list[str]
    value: list[str]


def questions_by_word_order(statement: str) -> list[str]:
    """At most two questions, the likelier one first; none when the form is not understood."""
    clause = _parse(statement)
    return _ask(clause) if clause else []


def value_of(statement: str) -> str | None:
    """Value of a statement: the words at its end that a question would ask for."""
    clause = _parse(statement)
    if clause:
        return " ".join(clause.value)
    words = statement.strip().rstrip(".;!").split()
    return " ".join(_split_value(words)[1]) if 3 <= len(words) <= _MAX_WORDS else None


def _parse(statement: str) -> _Clause | None:
    text = _LEAD_IN.sub("", statement.strip())
    if not text or text[-1] in "?!:,":
        return None
    text = _CONTRACTION.sub(lambda found: found[1] + _CONTRACTED[found[2]], text)
    words = re.sub(r"\b(is|are): ", r"\1 ", _ASIDE.sub("", text.rstrip(".;"))).split()
    if not 3 <= len(words) <= _MAX_WORDS:
        return None
    front, words = _fronted(words)
    at = _verb(words)
    if at is None or at + 1 >= len(words):
        return None
    subject = [word for word in words[:at] if word.lower() not in _ADVERBS]
    if not subject or subject[0].lower() in _PRONOUNS:
        return None
    if subject[0] != "I" and subject[0].lower() in _DETERMINERS | {"this"}:
        subject[0] = subject[0].lower()
    rest = words[at + 1 :]
    # "... these days": when it was is not what was told.
    if len(rest) > 2 and rest[-2].lower() in _FRONTING:
        rest = rest[:-2]
    core, value = _split_value(rest)
    return _Clause(front, " ".join(subject), words[at], core, value)


def _ask(clause: _Clause) -> list[str]:
    subject, verb, core, front = clause.subject, clause.verb, clause.core, clause.front
    last = core[-1].lower() if core else ""
    named = clause.value[0][0].isupper()
    perfect = verb.lower() in ("have", "has", "had") and bool(
        _PARTICIPLE.search(core[0] if core else "")
    )
    if verb.lower() in _AUXILIARIES or perfect:
        helper, rest = verb, core
    else:
        helper, main = _do(subject, verb)
        rest = [main, *core]
    tail = " ".join((*rest, *front))
    who = "Who" if named and (last in _PEOPLE or not rest) else "What"
    if subject.lower().endswith("name"):
        who = "What"
    moved = last == "to" and bool(_MOTION.intersection(rest))
    asked = [f"{'Where' if moved and named else who} {helper} {subject} {tail}".rstrip() + "?"]
    if last in _PLACES and named:
        place = " ".join((*rest[:-1], *front))
        where = "When" if clause.value[0] in CALENDAR else "Where"
        asked.insert(0, f"{where} {helper} {subject} {place}".rstrip() + "?")
    elif who == "Who" and not rest:
        asked.append(f"What {helper} {subject}?")
    elif subject.lower() == "my name":
        asked.append("Who am I?")
    return asked[:2]


def _do(subject: str, verb: str) -> tuple[str, str]:
    """The form of "do" that asks for `verb`, and the verb's base form."""
    if _is_past(verb):
        return "did", _present(verb)
    if subject == "I":
        return "do", verb
    return "does", _base(verb) or verb


def _is_past(verb: str) -> bool:
    lower = verb.lower()
    return lower in _PASTS or bool(re.search(r"(?:[^e]|gre|fre|cre|te)ed$", lower))


def _present(verb: str) -> str:
    """A past form's base, by its spelling where it is regular."""
    if verb.lower() in _PASTS:
        return _PASTS[verb.lower()]
    if verb.endswith("ied"):
        return verb[:-3] + "y"
    if verb.endswith("eed"):
        return verb[:-1]
    if not verb.endswith("ed"):
        return verb
    stem = verb[:-2]
    if stem[-1] in "vcszu":
        return stem + "e"
    doubled = len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "ls"
    return stem[:-1] if doubled else stem


def _base(verb: str) -> str | None:
    """Base form of a verb in the third person singular; None when it does not look like one."""
    lower = verb.lower()
    if lower in _THIRDS:
        return _THIRDS[lower]
    if lower.endswith("ies") and len(lower) > 4:
        return lower[:-3] + "y"
    if re.search(r"(?:ch|sh|ss|x|zz|o)es$", lower):
        return lower[:-2]
    return lower[:-1] if lower.endswith("s") and not lower.endswith("ss") else None


def third_person(verb: str) -> str:
    """A base form in the third person singular."""
    for third, base in _THIRDS.items():
        if verb == base:
            return third
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(?:ch|sh|ss|x|o)$", verb) else "s")


def _verb(words: list[str]) -> int | None:
    """Index of the finite verb."""
    for index, word in enumerate(words[1:], start=1):
        before, lower = words[index - 1], word.lower()
        if lower in _AUXILIARIES:
            return index
        if lower in ("have", "has", "had") and _PARTICIPLE.search(_at(words, index + 1)):
            return index
        if words[0] == "I":
            return index if lower not in _ADVERBS else None if index > 2 else _next(words, index)
        after_subject = before[0].isupper() or before.lower() in _ADVERBS or index >= 2
        if word[0].isupper() or before.endswith("'s") or not after_subject:
            continue
        if (
            _base(word)
            and lower not in _NOT_VERBS
            and before.lower() not in (_DETERMINERS | _PREPOSITIONS)
        ):
            return index
        if _is_past(lower) and before[0].isupper():
            return index
    return None


def _at(words: list[str], index: int) -> str:
    return words[index].lower() if index < len(words) else ""


def _next(words: list[str], index: int) -> int | None:
    return index + 1 if index + 1 < len(words) else None


def _fronted(words: list[str]) -> tuple[list[str], list[str]]:
    """A prepositional phrase before the subject ("At home Yellara speaks ..."), and the rest."""
    if words[0].lower() not in _PREPOSITIONS | _FRONTING:
        return [], words
    for index in range(1, min(5, len(words) - 2)):
        if words[index][0].isupper() and words[index] not in CALENDAR:
            front = [words[0].lower(), *(word.rstrip(",") for word in words[1:index])]
            return front, words[index:]
    return [], []


def _split_value(words: list[str]) -> tuple[list[str], list[str]]:
    """Words after the verb, cut into those that the question repeats and those it asks for.

    The value is the run of capitalised words and numbers at the end, or the last few words back
    to a preposition, determiner or participle.
    """
    at = len(words)
    while at > 0 and (words[at - 1][0].isupper() or words[at - 1][0].isdigit()):
        at -= 1
    if at == len(words):
        at -= 1
        stop = _PREPOSITIONS | _DETERMINERS
        while (
            at > 0
            and len(words) - at < _MAX_VALUE_WORDS
            and words[at - 1].lower() not in stop
            and not re.search(r"(?:ing|ed)$", words[at - 1])
        ):
            at -= 1
    core = words[:at]
    while core and core[-1].lower() in _DETERMINERS:
        core.pop()
    return core, words[at:]
