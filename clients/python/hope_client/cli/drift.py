"""`hope drift SESSION`: how a session's levels moved, version by version.

Knows how the history of learning is drawn; what is in it says sessions.proto.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.view import count, short_name, to_plain

BAR_COLUMNS = 32
_EIGHTHS = " ▏▎▍▌▋▊▉"


def drift(app: App) -> int:
    """Prints one plot a level: a bar for each version that the level learnt in."""

    async def collect() -> list[pb.Consolidation]:
        return [each async for each in app.client.sessions.consolidations(app.args.session)]

    history = app.run(collect())
    if app.args.json:
        app.terminal.json({"consolidations": [to_plain(each) for each in history]})
        return 0
    learnt = [each for each in history if each.HasField("drift")]
    if not learnt:
        name = short_name(app.client.sessions.name(app.args.session))
        app.terminal.note(
            f"No drift was measured for {name} yet, because it has not learnt anything."
        )
        return 0
    for number, level in enumerate(sorted({each.level for each in learnt})):
        if number:
            app.terminal.print()
        _plot(app, level, [each for each in learnt if each.level == level])
    return 0


def bar(value: float, largest: float) -> str:
    """A bar whose length says what share of `largest` the value is, to an eighth of a column."""
    share = value / largest if math.isfinite(value) and largest > 0 else 0.0
    eighths = round(max(0.0, min(1.0, share)) * BAR_COLUMNS * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _plot(app: App, level: int, history: Sequence[pb.Consolidation]) -> None:
    app.terminal.print(
        f"level {level}: norm relative to the base weights, and effect on the base model's own "
        "samples"
    )
    largest = max(each.drift.relative_norm for each in history)
    app.terminal.table(
        (
            "version",
            "norm",
            "",
            "change",
            "effective rank",
            "gradient",
            "probe loss",
            "KL",
            "tokens",
            "guards",
        ),
        [
            (
                str(each.memory_version),
                f"{each.drift.relative_norm:.4f}",
                bar(each.drift.relative_norm, largest).ljust(BAR_COLUMNS),
                f"{each.drift.update_ratio:.4f}",
                f"{each.drift.effective_rank:.1f}",
                f"{each.drift.gradient_norm:.3g}",
                _probe_change(each),
                f"{each.probes.divergence_nats:.3f}" if each.HasField("probes") else "-",
                count(each.tokens),
                _decided(each),
            )
            for each in history
        ],
    )


def _decided(each: pb.Consolidation) -> str:
    """Guard decisions, in words."""
    names = (pb.Guard.Name(event.guard) for event in each.guards)
    return ", ".join(name.removeprefix("GUARD_").lower().replace("_", " ") for name in names)


def _probe_change(each: pb.Consolidation) -> str:
    """Change of the loss on the probes, as a share of the frozen base's."""
    if not each.HasField("probes") or not each.probes.frozen_nats:
        return "-"
    return f"{each.probes.adapted_nats / each.probes.frozen_nats - 1:+.2%}"
