"""Completion in the shell: the script of `hope completion`, and the answers to what it asks.

Knows which values a server, the file system or the server's settings can suggest
for which argument; argcomplete knows the shells. A server that is not there, or
does not answer within a second, suggests nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from argcomplete import autocomplete
from argcomplete.completers import FilesCompleter, SuppressCompleter
from argcomplete.shell_integration import shellcode

_SECONDS = 1.0
_MOST = 1000  # sessions that are looked at

# Where a name is asked for that is not there yet.
_NEW_NAMES = ("hope sessions create", "hope sessions import")


def script(shell: str) -> str:
    """Script that a shell runs to complete `hope`."""
    # Without the shell's own idea of a completion: files are suggested where a file belongs.
    return shellcode(["hope"], use_defaults=False, shell=shell)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell, which asks through the environment, and ends the process."""
    if os.environ.get("COMP_LINE", "").split()[1:2] == ["serve"]:
        _add_settings(_commands(parser)["serve"])
    _suggest_for(parser)
    autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())


def _suggest_for(parser: argparse.ArgumentParser) -> None:
    by_destination: dict[str, Callable[..., Iterable[str]]] = {
        "session": _session_names,
        "conversation": _conversation_names,
        "document": _document_names,
        "file": FilesCompleter(),
        "files": FilesCompleter(),
        "model": FilesCompleter(),
        "database": FilesCompleter(),
    }
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _suggest_for(command)
        elif action.dest in by_destination and not (
            action.dest == "session" and parser.prog in _NEW_NAMES
        ):
            vars(action)["completer"] = by_destination[action.dest]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [commands] = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The options of `hope serve`, which are the fields of the server's settings."""
    try:
        fields = importlib.import_module("server.settings").Settings.model_fields
    except ImportError:  # The server is not installed here.
        return
    for name, field in fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description)


def _session_names(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    from hope_client.cli.view import short_name
    from hope_client.client import HopeClient

    async def ask(client: HopeClient) -> list[str]:
        full = "/" in prefix
        names = []
        async for session in client.sessions.list(page_size=_MOST):
            names.append(session.name if full else short_name(session.name))
            if len(names) == _MOST:
                break
        return names

    return _asked(parsed_args, ask)


def _conversation_names(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    return _of_session(parsed_args, lambda session: list(session.conversations))


def _document_names(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    return _of_session(parsed_args, lambda session: [each.name for each in session.documents])


def _of_session(args: argparse.Namespace, names: Callable[[Any], list[str]]) -> list[str]:
    if not getattr(args, "session", ""):
        return []

    async def ask(client: Any) -> list[str]:
        return names(await client.sessions.get(args.session))

    return _asked(args, ask)


def _asked(
    args: argparse.Namespace, ask: Callable[[Any], Coroutine[Any, Any, list[str]]]
) -> list[str]:
    os.environ["GRPC_VERBOSITY"] = "NONE"
    from hope_client.cli.access import CredentialsError, connect
    from hope_client.errors import HopeClientError
    from hope_client.transport import RetryPolicy

    async def within_time() -> list[str]:
        once = RetryPolicy(attempts=1)
        async with connect(args, timeout_seconds=_SECONDS, retry=once) as client:
            async with asyncio.timeout(_SECONDS):
                return await ask(client)

    try:
        return asyncio.run(within_time())
    except (HopeClientError, CredentialsError, OSError, TimeoutError):
        return []
