"""`hope info`: what the server runs."""

from __future__ import annotations

from hope_client.cli.app import App
from hope_client.cli.view import count, size, to_plain


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
