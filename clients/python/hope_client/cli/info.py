"""`hope info` and `hope health`: what the server runs, and whether it does."""

from __future__ import annotations

from hope_client.cli.app import App
from hope_client.cli.view import count, size, to_plain
from hope_client.errors import NotFoundError

# The server's health service tells by this name whether its store takes writes.
STORE = "hope.store"


def info(app: App) -> int:
    """Prints the server's version, model and limits."""
    answer = app.run(app.client.server_info())
    if app.args.json:
        app.terminal.json(to_plain(answer))
        return 0
    for label, value in (
        ("server", app.args.server),
        ("version", f"{answer.version} (schema {answer.schema_revision})"),
        ("model", answer.model),
        ("base fingerprint", answer.base_fingerprint),
        ("dtype", answer.dtype),
        ("window", f"{count(answer.window_tokens)} tokens"),
        ("memory per session", f"at most {size(answer.max_state_bytes)}"),
        ("policies", ", ".join(answer.policies)),
    ):
        app.terminal.print(f"{label:20}{value or '-'}")
    return 0


def health(app: App) -> int:
    """Says whether the server takes calls: 0, or 1 while it starts, drains, or is not there."""
    serving = app.run(app.client.serving())
    writable = app.run(_store_is_writable(app))
    if app.args.json:
        app.terminal.json({"serving": serving, "store_writable": writable})
        return 0 if serving else 1
    said = "serving" if serving else "not serving"
    if not writable:
        said += "; the store does not accept writes (the server's log says why)"
    app.terminal.print(said)
    return 0 if serving else 1


async def _store_is_writable(app: App) -> bool:
    try:
        return await app.client.serving(STORE)
    except NotFoundError:  # a server that does not tell
        return True
