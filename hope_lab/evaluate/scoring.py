"""From replies to figures: trials are pooled by their labels, over seeds and courses, and scored.

A scorer turns the trials of one cell into a score and its 95 % interval. Knows the three kinds of
score there are, and no task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hope_lab.evaluate.asking import first_sentence, is_correct
from hope_lab.evaluate.chrf import chrf, count_ngrams
from hope_lab.evaluate.data.course import Asked
from hope_lab.evaluate.data.items import mentions
from hope_lab.evaluate.report.intervals import bootstrap
from hope_lab.evaluate.report.report import Share
from hope_lab.evaluate.running import Taken


@dataclass(frozen=True, slots=True)
class Trial:
    """One question and the reply of one arm; None where the prompt was too long.

    `labels` are the course's, `after` is the lesson that had just ended.
    """

    labels: Mapping[str, Any]
    arm: str
    policy: str | None
    after: str
    asked: Asked
    reply: str | None


# Score and interval of pairs of question and reply.
Scorer = Callable[[Sequence[tuple[Asked, str]]], tuple[float | None, Sequence[float] | None]]


def trials_of(taken: Iterable[Taken]) -> list[Trial]:
    """Every question of every course, in order."""
    trials = []
    for item in taken:
        policy = None if item.policy is None else item.policy.name
        for lesson, replies in zip(item.course.lessons, item.replies, strict=True):
            for index, asked in enumerate(lesson.asked):
                reply = None if replies is None else replies[index]
                labels = item.course.labels
                trials.append(Trial(labels, item.arm, policy, lesson.name, asked, reply))
    return trials


def rows(trials: Iterable[Trial], by: Sequence[str], scorer: Scorer) -> list[dict[str, Any]]:
    """One row for each value of the labels `by`, arm and policy, in the order of the trials.

    `after` and `about` count as labels too. A row whose trials were not all answered has no score:
    a part would mislead.
    """
    cells: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        own = {**trial.labels, "after": trial.after, "about": trial.asked.about}
        key = (*(own[name] for name in by), trial.arm, trial.policy)
        cells.setdefault(key, []).append(trial)
    found = []
    for key, members in cells.items():
        answered = [(trial.asked, trial.reply) for trial in members if trial.reply is not None]
        whole = len(answered) == len(members)
        score, interval = scorer(answered) if whole else (None, None)
        row = dict(zip((*by, "arm", "policy"), key, strict=True))
        row |= {"score": score, "interval": None if interval is None else list(interval)}
        found.append(row | {"asked": len(members)})
    return found


def costs(taken: Iterable[Taken], by: Sequence[str]) -> list[dict[str, Any]]:
    """Cost of the memories' learning, summed over the courses with the same labels.

    The arms of one memory share one row.
    """
    cells: dict[tuple[Any, ...], dict[int, Taken]] = {}
    for item in taken:
        if item.policy is not None:
            key = (*(item.course.labels[name] for name in by), item.policy.name)
            cells.setdefault(key, {})[id(item.course)] = item
    found = []
    for key, members in cells.items():
        row = dict(zip((*by, "policy"), key, strict=True))
        for name in ("learnt_tokens", "trained_tokens", "learn_seconds"):
            row[name] = sum(item.costs[name] for item in members.values())
        learnt, trained = row["learnt_tokens"], row["trained_tokens"]
        row["passes_per_token"] = trained / learnt if learnt else None
        row["state_bytes"] = max(item.costs["state_bytes"] for item in members.values())
        found.append(row)
    return found


def correct(cell: Sequence[tuple[Asked, str]]) -> tuple[float | None, Sequence[float]]:
    """Share of replies whose first sentence has the value and no other one (`is_correct`)."""
    share = Share.of(is_correct(reply, asked.values[0], asked.others) for asked, reply in cell)
    return share.rate, share.interval


def values_found(cell: Sequence[tuple[Asked, str]]) -> tuple[float | None, Sequence[float]]:
    """Share of all values that stand in the replies, anywhere, as whole words."""
    share = Share.of(mentions(reply, value) for asked, reply in cell for value in asked.values)
    return share.rate, share.interval


def translated(cell: Sequence[tuple[Asked, str]]) -> tuple[float | None, Sequence[float] | None]:
    """ChrF of the replies' translations, 0 to 100; its interval by bootstrap over sentences."""

    counts = [count_ngrams(translation(reply), asked.values[0]) for asked, reply in cell]
    return (chrf(counts) if counts else None), bootstrap(counts, chrf)


def translation(reply: str) -> str:
    """The translation that a reply gives: what it quotes last, or else its first sentence."""
    sentence = first_sentence(reply)
    parts = sentence.replace("\u201c", '"').replace("\u201d", '"').split('"')
    quoted = parts[-2] if len(parts) >= 3 else sentence
    return quoted.strip().rstrip(".!?").strip()
