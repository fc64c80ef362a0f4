"""Origins: the version in which a session learnt a text, and the sentences that taught it.

The text is scored under every kept version. Where its surprise falls furthest from one version to
the next, it was learnt, and what that version was taught names the source.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hope_runtime.session.memory import SessionMemory
from server.app import versions
from server.app.cancellation import result_of
from server.app.sessions import Sessions
from server.app.version_diff import Taught
from server.store.base import SessionKey, VersionInfo

# A fall in nats per token below which no version is named.
LEAST_FALL_NATS = 0.1
MOST_PASSAGES = 5


@dataclass(frozen=True, slots=True)
class VersionScore:
    """Mean surprise of the text under one version, nats per token. Version 0 is the base model."""

    version: int
    nats: float


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence that the version was taught, and its place: a document, or what the user said in a
    conversation."""

    text: str
    document: str
    conversation: str


@dataclass(frozen=True, slots=True)
class Origin:
    """`learnt_in` is the version that learnt the text, `before` the one that it followed; None when
    no version changed the surprise by much. The passages are the likeliest sources, best first."""

    scores: tuple[VersionScore, ...]
    learnt_in: int | None
    before: int | None
    passages: tuple[Passage, ...]


async def find_origin(sessions: Sessions, key: SessionKey, context: str, text: str) -> Origin:
    """Find where a session learnt `text`, said after `context`. Changes nothing and needs no lock.

    Raises InvalidRequestError for a text that cannot be scored.
    """
    sessions.admit()
    known = await versions.kept(sessions, key)
    scores = [VersionScore(0, await _nats(sessions, None, context, text))]
    for info in known:
        if info.version == 0:
            continue
        memory = await versions.memory_at(sessions, key, info.version, field="version")
        scores.append(VersionScore(info.version, await _nats(sessions, memory, context, text)))
    learnt_in, before = _largest_fall(scores, known)
    if learnt_in is None or before is None:
        return Origin(tuple(scores), None, None, ())
    if before not in {info.version for info in known}:
        return Origin(tuple(scores), learnt_in, before, ())  # only kept versions can be compared
    _, taught = await versions.changes(sessions, key, before, learnt_in)
    passages = await asyncio.to_thread(_likeliest, sessions, taught, f"{context} {text}")
    return Origin(tuple(scores), learnt_in, before, passages)


async def _nats(sessions: Sessions, memory: SessionMemory | None, context: str, text: str) -> float:
    outcome = await result_of(sessions.engine.score(memory, context, text))
    return outcome.nats / max(1, outcome.scored)


def _largest_fall(
    scores: Sequence[VersionScore], known: Sequence[VersionInfo]
) -> tuple[int | None, int | None]:
    """The version whose score is furthest below that of its parent, and the parent."""
    nats = {score.version: score.nats for score in scores}
    found: tuple[int | None, int | None] = (None, None)
    furthest, previous = LEAST_FALL_NATS, 0
    for info in known:
        if info.version == 0:
            continue
        # The parent may have been collected since.
        parent = info.parent_version if info.parent_version in nats else previous
        previous = info.version
        assert parent is not None
        if (fall := nats[parent] - nats[info.version]) > furthest:
            furthest, found = fall, (info.version, parent)
    return found


def _likeliest(sessions: Sessions, taught: Sequence[Taught], text: str) -> tuple[Passage, ...]:
    """Sentences that share most words with the text."""
    wanted = _words(text)
    ranked = []
    for each in taught:
        if each.taken_back:
            continue
        for span in each.segment.spans:
            sentence = sessions.tokenizer.decode(span).strip()
            if shared := len(wanted & _words(sentence)):
                passage = Passage(sentence, each.record.document, each.record.conversation)
                ranked.append((shared, passage))
    ranked.sort(key=lambda pair: -pair[0])
    # Less than half of what the best one shares says little.
    return tuple(passage for shared, passage in ranked[:MOST_PASSAGES] if 2 * shared > ranked[0][0])


def _words(text: str) -> set[str]:
    """Words that tell texts apart: short ones do not."""
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2}
