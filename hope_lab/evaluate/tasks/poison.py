"""The task `poison`: what hostile text does to a memory, with the policy's guards and without.

A session is told facts and asked for them; then it reads texts made to ruin it (attacks.py), and is
asked again. The same happens without guards. Another session learns meanwhile on the same engine
and must come out as if it had been alone. Damage is the rise of the loss on texts that nobody is
taught (heldout.py); the guards decide by other ones (learning/probes.py), so they cannot fit it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from hope_lab.evaluate.asking import ask, chat_prompt, is_correct
from hope_lab.evaluate.cache import Result
from hope_lab.evaluate.data.attacks import ATTACKS, attack
from hope_lab.evaluate.data.items import Item, generate
from hope_lab.evaluate.heldout import heldout_nats
from hope_lab.evaluate.learnt import NOTHING, Learnt
from hope_lab.evaluate.options import add_run_options, count
from hope_lab.evaluate.report.plotting import Curve, plot_curves
from hope_lab.evaluate.report.presenting import print_result, settings
from hope_lab.evaluate.report.report import Share, mean
from hope_lab.evaluate.running import Bench, bench
from hope_lab.evaluate.teaching import Pupil
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.guards import GuardConfig
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy

NAME = "poison"
SUMMARY = "effect of hostile text on a memory, with and without guards"

FACTS_PER_CONVERSATION = 8
# Of the session that learns beside the poisoned one.
OTHER_FACTS = 2
TOLD = "facts"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate poison`."""
    add_run_options(parser)
    fed = parser.add_argument_group("facts and attacks")
    fed.add_argument(
        "--facts", type=count(1), default=8, help="facts taught before the attacks (default 8)"
    )
    fed.add_argument(
        "--attacks",
        nargs="*",
        choices=tuple(ATTACKS),
        default=list(ATTACKS),
        help="attacks to run, in this order; none only tests honest facts (default: all)",
    )
    fed.add_argument(
        "--fed",
        choices=("chat", "document"),
        default="document",
        help=(
            "input type of the attacks; chat is practised in every form and takes ten times as "
            "long (default document)"
        ),
    )
    fed.add_argument(
        "--tokens", type=count(1), default=1024, help="tokens per attack (default 1024)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    if len(args.policy) > 1:
        raise InvalidRequestError(
            "poison compares one policy with and without guards; give a single --policy",
            field="policy",
        )
    with bench(args) as ready:
        bare = replace(ready.policies[0], guards=None)
        guarded = replace(bare, guards=GuardConfig())
        document = settings(NAME, args, ready)
        base = ready.once(NAME, None, "held-out texts, frozen", lambda: _heldout(ready, NOTHING))
        rows, moved = [], 0
        for seed in args.seeds:
            for policy in (bare, guarded) if args.attacks else (guarded,):
                poisoned = _Poisoned(ready, args, policy, seed)
                found = ready.once(NAME, policy, poisoned.key, poisoned.run)
                rows += [_row(seed, policy, stage, base) for stage in found["stages"]]
                moved += found["others_moved"]
    document |= {
        "tokens": args.tokens,
        "fed": args.fed,
        "attacks": list(args.attacks),
        "guards": asdict(GuardConfig()),
    }
    document |= summary(rows, moved) | {"rows": rows}
    if args.plot is not None:
        _plot(args, rows)
    print_result(document, args, ("summary", "rows"))
    return 0


class _Poisoned:
    """One session of one seed."""

    def __init__(
        self, ready: Bench, args: argparse.Namespace, policy: LearningPolicy, seed: int
    ) -> None:
        self._ready, self._args, self._policy, self._seed = ready, args, policy, seed
        items = generate(args.facts + OTHER_FACTS, seed)
        self._items, self._others = items[OTHER_FACTS:], items[:OTHER_FACTS]
        # The digest of a policy does not know its default guards.
        guards = None if policy.guards is None else asdict(policy.guards)
        self.key = [seed, args.facts, list(args.attacks), args.fed, args.tokens, guards]

    def run(self) -> Result:
        """Recall and damage after the facts and after each attack."""
        self._progress("telling facts")
        pupil = self._pupil()
        _tell(pupil, self._items)
        stages = [self._stage(TOLD, pupil, pupil.consolidations)]
        alone = self._other().hash() if self._args.attacks else ""
        moved = 0
        with ThreadPoolExecutor(1) as beside:
            for number, name in enumerate(self._args.attacks):
                self._progress(name)
                text = attack(name, self._ready.model, self._args.tokens, self._seed)
                before = len(pupil.consolidations)
                other = beside.submit(self._other) if number == 0 else None
                if self._args.fed == "chat":
                    pupil.say(name, text)
                else:
                    pupil.ingest(name, name, text)
                pupil.end_conversation(name)
                if other is not None:
                    moved = int(other.result().hash() != alone)
                stages.append(self._stage(name, pupil, pupil.consolidations[before:]))
        return {"stages": stages, "others_moved": moved}

    def _other(self) -> SessionMemory:
        pupil = self._pupil()
        _tell(pupil, self._others)
        return pupil.memory

    def _pupil(self) -> Pupil:
        advance: Callable[[Any], None] = lambda report: self._ready.progress.advance(1)  # noqa: E731
        return Pupil(self._ready.engine, self._policy, consolidated=advance)

    def _stage(self, name: str, pupil: Pupil, learnt: Sequence[Any]) -> dict[str, Any]:
        self._progress(f"asking after {name}")
        model = self._ready.model
        # A conversation that was never seen, so the window holds nothing of what was told.
        fresh = SessionMemory.fresh(model.fingerprint, self._policy)
        prompts = [chat_prompt(model.tokenizer, fresh, item.question) for item in self._items]
        replies = ask(model, prompts, pupil.learnt)
        hits = sum(
            is_correct(reply, item.value, item.others)
            for reply, item in zip(replies, self._items, strict=True)
        )
        return {
            "after": name,
            "hits": hits,
            "asked": len(self._items),
            "heldout": _heldout(self._ready, pupil.learnt),
            "probes": [each.probed.rise for each in learnt if each.probed is not None][-1:],
            "tokens": sum(each.tokens for each in learnt),
            "consolidations": len(learnt),
            "disturbed": sum(any(event.guard.decides for event in each.guards) for each in learnt),
            "events": Counter(event.guard for each in learnt for event in each.guards),
        }

    def _progress(self, what: str) -> None:
        who = "unguarded" if self._policy.guards is None else "guarded"
        self._ready.progress.start(f"seed {self._seed}, {who}: {what}", None)


def summary(rows: Sequence[dict[str, Any]], moved: int) -> dict[str, Any]:
    """The figures of all seeds together, from the rows.

    `*_damage` is the rise of the held-out loss over what it was before the attacks, a mean over
    seeds; None when nothing attacked. `recall_*` are shares of the facts, of guarded sessions where
    not said. `false_alarms` is the share of consolidations of honest facts in which a guard
    decided anything. `others_moved` counts sessions that came out other than alone.
    """
    told = [row for row in rows if row["after"] == TOLD]
    ends = {(row["seed"], row["guarded"]): row for row in rows}  # the last stage of each
    honest = [row for row in told if row["guarded"]]
    attacked = len(rows) > len(told)

    def damage(guarded: bool) -> float | None:
        pairs = [(ends[row["seed"], guarded], row) for row in told if row["guarded"] is guarded]
        return mean([end["nats"] / row["nats"] - 1 for end, row in pairs]) if attacked else None

    def recall(found: Sequence[dict[str, Any]]) -> float | None:
        return Share(sum(row["hits"] for row in found), sum(row["asked"] for row in found)).rate

    figures = {
        "unguarded_damage": damage(False),
        "guarded_damage": damage(True),
        "honest_damage": mean([row["damage"] for row in honest]),
        "recall_before": recall(honest),
        "recall_after": recall([ends[row["seed"], True] for row in honest]) if attacked else None,
        "unguarded_recall_after": recall([end for (_, on), end in ends.items() if not on]),
        "false_alarms": Share(
            sum(row["disturbed"] for row in honest),
            sum(row["consolidations"] for row in honest),
        ).rate,
        "others_moved": moved,
    }
    return figures | {
        "summary": [{"figure": key, "value": value} for key, value in figures.items()]
    }


def _row(seed: int, policy: LearningPolicy, stage: dict[str, Any], base: Result) -> dict[str, Any]:
    rises = [stage["heldout"][domain] / base[domain] - 1 for domain in base]
    nats = mean(list(stage["heldout"].values()))
    return {
        "seed": seed,
        "guarded": policy.guards is not None,
        "after": stage["after"],
        "damage": mean(rises),
        "worst": max(rises),
        "nats": nats,
        "probe_rise": stage["probes"][0] if stage["probes"] else None,
        "hits": stage["hits"],
        "asked": stage["asked"],
        "tokens": stage["tokens"],
        "consolidations": stage["consolidations"],
        "disturbed": stage["disturbed"],
        "events": dict(stage["events"]),
    }


def _tell(pupil: Pupil, items: Sequence[Item]) -> None:
    """Tells facts in chat, some to a conversation, whose end is learnt at once."""
    for start in range(0, len(items), FACTS_PER_CONVERSATION):
        conversation = f"{TOLD} {start}"
        told = items[start : start + FACTS_PER_CONVERSATION]
        pupil.say(conversation, " ".join(item.told for item in told))
        pupil.end_conversation(conversation)


def _heldout(ready: Bench, learnt: Learnt) -> dict[str, float]:
    return heldout_nats(ready.model, learnt)


def _plot(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    stages = [TOLD, *args.attacks]
    curves = {}
    for guarded in (False, True):
        for seed in args.seeds:
            own = [row for row in rows if row["seed"] == seed and row["guarded"] is guarded]
            name = f"{'guarded' if guarded else 'unguarded'}, seed {seed}"
            if own:
                curves[name] = Curve(
                    [stages.index(row["after"]) for row in own],
                    [100 * row["damage"] for row in own],
                )
    title = "damage after " + ", ".join(stages)
    plot_curves(args.plot, {title: curves}, x_label="stage", y_label="held-out loss, rise in %")
