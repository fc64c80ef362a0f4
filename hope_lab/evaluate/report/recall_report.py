"""The figures of the task `recall`, per seed and pooled, as JSON and as tables.

Shares of several seeds are pooled trial by trial and their 95 % intervals are Wilson's. Losses
are means over seeds, except `worst_ratio`, which is the worst of all. Each policy has a document
of its own; what the arms without a memory say is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.table import Table

from hope_lab.evaluate.contenders import ARMS, FROZEN, MEMORY
from hope_lab.evaluate.report.plotting import Curve, plot_curves
from hope_lab.evaluate.report.report import (
    Share,
    mean,
    per_cent,
    pooled,
    print_json,
    print_tables,
    table,
)

if TYPE_CHECKING:
    from hope_lab.evaluate.data.recall_questions import Question
    from hope_lab.evaluate.tasks.recall import SeedResult

INTERVALS = "Wilson, 95 %"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a result besides its seeds; `filler` in tokens asked for."""

    model: str
    policy: str
    told: str
    filler: int
    dtype: str


def print_report(
    found: Sequence[tuple[Sequence[SeedResult], Settings]],
    *,
    as_json: bool,
    show: bool,
    stream: TextIO,
) -> None:
    """Prints the results of all seeds: for one policy a document, for several a list of them."""
    if as_json:
        documents = [document(results, settings) for results, settings in found]
        print_json(documents[0] if len(documents) == 1 else documents, stream)
    else:
        tables = [_tables(results, settings, show=show) for results, settings in found]
        print_tables([each for group in tables for each in group], stream)


def plot(found: Sequence[tuple[Sequence[SeedResult], Settings]], path: Path) -> None:
    """Draws each seed's shares of answers and of completions, a line for each arm."""
    panels: dict[str, dict[str, Curve]] = {}
    for kind in ("answer", "completion"):
        curves = panels.setdefault(f"{kind}s", {})
        for results, settings in found:
            for arm in ARMS:
                shares = [_share(result, (kind,), arm) for result in results]
                points = [
                    (result.seed, share)
                    for result, share in zip(results, shares, strict=True)
                    if share is not None and share.rate is not None
                ]
                name = f"{arm}, {settings.policy}" if arm.startswith(MEMORY) else arm
                if points:
                    curves[name] = _curve(points)
    plot_curves(path, panels, x_label="seed", y_label="share correct")


def _curve(points: Sequence[tuple[int, Share]]) -> Curve:
    return Curve(
        [seed for seed, _ in points],
        [share.rate or 0.0 for _, share in points],
        [share.interval[0] for _, share in points],
        [share.interval[1] for _, share in points],
    )


def document(results: Sequence[SeedResult], settings: Settings) -> dict[str, Any]:
    """The JSON document: the figures of all seeds together, and each seed's under `per_seed`.

    Rates lie between 0 and 1, losses are in nats per token. `seed` is a number, or the list of
    them where there are several.
    """
    seeds = [result.seed for result in results]
    whole = _figures(results) | {
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "seeds": seeds,
        **asdict(settings),
        "intervals": INTERVALS,
    }
    if len(results) > 1:
        whole["per_seed"] = [_figures([item]) | {"seed": item.seed} for item in results]
    whole["asked"] = [
        {"seed": result.seed} | _asked(question)
        for result in results
        for question in result.questions
    ]
    return whole


def _figures(results: Sequence[SeedResult]) -> dict[str, Any]:
    learnt = sum(result.learnt_tokens for result in results)
    seconds = sum(result.learn_seconds for result in results)
    trained = sum(result.trained_tokens for result in results)
    intrusions = {arm: _intrusions(results, arm) for arm in (FROZEN, MEMORY)}
    return {
        "answers": _recalled(results, "answer"),
        "completions": _recalled(results, "completion"),
        "intrusions": intrusions["memory"]["pooled"],
        "intrusions_by_arm": intrusions,
        "heldout_nats": _heldout(results),
        "learn_tokens_per_second": learnt / seconds if seconds else None,
        "passes_per_token": trained / learnt if learnt else None,
        "learn_seconds": seconds,
        "learnt_tokens": learnt,
        "filler_tokens": sum(result.filler_tokens for result in results),
        "state_bytes": max(result.state_bytes for result in results),
        "questions": sum(len(result.questions) for result in results),
    }


def _recalled(results: Sequence[SeedResult], kind: str) -> dict[str, Any]:
    shares = {arm: pooled([_share(result, (kind,), arm) for result in results]) for arm in ARMS}
    return {
        **{arm: None if share is None else share.rate for arm, share in shares.items()},
        "interval": _interval(shares[MEMORY]),
        **{f"{arm}_interval": _interval(shares[arm]) for arm in ARMS if arm != MEMORY},
        "asked": sum(question.kind == kind for r in results for question in r.questions),
    }


def _intrusions(results: Sequence[SeedResult], arm: str) -> dict[str, Any]:
    def share(*kinds: str) -> Share:
        found = pooled([_share(result, kinds, arm) for result in results])
        return found or Share(0, 0)

    both = share("unseen", "unrelated")
    return {
        "pooled": both.rate,
        "interval": _interval(both),
        "unseen": share("unseen").rate,
        "unrelated": share("unrelated").rate,
        "asked": both.count,
    }


def _heldout(results: Sequence[SeedResult]) -> dict[str, Any]:
    base = results[0].heldout_base
    adapted = [result.heldout_adapted for result in results if result.heldout_adapted is not None]
    if not adapted:
        return {"base": base, "adapted": None, "worst_ratio": None, "mean_ratio": None}
    ratios = [found[domain] / base[domain] for found in adapted for domain in base]
    return {
        "base": base,
        "adapted": {domain: mean([found[domain] for found in adapted]) for domain in base},
        "worst_ratio": max(ratios),
        "mean_ratio": mean(ratios),
    }


def _share(result: SeedResult, kinds: Sequence[str], arm: str) -> Share | None:
    """Verdicts of an arm; None where it was not asked for, or its prompt did not fit."""
    asked = [question for question in result.questions if question.kind in kinds]
    if any(arm not in question.verdicts for question in asked):
        return None
    return Share.of(question.verdicts[arm] for question in asked)


def _interval(share: Share | None) -> list[float] | None:
    return None if share is None else list(share.interval)


def _asked(question: Question) -> dict[str, Any]:
    verdict = "correct" if question.item is not None else "intruded"
    return {
        "kind": question.kind,
        "text": question.text,
        "ids": list(question.ids),
        "value": None if question.item is None else question.item.value,
        "replies": question.replies,
        verdict: question.verdicts,
    }


def _tables(results: Sequence[SeedResult], settings: Settings, *, show: bool) -> list[Table]:
    figures = _figures(results)
    seeds = " ".join(str(result.seed) for result in results)
    rows = []
    for name in ("answers", "completions"):
        rates = [per_cent(figures[name][arm]) for arm in ARMS]
        rows.append([name, *rates, _range(figures[name]["interval"])])
    by_arm = figures["intrusions_by_arm"]
    for title, part in (
        ("intrusions", "pooled"),
        ("  unseen", "unseen"),
        ("  unrelated", "unrelated"),
    ):
        rates = [per_cent(by_arm[arm][part]) if arm in by_arm else "-" for arm in ARMS]
        interval = by_arm[MEMORY]["interval"] if part == "pooled" else None
        rows.append([title, *rates, _range(interval)])
    title = f"recall: {settings.model}, policy {settings.policy}, seed {seeds}"
    tables = [table(title, ("", *ARMS, f"memory, {INTERVALS}"), rows)]
    heldout = figures["heldout_nats"]
    tables.append(
        table(
            "held-out texts, nats per token",
            ("", "base", "adapted", "ratio"),
            [
                [name, f"{base:.3f}", f"{adapted:.3f}", f"{adapted / base:.3f}"]
                for name, adapted in (heldout["adapted"] or {}).items()
                for base in [heldout["base"][name]]
            ]
            + [[name, "", "", _number(heldout[f"{name}_ratio"], 3)] for name in ("mean", "worst")],
        )
    )
    costs = [
        ["learnable tokens", f"{figures['learnt_tokens']:,}"],
        ["learnt, tokens a second", _number(figures["learn_tokens_per_second"])],
        ["passes per token", _number(figures["passes_per_token"])],
        ["state, bytes", f"{figures['state_bytes']:,}"],
        ["questions", f"{figures['questions']:,}"],
    ]
    tables.append(table("cost", ("", ""), costs))
    if show:
        tables.append(
            table(
                "asked (all that the model saw is the text and the chat template)",
                ("kind", "asked", "value", "arm", "reply", "correct or intruded"),
                [
                    [
                        question.kind,
                        question.text,
                        question.item.value if question.item else "-",
                        arm,
                        reply.replace("\n", " / "),
                        "yes" if question.verdicts[arm] else "no",
                    ]
                    for result in results
                    for question in result.questions
                    for arm, reply in question.replies.items()
                ],
            )
        )
    return tables


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{per_cent(interval[0])} to {per_cent(interval[1])}"
