"""`hope bench`: loads a running server with replies, and shows what its users would feel.

Closed loop: every session asks again as soon as its reply has ended. Open loop (--rate): turns
arrive at random times whatever the server does, and one that finds all sessions busy waits for one,
which counts. Turns are ephemeral, and the sessions are deleted in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from hope.v1 import inference_pb2 as pb

from hope_client.cli.app import App
from hope_client.client import HopeClient
from hope_client.errors import HopeClientError

QUESTION = "Tell me a long story about {} ships."
PERCENTS = (50, 90, 99)


@dataclass
class Figures:
    """Seconds of each kind, and counts, of the turns that ended."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """The same in milliseconds and rates, percentiles by their number."""
        kinds = {
            "first_text_ms": self.first,
            "between_texts_ms": self.between,
            "turn_ms": self.whole,
        }
        return {
            "turns": len(self.whole),
            "errors": self.errors,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
            **{name: _percentiles(values) for name, values in kinds.items()},
        }


@dataclass(frozen=True)
class Load:
    """Load on a server. `rate` is turns a second, None for a closed loop."""

    sessions: int
    seconds: float
    max_tokens: int
    rate: float | None
    seed: int


def bench(app: App) -> int:
    """Prints percentiles of latencies and the tokens per second of all sessions together."""
    args = app.args
    load = Load(args.sessions, args.seconds, args.max_tokens, args.rate, args.seed)
    found = app.run(run(app.client, load)).to_json()
    if args.json:
        app.terminal.json(found)
    else:
        for name in ("turns", "errors", "tokens_per_second"):
            app.terminal.print(f"{name.replace('_', ' '):20}{found[name]:.6g}")
        rows = []
        for name, value in found.items():
            if isinstance(value, dict):
                title = name.removesuffix("_ms").replace("_", " ")
                rows.append((title, *(f"{value[str(percent)]:.1f}" for percent in PERCENTS)))
        app.terminal.table(("milliseconds", *(f"p{percent}" for percent in PERCENTS)), rows)
    return 0 if found["turns"] and not found["errors"] else 1


async def run(client: HopeClient, load: Load) -> Figures:
    """Load the server for so many seconds; turns that are at work then still end."""
    figures = Figures()
    async with _sessions(client, load.sessions) as names:
        started = time.monotonic()
        if load.rate is None:
            await asyncio.gather(*(_ask_on(client, name, load, figures) for name in names))
        else:
            await _arrive(client, names, load, load.rate, figures)
        figures.seconds = time.monotonic() - started
    return figures


@contextlib.asynccontextmanager
async def _sessions(client: HopeClient, count: int) -> AsyncIterator[list[str]]:
    """New sessions, which are deleted in the end."""
    prefix = f"bench-{uuid.uuid4().hex[:12]}"
    names: list[str] = []
    try:
        for number in range(count):
            names.append(f"{prefix}-{number}")
            await client.sessions.create(names[-1])
        yield names
    finally:
        for name in names:
            with contextlib.suppress(HopeClientError):
                await client.sessions.delete(name)


async def _ask_on(client: HopeClient, name: str, load: Load, figures: Figures) -> None:
    ends = time.monotonic() + load.seconds
    number = 0
    while time.monotonic() < ends:
        number += 1
        await _ask(client, name, load, figures, time.monotonic(), number)


async def _arrive(
    client: HopeClient, names: Sequence[str], load: Load, rate: float, figures: Figures
) -> None:
    free: asyncio.Queue[str] = asyncio.Queue()
    for name in names:
        free.put_nowait(name)

    async def turn(came: float, number: int) -> None:
        name = await free.get()
        try:
            await _ask(client, name, load, figures, came, number)
        finally:
            free.put_nowait(name)

    arrivals = random.Random(load.seed)
    ends = time.monotonic() + load.seconds
    async with asyncio.TaskGroup() as turns:
        number = 0
        while time.monotonic() < ends:
            await asyncio.sleep(arrivals.expovariate(rate))
            number += 1
            turns.create_task(turn(time.monotonic(), number))


async def _ask(
    client: HopeClient, name: str, load: Load, figures: Figures, came: float, number: int
) -> None:
    """One turn; an error counts and ends nothing else."""
    sampling = pb.Sampling(max_tokens=load.max_tokens, seed=load.seed + number)
    last: float | None = None
    try:
        stream = client.generate(
            name, QUESTION.format(number), ephemeral=True, learn=False, sampling=sampling
        )
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                now = time.monotonic()
                if isinstance(event, pb.TextDelta):
                    if last is None:
                        figures.first.append(now - came)
                    else:
                        figures.between.append(now - last)
                    last = now
                elif isinstance(event, pb.GenerateResult):
                    figures.tokens += event.usage.output_tokens
                    figures.whole.append(now - came)
    except HopeClientError:
        figures.errors += 1


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds by percentile; zeros where nothing was measured."""
    if not seconds:
        return {str(percent): 0.0 for percent in PERCENTS}
    if len(seconds) == 1:
        return {str(percent): 1000 * seconds[0] for percent in PERCENTS}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {str(percent): 1000 * cuts[percent - 1] for percent in PERCENTS}
