"""The task `specificity`: what a memory says when it is asked something else.

A memory is told a few facts and asked, in a new conversation, about them in fresh wording, and at
least 30 questions next to them. A taught value in a reply to one of those is a leak, unless the
frozen base says it too. Two more parts: `corrections`, pairs of statements of which the later one
must win, and `conflicts`, statements against what the base knows.

Knows teaching and asking; sets are made in specificity_sets.py, figures in specificity_report.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from hope_lab.evaluate.asking import ask, chat_prompt
from hope_lab.evaluate.data.specificity_facts import DEVELOPMENT
from hope_lab.evaluate.data.specificity_sets import (
    Set,
    conflict_set,
    correction_set,
    specificity_set,
)
from hope_lab.evaluate.heldout import heldout_nats
from hope_lab.evaluate.learnt import NOTHING, Learnt
from hope_lab.evaluate.options import add_run_options, count
from hope_lab.evaluate.reply_loss import reply_nats
from hope_lab.evaluate.report.presenting import print_result, settings
from hope_lab.evaluate.report.specificity_report import PARTS, WORLD, Taken, figures
from hope_lab.evaluate.running import Bench, bench
from hope_lab.evaluate.teaching import Pupil
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy

NAME = "specificity"
SUMMARY = "whether what was learnt stays where it belongs, and can be corrected"
NEW_TOKENS = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate specificity`."""
    add_run_options(parser)
    told = parser.add_argument_group("what is told")
    told.add_argument(
        "--parts", nargs="+", choices=PARTS, default=["specificity"], help="(default specificity)"
    )
    told.add_argument(
        "--facts",
        type=count(1),
        nargs="+",
        default=[1, 3, 6],
        metavar="N",
        help="of a set, one memory for each (default 1 3 6)",
    )
    told.add_argument(
        "--told",
        choices=("chat", "conversations", "document"),
        default="chat",
        help="how; conversations: each fact in one of its own (default chat)",
    )
    told.add_argument(
        "--pairs", type=count(1), default=20, help="corrections for each seed (default 20)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    sets = list(_sets(args))
    with bench(args) as ready:
        taken = [_take(ready, each, policy) for each in sets for policy in ready.policies]
        document = settings(NAME, args, ready)
    tables = figures(taken, show=args.show)
    document["development_seeds"] = [seed for seed in args.seeds if seed >= DEVELOPMENT]
    print_result(document | tables, args, [name for name in tables if tables[name]])
    return 0


def _sets(args: argparse.Namespace) -> Iterator[Set]:
    for seed in args.seeds:
        if "specificity" in args.parts:
            yield from (specificity_set(seed, facts, args.told) for facts in args.facts)
        if "corrections" in args.parts:
            yield from (correction_set(seed, index, args.pairs) for index in range(args.pairs))
        if "conflicts" in args.parts:
            yield conflict_set(seed)


def _take(ready: Bench, which: Set, policy: LearningPolicy) -> Taken:
    """Teaches and asks one memory; the frozen base's part is computed once for a set."""
    title = f"{which.part}, seed {which.seed}, {which.facts} facts"
    texts = [probe.text for probe in which.probes]
    with_texts = which.part != "corrections"  # they cost more than a correction
    world = [text for text, p in zip(texts, which.probes, strict=True) if p.group in WORLD]

    def frozen() -> dict[str, Any]:
        ready.progress.start(f"{title}: frozen", None)
        replies = _ask(ready, texts, NOTHING)
        return {"replies": replies}

    base = ready.once(NAME, None, texts, frozen)["replies"]
    told = dict(zip(texts, base, strict=True))
    pairs = [(text, told[text]) for text in world if told[text]]
    plain = ready.once(NAME, None, "held-out texts", lambda: heldout_nats(ready.model, NOTHING))
    world_base = ready.once(
        NAME, None, [pairs, "nats"], lambda: {"nats": reply_nats(ready.model, pairs, NOTHING)}
    )

    def adapted() -> dict[str, Any]:
        ready.progress.start(f"{title}: {policy.name}", None)
        pupil, cpu = _taught(ready, which, policy)
        found: dict[str, Any] = {"replies": _ask(ready, texts, pupil.learnt)}
        if with_texts:
            found["heldout"] = heldout_nats(ready.model, pupil.learnt)
            found["world"] = reply_nats(ready.model, pairs, pupil.learnt)
        phases: dict[str, float] = {}
        for report in pupil.consolidations:
            for phase, seconds in report.phases.items():
                phases[phase] = phases.get(phase, 0.0) + seconds
        found["costs"] = {
            "consolidations": len(pupil.consolidations),
            "learnt_tokens": pupil.memory.observed_tokens,
            "trained_tokens": pupil.trained_tokens,
            "learn_seconds": pupil.learn_seconds,
            "cpu_seconds": cpu,
            **{f"seconds_{phase}": seconds for phase, seconds in phases.items()},
        }
        return found

    mine = ready.once(NAME, policy, which.key, adapted)
    heldout = mine.get("heldout")
    return Taken(
        which,
        policy.name,
        mine["replies"],
        base,
        (world_base["nats"], mine["world"]) if with_texts and pairs else None,
        [] if heldout is None else [heldout[name] / plain[name] - 1 for name in plain],
        mine["costs"],
    )


def _taught(ready: Bench, which: Set, policy: LearningPolicy) -> tuple[Pupil, float]:
    """A memory that was told a set, and the CPU seconds that all of it took."""
    started = time.process_time()
    pupil = Pupil(ready.engine, policy, consolidated=lambda report: ready.progress.advance(1))
    for number, messages in enumerate(which.conversations):
        name = f"told:{number}"
        if which.told == "document":
            pupil.ingest(name, name, [f"{message}\n" for message in messages])
        else:
            for message in messages:
                pupil.say(name, message)
        pupil.end_conversation(name)
    return pupil, time.process_time() - started


def _ask(ready: Bench, texts: Sequence[str], learnt: Learnt) -> list[str]:
    fresh = SessionMemory.fresh(ready.model.fingerprint, ready.policies[0])
    prompts = [chat_prompt(ready.tokenizer, fresh, text) for text in texts]
    with torch.no_grad():
        return ask(ready.model, prompts, learnt, new_tokens=NEW_TOKENS)
