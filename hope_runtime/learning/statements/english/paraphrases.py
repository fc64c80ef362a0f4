"""Everyday questions that English statements about the speaker answer in other words.

A statement's own words make one question; people ask in others. Closed list: the frames in which
people tell where they live, what they do or what they like, and what they are then asked.
"""

from __future__ import annotations

import re

_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_FRAMES = (
    (r"^My name is ", ("What am I called?", "How should you address me?")),
    (r"^I work as an? |^I earn my living as |^I(?:'m| am) an? [a-z]+\.?$",
     ("What is my job?", "What do I do for a living?")),
    (r"^I live in [A-Z]|^My home is in [A-Z]",
     ("Where do I live?", "Which city do I live in?")),
    (r"\bplay the ", ("What instrument do I play?",)),
    (r"^I play (?!the )", ("Which sport do I play?",)),
    (r"^I (?:drive|own) an? [A-Z]|^My car is an? ", ("What car do I drive?",)),
    (r"^I(?:'m| am) (?:learning|studying) [A-Z]|^I study [A-Z]",
     ("Which language am I learning?",)),
    (r"\ballerg(?:ic|y) to ", ("What am I allergic to?", "What should I avoid eating?")),
    (rf"^I was born in (?:{_MONTHS})|birthday (?:is )?in (?:{_MONTHS})", ("When is my birthday?",)),
    (r"^I(?:'m| am) (?:\d+|[a-z]+ty(?:-[a-z]+)?|[a-z]+teen)(?: years old)?\.?$",
     ("How old am I?", "What is my age?")),
    (r"^I like .+ best\.?$", ("What do I like best?",)),
)  # fmt: skip
_FAVOURITE = re.compile(
    r"^(?:My favou?rite (?P<a>[a-z]+) is|The (?P<b>[a-z]+) (?:that )?I like (?:best|most) is) "
)


_COUNTED = re.compile(
    r"^I have (?:\d+|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve) "
    r"(?P<what>[a-z]+)\.?$"
)


def paraphrases(stated: str) -> list[str]:
    """At most two questions in other words; none for what is not understood."""
    if found := _COUNTED.match(stated):
        return [f"How many {found['what']} do I have?"]
    if found := _FAVOURITE.match(stated):
        kind = found["a"] or found["b"]
        return [f"What is my favourite {kind}?", f"Which {kind} do I like best?"]
    for frame, questions in _FRAMES:
        if re.search(frame, stated):
            return list(questions)
    return []
