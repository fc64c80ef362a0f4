"""The `hope` command.

Knows which module runs a command; imports nothing else, so that `hope --help`
is instant. The options are in `parser.py`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

_PASSED_ON = {
    "serve": "server.main",
    "evaluate": "hope_lab.evaluate",
    "train": "hope_lab.train.cli",
}
"""Commands with options of their own: the module whose main(argv) gets them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: the process's) and returns its exit code.

    0 done, 1 failed, 130 interrupted; a wrong command line leaves through SystemExit(2).
    """
    from hope_client.cli.streams import prepare

    prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # A shell asks how the line may go on.
        from hope_client.cli.completion import complete
        from hope_client.cli.parser import build_parser

        complete(build_parser())
    if words and words[0] in _PASSED_ON:
        return _pass_on(words[0], words[1:])
    from hope_client.cli.parser import build_parser

    parser = build_parser()
    args = parser.parse_args(words)
    if args.command in _PASSED_ON:
        parser.error(
            f"{args.command} has options of its own; write `hope {args.command} ...` without "
            "global options before it"
        )
    if args.command == "completion":
        from hope_client.cli.completion import script

        print(script(args.shell))
        return 0
    from hope_client.cli.app import run

    return run(args)


def _pass_on(command: str, words: list[str]) -> int:
    try:
        module = importlib.import_module(_PASSED_ON[command])
    except ModuleNotFoundError as error:
        print(
            f"hope: `hope {command}` needs the Python module {error.name!r}; install the package "
            "hope-server",
            file=sys.stderr,
        )
        return 1
    try:
        return int(module.main(words) or 0)
    except KeyboardInterrupt:
        return 130
