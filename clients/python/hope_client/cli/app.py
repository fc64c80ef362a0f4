"""Runs a command: one event loop, one client, one place where errors become a line and a code.

Knows no command in particular. Commands are ordinary functions that hand
coroutines to `App.run`, so that between them the terminal is theirs and Ctrl-C
during one cancels exactly that one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

# Before gRPC is imported: its library prints connection trouble to stderr, which
# reaches the user as an error of the command anyway.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from hope_client.cli.access import CredentialsError, connect
from hope_client.cli.streams import NotTextError
from hope_client.cli.terminal import Terminal
from hope_client.client import HopeClient
from hope_client.errors import (
    DeadlineExceededError,
    HopeClientError,
    NotFoundError,
    UnavailableError,
    UnimplementedError,
)

T = TypeVar("T")

FAILED, INTERRUPTED = 1, 130

# How gRPC words it when there is nobody to talk to; it has no code for that.
_NO_SERVER = ("failed to connect", "connection refused", "resolution failed", "errors resolving")


class App:
    """Context of a command: its options, the terminal, and a client."""

    def __init__(
        self, args: argparse.Namespace, runner: asyncio.Runner, client: HopeClient
    ) -> None:
        self.args = args
        self.client = client
        self.terminal = Terminal()
        self._runner = runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work`; Ctrl-C cancels it and raises KeyboardInterrupt."""
        return self._runner.run(work)

    def explain(self, error: HopeClientError) -> str:
        """One line that says what went wrong and, where that is known, what to do."""
        if isinstance(error, UnavailableError) and not error.reason:
            # No reason: it comes from the connection, not from a server.
            if any(sign in str(error).lower() for sign in _NO_SERVER):
                return (
                    f"Cannot reach a server at {self.args.server}; start one with `hope serve`, "
                    "or name another with --server."
                )
            return f"The connection to {self.args.server} failed: {error}"
        if isinstance(error, DeadlineExceededError) and not error.reason:
            return (
                f"The server did not answer within {self.args.timeout_seconds:g} s "
                "(--timeout-seconds)."
            )
        text = str(error)
        if error.field and error.field not in text:
            text = f"{error.field}: {text}"
        if error.retry_after_seconds:
            text = f"{text.rstrip('.')}; retry in {error.retry_after_seconds:.0f} s"
        if isinstance(error, NotFoundError):
            listing = "list"
            if getattr(self.args, "action", "") == "delete-snapshot":
                listing = f"snapshots {self.args.session}"
            text = f"{text.rstrip('.')}; `hope sessions {listing}` lists what exists"
        elif isinstance(error, UnimplementedError):
            text = f"The server at {self.args.server} does not support this: {text}"
        return text


def run(args: argparse.Namespace) -> int:
    """Runs the command that `args` names and returns its exit code."""
    module, function = args.run.split(":")
    try:
        command = getattr(importlib.import_module(f"hope_client.cli.{module}"), function)
        with asyncio.Runner() as runner:
            client = runner.run(_connect(args))
            app = App(args, runner, client)
            try:
                return int(command(app) or 0)
            except HopeClientError as error:
                if _debugging():
                    raise
                if getattr(args, "json", False):
                    app.terminal.json({"error": _as_json(error)})
                return _failed(app.explain(error))
            finally:
                runner.run(client.close())
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output left; the interpreter must not notice at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a stream without a descriptor
                os.dup2(nowhere, stream.fileno())
        return FAILED
    except EOFError:
        return _failed("Nothing was done, because nobody answered.")
    except OSError as error:
        if _debugging():
            raise
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except UnicodeError as error:
        if _debugging():
            raise
        if isinstance(error, UnicodeEncodeError):  # Python reads the words of a shell like that
            return _failed("The command line is not UTF-8 text; write it in a UTF-8 locale.")
        return _failed(f"The input is not UTF-8 text: {error}.")
    except (CredentialsError, NotTextError) as error:
        return _failed(str(error))


async def _connect(args: argparse.Namespace) -> HopeClient:
    # Within the loop, because a channel belongs to the one that it was made in.
    return connect(args, timeout_seconds=args.timeout_seconds)


def _as_json(error: HopeClientError) -> dict[str, Any]:
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": str(error),
        "field": error.field,
        "retry_after_seconds": error.retry_after_seconds,
    }


def _debugging() -> bool:
    return os.environ.get("HOPE_DEBUG", "") not in ("", "0")


def _failed(line: str) -> int:
    print(f"hope: {line}", file=sys.stderr)
    return FAILED
