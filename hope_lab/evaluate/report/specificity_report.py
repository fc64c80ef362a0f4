"""Figures of the task `specificity`: leaks, right answers, damage, corrections and costs.

Knows sets and replies; who taught and asked is specificity.py's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hope_lab.evaluate.asking import first_sentence
from hope_lab.evaluate.data.items import mentions
from hope_lab.evaluate.data.specificity_sets import KEPT, NEIGHBOURS, OWN, Probe, Set
from hope_lab.evaluate.report.intervals import mean_interval
from hope_lab.evaluate.report.report import Share, mean
from hope_lab.evaluate.tasks.personal import in_right_person

PARTS = ("specificity", "corrections", "conflicts")
# Groups of questions that have nothing to do with the speaker.
WORLD = ("world", "model")


@dataclass(frozen=True, slots=True)
class Taken:
    """One set as one memory took it; replies are in the order of its probes."""

    set: Set
    policy: str
    replies: list[str]
    base_replies: list[str]
    # Mean nats per token of the base's own replies about the world and the model: of the base, and
    # of the adapted model.
    world_nats: tuple[float, float] | None
    # Of each held-out text, adapted over base minus one.
    heldout: list[float]
    costs: Mapping[str, float]

    def pairs(self, *groups: str) -> Iterator[tuple[Probe, str, str]]:
        """Probe, reply and the base's reply, of these groups."""
        for probe, reply, base in zip(
            self.set.probes, self.replies, self.base_replies, strict=True
        ):
            if probe.group in groups:
                yield probe, reply, base


def figures(taken: Sequence[Taken], *, show: bool) -> dict[str, Any]:
    """All tables of the task, by name; with `show` every question and reply."""
    told = ("specificity", "conflicts")
    tables: dict[str, Any] = {
        "rows": _rows(taken, told, _specificity),
        "damage": _rows(taken, told, _damage),
        "corrections": _rows(taken, ("corrections",), _corrected),
        "costs": _rows(taken, PARTS, _costs),
        "groups": list(_by_group(taken)),
        "wordings": list(_by_wording(taken)),
    }
    if show:
        tables["shown"] = [row for item in taken for row in _shown(item)]
    return tables


def leaks(taken: Taken, probe: Probe, reply: str, base: str) -> bool:
    """Whether a reply to a neighbouring question names what was taught, and the base's does not."""
    return any(
        mentions(reply, value) and not mentions(base, value) and not mentions(probe.text, value)
        for value in taken.set.taught
    )


def right(probe: Probe, reply: str) -> bool:
    """Whether the first sentence has the value and no wrong one, said to the right person."""
    sentence = first_sentence(reply)
    named = any(mentions(sentence, value) for value in probe.values)
    wrong = any(mentions(sentence, other) for other in probe.others)
    return named and not wrong and (not probe.personal or in_right_person(reply))


def _verdict(taken: Taken, probe: Probe, reply: str, base: str) -> str:
    if probe.values:
        return "right" if right(probe, reply) else "wrong"
    return "leak" if leaks(taken, probe, reply, base) else "kept"


def _shown(taken: Taken) -> Iterator[dict[str, Any]]:
    for probe, reply, base in taken.pairs(OWN, KEPT, *NEIGHBOURS):
        yield {
            "part": taken.set.part,
            "seed": taken.set.seed,
            "facts": taken.set.facts,
            "policy": taken.policy,
            "group": probe.group,
            "text": probe.text,
            "values": list(probe.values),
            "reply": reply,
            "verdict": _verdict(taken, probe, reply, base),
        }


def _rows(
    taken: Iterable[Taken], parts: Sequence[str], figures: Callable[[list[Taken]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each part, number of facts and policy, over the seeds."""
    cells: dict[tuple[str, int, str], list[Taken]] = {}
    for item in taken:
        if item.set.part in parts:
            cells.setdefault((item.set.part, item.set.facts, item.policy), []).append(item)
    return [
        {"part": part, "facts": facts, "policy": policy} | figures(members)
        for (part, facts, policy), members in cells.items()
    ]


def _specificity(members: list[Taken]) -> dict[str, Any]:
    leaked = Share.of(leaks(t, *found) for t in members for found in t.pairs(*NEIGHBOURS))
    own = Share.of(right(p, reply) for t in members for p, reply, _ in t.pairs(OWN))
    return {**_named("leak", leaked), **_named("own", own)}


def _damage(members: list[Taken]) -> dict[str, Any]:
    """Nats per token that the base's own replies about the world and the model cost more than the
    base, the share of replies that are the same, and the rise of the held-out texts' loss."""
    same = Share.of(reply == base for t in members for _, reply, base in t.pairs(*WORLD))
    rises = [mean(t.heldout) for t in members]
    world = [t.world_nats for t in members if t.world_nats is not None]
    return {
        "world_nats": mean([after - before for before, after in world]) if world else None,
        "world_same": same.rate,
        "heldout_mean": mean(rises),
        "heldout_interval": mean_interval(rises),
        "heldout_worst": max(max(t.heldout) for t in members),
    }


def _corrected(members: list[Taken]) -> dict[str, Any]:
    new = Share.of(right(p, reply) for t in members for p, reply, _ in t.pairs(OWN))
    old = Share.of(
        mentions(reply, p.others[0]) and not mentions(reply, p.values[0])
        for t in members
        for p, reply, _ in t.pairs(OWN)
    )
    kept = Share.of(right(p, reply) for t in members for p, reply, _ in t.pairs(KEPT))
    return {**_named("new", new), **_named("old", old), **_named("bystander", kept)}


def _named(name: str, share: Share) -> dict[str, Any]:
    interval = list(share.interval)
    return {name: share.rate, f"{name}_interval": interval, f"{name}_asked": share.count}


def _costs(members: list[Taken]) -> dict[str, Any]:
    names = [name for name in members[0].costs if name.startswith("seconds_")]
    tokens = sum(t.costs["learnt_tokens"] for t in members)
    taught = sum(t.costs["consolidations"] for t in members)
    total = {
        name: sum(t.costs.get(name, 0.0) for t in members)
        for name in ("trained_tokens", "learn_seconds", "cpu_seconds", *names)
    }
    each = {f"{name}_each": total[name] / max(taught, 1) for name in total}
    passes = total["trained_tokens"] / tokens if tokens else None
    return {"sets": len(members), "passes_per_token": passes, **each}


def _by_group(taken: Sequence[Taken]) -> Iterator[dict[str, Any]]:
    """Leaks of each group of neighbouring questions."""
    cells: dict[tuple[str, int, str, str], list[bool]] = {}
    for item in taken:
        for found in item.pairs(*NEIGHBOURS):
            key = (item.set.part, item.set.facts, item.policy, found[0].group)
            cells.setdefault(key, []).append(leaks(item, *found))
    for (part, facts, policy, group), verdicts in cells.items():
        yield {"part": part, "facts": facts, "policy": policy, "group": group} | _named(
            "leak", Share.of(verdicts)
        )


def _by_wording(taken: Sequence[Taken]) -> Iterator[dict[str, Any]]:
    """Corrections by how they are worded."""
    cells: dict[tuple[str, str], list[bool]] = {}
    for item in taken:
        if item.set.part == "corrections":
            verdicts = [right(p, reply) for p, reply, _ in item.pairs(OWN)]
            cells.setdefault((item.set.label, item.policy), []).extend(verdicts)
    for (wording, policy), verdicts in cells.items():
        yield {"wording": wording, "policy": policy} | _named("new", Share.of(verdicts))
