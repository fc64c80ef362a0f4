"""Options and help texts of `hope sessions`, action by action."""

from __future__ import annotations

import argparse
from pathlib import Path

from hope_client.cli.commands import Commands, Parser, add_json, uint32, uint64


def add_sessions(commands: Commands, shared: Parser) -> None:
    """Adds `sessions` with its actions, which understand the `shared` options."""
    group = commands.add("sessions", "", "manage sessions")
    actions = Commands(group.add_subparsers(dest="action", metavar="ACTION", required=True), shared)

    def add(
        action: str,
        summary: str,
        *,
        session: str = "session to act on",
        module: str = "sessions",
    ) -> argparse.ArgumentParser:
        parser = actions.add(action, f"{module}:run_{action.replace('-', '_')}", summary)
        if session:
            parser.add_argument("session", metavar="SESSION", help=session)
        add_json(parser)
        return parser

    add("list", "list the sessions of the user", session="")
    create = add("create", "create an empty session", session="")
    create.add_argument(
        "session",
        nargs="?",
        default="",
        metavar="SESSION",
        help="name of the session (default: random)",
    )
    create.add_argument("--display-name", default="", metavar="TEXT", help="display name")
    create.add_argument(
        "--policy", default="", metavar="NAME", help="learning policy (see `hope info`)"
    )
    add("show", "show the details of a session")
    delete = add("delete", "delete a session with its memory, log and versions")
    delete.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    fork = add("fork", "copy a session to a new, independent one")
    fork.add_argument(
        "new_session",
        nargs="?",
        default="",
        metavar="NEW_SESSION",
        help="name of the copy (default: random)",
    )
    fork.add_argument(
        "--version", type=uint64, metavar="N", help="version to copy (default: the current one)"
    )
    rollback = add("rollback", "return to an earlier version", module="versions")
    rollback.add_argument(
        "version",
        nargs="?",
        type=uint64,
        metavar="VERSION",
        help="version to return to (default: the parent of the current one)",
    )
    snapshot = add("snapshot", "name the current version so that it is kept", module="versions")
    snapshot.add_argument(
        "snapshot",
        nargs="?",
        default="",
        metavar="NAME",
        help="name of the snapshot (default: random)",
    )
    add("snapshots", "list the snapshots of a session", module="versions")
    delete_snapshot = add(
        "delete-snapshot",
        "delete a snapshot, so that its version may be collected",
        module="versions",
    )
    delete_snapshot.add_argument(
        "snapshot", metavar="NAME", help="name of the snapshot, as listed by `snapshots`"
    )
    rename = add("rename", "change the display name")
    rename.add_argument("display_name", metavar="TEXT", help="new display name")
    reset = add("reset", "reset levels to the base model", module="versions")
    reset.add_argument(
        "levels",
        nargs="*",
        type=uint32,
        metavar="LEVEL",
        help="levels to reset, 0 being the fastest (default: all)",
    )
    forget = add("forget", "rebuild a session without one document", module="jobs")
    forget.add_argument(
        "document", metavar="DOCUMENT", help="name of the document, as listed by `show`"
    )
    migrate = add(
        "migrate", "rebuild a session under the current definition of a policy", module="jobs"
    )
    migrate.add_argument(
        "--policy",
        default="",
        metavar="NAME",
        help="learning policy (default: that of the session)",
    )
    add(
        "cancel-job",
        "cancel a running forget or migrate, leaving the session unchanged",
        module="jobs",
    )
    export = add("export", "export a session to a file", module="transfer")
    export.add_argument(
        "file", type=Path, metavar="FILE", help="output file, which must not exist yet"
    )
    import_ = add(
        "import",
        "create a session from an exported file",
        session="name of the new session",
        module="transfer",
    )
    import_.add_argument("file", type=Path, metavar="FILE", help="file written by `export`")
    diff = add(
        "diff", "show how much each level changed between two kept versions", module="versions"
    )
    diff.add_argument("before", type=uint64, metavar="FROM", help="version")
    diff.add_argument("after", type=uint64, metavar="TO", help="version")
    add("consolidate", "learn now, without waiting for a boundary", module="learning")
    end = add("end-conversation", "end a conversation, so that it is learnt", module="learning")
    end.add_argument(
        "conversation",
        nargs="?",
        default="",
        metavar="CONVERSATION",
        help="name of the conversation (default: default)",
    )
    end.add_argument(
        "--no-wait", action="store_true", help="return without waiting for the learning"
    )
    delete_user = add("delete-user", "delete all sessions of the user (--user)", session="")
    delete_user.add_argument("--yes", action="store_true", help="do not ask for confirmation")
