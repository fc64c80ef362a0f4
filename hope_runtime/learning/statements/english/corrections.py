"""English statements that take the place of earlier ones: the same told anew with another value.

Two statements answer the same question when they are about the same owner, share a key word or
topic, or the memory answers the new one's questions with the old value though the new one says that
something changed; when their values look alike; and when only one of them can hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.word_order import value_of
from hope_runtime.learning.statements.english.words import keys_of, topics, words_of

# "not X but Y", "no longer X, it is Y", "sold X and bought Y": what holds now comes last.
_CONTRASTED = (
    (re.compile(r"\b(is|are|am|'m) not (called |named )?[^,.]+? but (?:an? |the )?(?P<v>[^,.]+)"),
     r"\1 \2\g<v>"),
    (re.compile(r"\b(is|are|am|'m) no longer (called |named )?[^,.]+?, (?:but |(?:it|he|she|they) "
                r"(?:is|are) (?:called |now )?|I'm |I am )(?P<v>[^,.]+)"), r"\1 \2\g<v>"),
    (re.compile(r"^I no longer ([a-z]+) [^,.]+?,? (?:and |but )?(?:now )?I (?:now )?\1 "
                r"(?P<v>[^,.]+)"),
     r"I \1 \g<v>"),
    (re.compile(r"^I (?:have )?sold (?:the|my) [^,.]+? and (?:have )?bought (an?) (?P<v>[^,.]+)"),
     r"I have \1 \g<v>"),
    (re.compile(r"^I (?:have )?sold (?:the|my) [^,.]+? and (?:now )?I (?:now )?([a-z]+) "
                r"(?P<v>an? [^,.]+)"), r"I \1 \g<v>"),
    (re.compile(r"^(?:We|I) (?:have )?renamed my ([a-z]+)[,:;]? (?:it|he|she) is (?:now )?called "
                r"(?P<v>[^,.]+?)(?: now)?(?=[.]|$)"), r"My \1 is called \g<v>"),
    (re.compile(r"^(?:We|I) (?:have )?renamed my ([a-z]+)(?: from \w+)? to (?P<v>[^,.]+)"),
     r"My \1 is called \g<v>"),
    (re.compile(r"^I (?:have )?moved (?:house )?to (?P<v>[A-Z][^,.]*?)"
                r"(?: (?:last|this|in|on|recently|now)\b[^.]*)?(?=[.]|$)"), r"I live in \g<v>"),
)  # fmt: skip
# "I no longer work as a cook, I am a baker": what is no longer so, before what is.
_NO_LONGER = re.compile(
    r"^I (?:no longer|used to|(?:do not|don['\u2019]t|am not|am no longer) (?=[^,.;]*\bany ?more\b)"
    r")[^,.;]*[,;] (?:and |but )?(?:now )?(?=I\b)"
)
# What says that something changed, and no part of any value.
_CHANGE = re.compile(
    r"(?:,? (?:and )?(?:not|no longer) [^,.]+(?=[.]?$)|^actually,? |^correction: |^sorry,? |^no,? |"
    r",? (?:now|nowadays|instead(?: of [^,.]+?)?|actually|currently|from now on|these days)"
    r"(?= |[.!]|$)|\b(?:now|currently|actually) )",
    re.IGNORECASE,
)
_CHANGED = re.compile(
    r"\b(?:now|nowadays|instead|actually|currently|no longer|not any ?more|changed|moved|renamed|"
    r"switched|became|sold|sorry|correction|not|no)\b",
    re.IGNORECASE,
)
# Who moved says where he lives, and nothing else changed.
_MOVED = re.compile(r"\bmoved\b", re.IGNORECASE)
# One value at a time: what something is called, a favourite, where one lives, one's work.
_SINGLE = re.compile(
    r"\b(?:(?:my|\w+'s) (?:\w+ ){1,3}?(?:is|was|are) |(?:my|'s) (?:\w+ ){0,2}?name\b|name is|"
    r"favou?rite|lives? in|home is|works? as|born)\b|'s name is\b|is called\b|\bbest\b|"
    r"\byears old\b",
    re.IGNORECASE,
)
_NAMING = re.compile(r"\b(?:called|named?|renamed|calls?)\b", re.IGNORECASE)
# "No, it is Bruno, not Ada." is about whatever was called Ada.
_IT_IS = re.compile(r"^(?:no,? )?it(?: is|'s) (?P<new>[^,.]+), not (?P<old>[^,.]+)[.!]?$", re.I)

# "I like tea best": what is liked is told.
_MOST = re.compile(r" (?:best|most)$")


def plainly(text: str) -> str:
    """A statement without the words that say that something changed."""
    plain = text.strip()
    for lead in (r"^(?:actually|sorry|no|correction)[,:]? +",):
        plain = re.sub(lead, "", plain, flags=re.IGNORECASE)
    plain = plain[:1].upper() + plain[1:]
    for pattern, simple in _CONTRASTED:
        found = pattern.sub(simple, plain)
        if found != plain:
            plain = found
            break
    if _IT_IS.match(text.strip()):
        return plain
    plain = _CHANGE.sub(" ", _NO_LONGER.sub("", plain))
    plain = re.sub(r"\s+", " ", plain).strip()
    plain = re.sub(r" ([.!,])", r"\1", plain)
    return plain[:1].upper() + plain[1:]


def value(stated: str) -> str:
    """Value of a statement, whether or not it says that something changed."""
    if found := _IT_IS.match(stated.strip()):
        return found["new"].strip()
    return _MOST.sub("", value_of(plainly(stated)) or "")


def supersedes(new: Statement, old: Statement, names: Names, replies: Sequence[str] = ()) -> bool:
    """Whether `new` takes the place of `old`; `replies` are what the memory answered to the new
    one's questions before."""
    told, was = value(new.stated), value(old.stated)
    if not told or not was or told.lower() == was.lower():
        return False
    if found := _IT_IS.match(new.stated.strip()):
        return found["old"].strip().lower() == was.lower()
    if told.lower() in was.lower() or not _of_the_same_person(new, old, names):
        return False
    if _shape(told) != _shape(was):
        return False
    changed = bool(_CHANGED.search(new.stated))
    # Whoever says that something changed and names the old value says what it was.
    said = changed and _mentions(new.stated, was)
    if changed and not _MOVED.search(new.stated):
        said = said or any(_mentions(reply, was) for reply in replies)
    # "My cat is called Ada." is no news about "My cat is black."; "My cat is Bruno now." may be.
    if bool(_NAMING.search(new.stated)) != bool(_NAMING.search(old.stated)) and not said:
        return False
    # A name that begins one sentence may look like any word there, and not in the other one.
    both = [name for item in (new, old) for name in names.find(item.stated)]
    both = [n for n in both if n not in (told, was) and not n.startswith(("I'", "I\u2019"))]
    owners = [
        words_of(*(name for name in both if _mentions(item.stated, name))) for item in (new, old)
    ]
    # A memory that leaks would name another's value.
    if owners[0] != owners[1] and not _mentions(new.stated, was):
        return False
    if not (changed or (_SINGLE.search(new.stated) and _SINGLE.search(old.stated))):
        return False
    about = [
        topics(keys_of(item) - owners[0] - owners[1] - words_of(told, was)) for item in (new, old)
    ]
    return said or bool(about[0] & about[1])


def _of_the_same_person(new: Statement, old: Statement, names: Names) -> bool:
    """Whether both are of the speaker, or both of others, or of the same name: of "my daughter
    Mirja" and of Mirja."""
    if new.first_person == old.first_person:
        return True
    named = (name for item in (new, old) for name in names.find(item.stated)[:1])
    return any(_mentions(new.stated, name) and _mentions(old.stated, name) for name in named)


def in_its_place(new: Statement, old: Statement) -> Statement:
    """The old statement with the new value, as something that the new span tells."""
    told, was = value(new.stated), value(old.stated)
    text = _exchanged(old.stated, was, told)
    if not _vowel_fits(text, told):
        text = re.sub(rf"\b(a|an) (?={re.escape(told)})", _article(told), text)
    return replace(new, text=text, questions=old.questions)


def updated(statement: Statement, new: Statement, old: Statement) -> Statement:
    """Another statement of the sentence of `old`, with the new value in place of the old one: of
    "my dog Pip", who is called Bo now, of "my dog Bo"."""
    told, was = value(new.stated), value(old.stated)
    questions = (_exchanged(question, was, told) for question in statement.questions)
    text = _exchanged(statement.text, was, told)
    return replace(statement, text=text, questions=tuple(dict.fromkeys(questions)))


def _exchanged(text: str, was: str, told: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(was)}(?!\w)", lambda _: told, text)


def _vowel_fits(text: str, told: str) -> bool:
    found = re.search(rf"\b(an?) {re.escape(told)}", text)
    return found is None or found[1] == _article(told).strip()


def _article(word: str) -> str:
    return "an " if word[:1].lower() in "aeiou" else "a "


def _mentions(text: str, phrase: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text))


def _shape(text: str) -> str:
    if any(character.isdigit() for character in text):
        return "number"
    return "name" if text[0].isupper() else "word"
