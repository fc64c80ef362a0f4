"""`hope generate` and `hope score`, and what all turns of the command have in common.

Knows how options become arguments of the client and how a reply is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import AsyncGenerator

from hope.v1 import inference_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.streams import read_text
from hope_client.cli.terminal import Terminal
from hope_client.cli.view import count, to_plain
from hope_client.events import GenerateEvent, Restarted, Resuming

_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
)

_WAITS = {
    pb.STATUS_QUEUED: "waiting for other turns ...",
    pb.STATUS_LEARNING: "learning from earlier turns ...",
}


def generate(app: App) -> int:
    """Runs one turn; the reply streams to stdout."""
    args = app.args
    text = read_text("-") if args.text == "-" else args.text
    events = app.client.generate(
        args.session,
        messages_of(args.system, text),
        conversation=args.conversation,
        learn=False if args.no_learn else None,
        ephemeral=args.ephemeral,
        sampling=sampling_of(args),
        request_id=args.request_id,
        at_version=args.at_version,
    )
    result = app.run(show_reply(app.terminal, events, silent=args.json))
    if args.json:
        app.terminal.json(to_plain(result))
    return 0


def score(app: App) -> int:
    """Scores a text and prints its surprise."""
    args = app.args
    text = read_text(args.file)
    answer = app.run(
        app.client.score(
            args.session,
            text,
            context=args.context,
            frozen=args.frozen,
            at_version=args.at_version,
        )
    )
    mean = answer.total_nats / answer.tokens if answer.tokens else None
    perplexity = None if mean is None else math.exp(min(mean, 700.0))
    if args.json:
        app.terminal.json({**to_plain(answer), "nats_per_token": mean, "perplexity": perplexity})
    elif mean is None:
        app.terminal.print("Nothing to score: the text has no tokens after its context.")
    else:
        app.terminal.print(
            f"{count(answer.tokens)} tokens, {mean:.3f} nats per token, "
            f"perplexity {perplexity:.1f}, memory version {answer.memory_version}"
        )
    return 0


def messages_of(system: str, text: str) -> list[pb.Message]:
    """The user's text, after instructions if there are any."""
    messages = [pb.Message(role=pb.ROLE_USER, content=text)]
    if system:
        messages.insert(0, pb.Message(role=pb.ROLE_SYSTEM, content=system))
    return messages


def sampling_of(args: argparse.Namespace) -> pb.Sampling:
    """The sampling options that were given; the server knows the defaults of the others."""
    try:
        return pb.Sampling(**{name: getattr(args, name) for name in _SAMPLING})
    except ValueError as error:
        print(f"hope: a sampling option is out of range: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def waiting(status: pb.StatusUpdate) -> str:
    """A line that says what a turn waits for, and how far learning is where that is known."""
    text = _WAITS.get(status.status, "waiting ...")
    if status.HasField("learning_fraction"):
        text += f" level {status.learning_level}: {status.learning_fraction:.0%}"
    return text


async def show_reply(
    terminal: Terminal,
    events: AsyncGenerator[GenerateEvent, None],
    *,
    silent: bool = False,
    lead: str = "",
) -> pb.GenerateResult:
    """Writes a turn's text as it comes, ended by a line break, and returns its result.

    `lead` comes before the first piece of text; `silent` shows only waits.
    """
    result = pb.GenerateResult()
    shown = False

    def show(text: str) -> None:
        nonlocal shown
        if text and not silent:
            terminal.write(text if shown else lead + text)
            shown = True

    async with contextlib.aclosing(events):
        with terminal.busy() as busy:
            async for event in events:
                match event:
                    case pb.StatusUpdate():
                        busy.show(waiting(event))
                    case Resuming():
                        busy.show(f"connection lost, retrying in {event.delay_seconds:.1f} s")
                    case pb.TextDelta():
                        busy.stop()
                        show(event.text)
                    case Restarted():
                        busy.stop()
                        if not silent:
                            terminal.print()
                            terminal.note("(connection lost; the reply starts over)")
                    case pb.GenerateResult():
                        result = event
    if not shown:
        show(result.text)
    if not silent:
        terminal.print()
        if result.learning:
            terminal.note(
                "(still learning from earlier turns; answered with memory version "
                f"{result.usage.memory_version})"
            )
    return result
