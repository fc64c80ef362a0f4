"""The figures of the task `recall`, per seed and pooled, as JSON and as tables.

Shares of several seeds are pooled trial by trial and their 95 % intervals are Wilson's. Losses
are means over seeds, except `worst_ratio`, which is the worst of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rich.table import Table

from hope_runtime.evaluate.report import (
    Share,
    mean,
    per_cent,
    pooled,
    print_json,
    print_tables,
    table,
)

if TYPE_CHECKING:
    from hope_runtime.evaluate.recall import Question, SeedResult

INTERVALS = "Wilson, 95 %"
ARMS = ("frozen", "prompt", "memory")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a result depends on besides its seeds; `filler` in tokens asked for."""

    model: str
    policy: str
    told: str
    filler: int
    dtype: str


def print_report(
    results: Sequence[SeedResult], settings: Settings, *, as_json: bool, show: bool, stream: TextIO
) -> None:
    """Prints the result of all seeds."""
    if as_json:
        print_json(document(results, settings), stream)
    else:
        print_tables(_tables(results, settings, show=show), stream)


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
    intrusions = {arm: _intrusions(results, arm) for arm in ("frozen", "memory")}
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
        "interval": _interval(shares["memory"]),
        "frozen_interval": _interval(shares["frozen"]),
        "prompt_interval": _interval(shares["prompt"]),
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
    ratios = [
        result.heldout_adapted[domain] / base[domain] for result in results for domain in base
    ]
    return {
        "base": base,
        "adapted": {
            domain: mean([result.heldout_adapted[domain] for result in results]) for domain in base
        },
        "worst_ratio": max(ratios),
        "mean_ratio": mean(ratios),
    }


def _share(result: SeedResult, kinds: Sequence[str], arm: str) -> Share | None:
    """Verdicts of an arm; None where the prompt did not fit."""
    if arm == "prompt" and not result.prompt_fits:
        return None
    return Share.of(q.verdicts[arm] for q in result.questions if q.kind in kinds)


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
        low, high = figures[name]["interval"]
        rates = [per_cent(figures[name][arm]) for arm in ARMS]
        rows.append([name, *rates, f"{per_cent(low)} to {per_cent(high)}"])
    frozen, memory = (figures["intrusions_by_arm"][arm] for arm in ("frozen", "memory"))
    low, high = memory["interval"]
    rows.append(
        [
            "intrusions",
            per_cent(frozen["pooled"]),
            "-",
            per_cent(memory["pooled"]),
            f"{per_cent(low)} to {per_cent(high)}",
        ]
    )
    for part in ("unseen", "unrelated"):
        rows.append([f"  {part}", per_cent(frozen[part]), "-", per_cent(memory[part]), ""])
    title = f"recall: {settings.model}, policy {settings.policy}, seed {seeds}"
    tables = [table(title, ("", *ARMS, f"memory, {INTERVALS}"), rows)]
    heldout = figures["heldout_nats"]
    tables.append(
        table(
            "held-out texts, nats per token",
            ("", "base", "adapted", "ratio"),
            [
                [name, f"{base:.3f}", f"{adapted:.3f}", f"{adapted / base:.3f}"]
                for name, base in heldout["base"].items()
                for adapted in [heldout["adapted"][name]]
            ]
            + [["mean", "", "", f"{heldout['mean_ratio']:.3f}"]]
            + [["worst", "", "", f"{heldout['worst_ratio']:.3f}"]],
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
