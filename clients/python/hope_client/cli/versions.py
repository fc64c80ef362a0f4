"""`hope sessions ...`: the actions on versions and snapshots of a session."""

from __future__ import annotations

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.sessions import report
from hope_client.cli.view import count, moment, rolled_back, short_name, to_plain


def run_rollback(app: App) -> int:
    """Returns to an earlier version."""
    session = app.run(app.client.sessions.rollback(app.args.session, app.args.version))
    return report(app, session, rolled_back(session))


def run_snapshot(app: App) -> int:
    """Names the present version."""
    snapshot = app.run(app.client.sessions.snapshot(app.args.session, app.args.snapshot))
    if app.args.json:
        app.terminal.json(to_plain(snapshot))
    else:
        name = snapshot.name.rpartition("/")[2]
        app.terminal.print(f"Version {snapshot.version} is kept as snapshot {name}.")
    return 0


def run_delete_snapshot(app: App) -> int:
    """Takes the name of a version away."""
    args = app.args
    app.run(app.client.sessions.delete_snapshot(args.session, args.snapshot))
    if args.json:
        app.terminal.json({"deleted": args.snapshot})
    else:
        app.terminal.print(f"Deleted snapshot {args.snapshot}.")
    return 0


def run_snapshots(app: App) -> int:
    """Lists the names of versions."""

    async def collect() -> list[pb.Snapshot]:
        return [each async for each in app.client.sessions.snapshots(app.args.session)]

    found = app.run(collect())
    if app.args.json:
        app.terminal.json({"snapshots": [to_plain(each) for each in found]})
    elif not found:
        app.terminal.note(
            f"No snapshots yet; create one with `hope sessions snapshot {app.args.session} NAME`."
        )
    else:
        app.terminal.table(
            ("snapshot", "version", "made"),
            [
                (each.name.rpartition("/")[2], count(each.version), moment(each.create_time))
                for each in found
            ],
        )
    return 0


def run_reset(app: App) -> int:
    """Returns levels to the base model."""
    args = app.args
    session = app.run(app.client.sessions.reset(args.session, *args.levels))
    which = "All levels were" if not args.levels else f"Levels {_listed(args.levels)} were"
    return report(
        app,
        session,
        f"{which} reset to the base model in version {session.memory_version}; undo with `hope "
        f"sessions rollback {short_name(session.name)}`.",
    )


def run_diff(app: App) -> int:
    """Shows how much of each level changed."""
    args = app.args
    answer = app.run(app.client.sessions.diff(args.session, args.before, args.after))
    if args.json:
        app.terminal.json(to_plain(answer))
    else:
        app.terminal.table(
            ("level", "change"),
            [(str(each.level), f"{each.relative_norm:.5f}") for each in answer.levels],
        )
        for each in answer.taught:
            source = f"document {each.document}" if each.document else each.conversation
            sign = "-" if each.taken_back else "+"
            app.terminal.print(
                f"{sign} {source}, {count(each.learnable_tokens)} tokens: "
                f"{' '.join(each.excerpt.split())}{' ...' if each.truncated else ''}"
            )
        if answer.next_page_token:
            app.terminal.note("More changes exist; read all of them with HopeClient.sessions.diff.")
    return 0


def _listed(levels: list[int]) -> str:
    return ", ".join(map(str, levels))
