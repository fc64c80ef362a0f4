"""Logs of the server: a line for each event, as text or as JSON.

No line holds text of a user or a name. Sessions appear as a tag that is the same as
long as the process lives and leads nowhere else; metrics' exemplars carry the same one. An
exception's message may quote a user, so in JSON it is its type and where it was raised; as text it
is whole, for whoever runs a server of his own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
import time
import traceback
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

LogFormat = Literal["text", "json"]
# Of the call that is being answered. The caller of one that fails is given it too.
request_number: ContextVar[str] = ContextVar("request_number", default="")
# Extra fields of a record, by name.
FIELDS = "fields"
_KEY = secrets.token_bytes(16)


def new_number() -> str:
    """A number for a request or an error; random, so that it says nothing."""
    return secrets.token_hex(4)


def session_tag(name: str) -> str:
    """Stands for a session's full name, 12 characters."""
    return hashlib.blake2b(name.encode(), key=_KEY, digest_size=6).hexdigest()


def configure(kind: LogFormat) -> None:
    """Sends the process's log to the standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    if kind == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC, RFC 3339), `level`, `logger`, `message`, `request` where
    the line belongs to one, and the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if number := request_number.get():
            line["request"] = number
        line |= getattr(record, FIELDS, {})
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["exception"] = kind.__qualname__
            line["raised_at"] = _places(trace)
        return json.dumps(line, ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    if not isinstance(record.args, tuple) or not record.args:
        return record.getMessage()
    quoted = (
        type(each).__qualname__ if isinstance(each, BaseException) else each for each in record.args
    )
    return str(record.msg) % tuple(quoted)


def _places(trace: TracebackType | None) -> list[str]:
    """File, line and function of each frame, outermost first."""
    return [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(trace)
    ]
