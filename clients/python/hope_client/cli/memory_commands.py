"""Options and help texts of `hope memory`, action by action."""

from __future__ import annotations

from hope_client.cli.commands import Commands, Parser, add_json


def add_memory(commands: Commands, shared: Parser) -> None:
    """Adds `memory` with its actions, which understand the `shared` options."""
    group = commands.add("memory", "", "see and correct what a session was taught")
    actions = Commands(group.add_subparsers(dest="action", metavar="ACTION", required=True), shared)
    statements = actions.add("list", "memory:run_list", "list the statements that were taught")
    statements.add_argument("session", metavar="SESSION", help="session to look at")
    statements.add_argument(
        "--query", default="", metavar="TEXT", help="only statements with all of these words"
    )
    statements.add_argument(
        "--document", default="", metavar="NAME", help="only statements of this document"
    )
    statements.add_argument(
        "--rehearsed",
        action="store_true",
        help="only statements that were practised, not merely read",
    )
    add_json(statements)
    forget = actions.add("forget", "memory:run_forget", "rebuild a session without some statements")
    forget.add_argument("session", metavar="SESSION", help="session that forgets")
    forget.add_argument(
        "ids", nargs="+", metavar="ID", help="ids of the statements, as shown by `list`"
    )
    add_json(forget)
