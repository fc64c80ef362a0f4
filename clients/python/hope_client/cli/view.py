"""Presentation of messages: plain values for --json, lines and tables for people.

Knows the messages of the wire and how figures are written; knows no streams.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hope.v1 import sessions_pb2

LEVEL_HEADERS = (
    "level",
    "period",
    "rank",
    "updates",
    "relative norm",
    "learnt tokens",
    "surprise before -> after",
)


def to_plain(message: Message) -> dict[str, Any]:
    """Fields by name, every one of them: integers as numbers, enums by name, unset as None.

    Timestamps are RFC 3339 text, bytes hexadecimal; a duration `x` becomes `x_seconds`. The JSON
    mapping of protobuf would turn every 64-bit integer into a string.
    """
    plain: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if hasattr(value, "append"):
            plain[field.name] = [
                to_plain(item) if isinstance(item, Message) else item for item in value
            ]
        elif isinstance(value, Duration):
            seconds = value.seconds + value.nanos / 1e9
            plain[f"{field.name}_seconds"] = seconds if message.HasField(field.name) else None
        elif field.has_presence and not message.HasField(field.name):
            plain[field.name] = None
        elif isinstance(value, Timestamp):
            plain[field.name] = value.ToJsonString()
        elif isinstance(value, bytes):
            plain[field.name] = value.hex()
        elif isinstance(value, Message):
            plain[field.name] = to_plain(value)
        elif field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            plain[field.name] = known.name if known else value
        else:
            plain[field.name] = value
    return plain


def level_rows(session: sessions_pb2.Session) -> list[tuple[str, ...]]:
    """One row a level, under LEVEL_HEADERS."""
    return [
        (
            str(index),
            count(level.period_tokens),
            str(level.rank),
            count(level.updates),
            f"{level.relative_norm:.4f}",
            count(level.learnt_tokens),
            f"{level.surprise_before_nats:.2f} -> {level.surprise_after_nats:.2f}"
            if level.HasField("surprise_before_nats") and level.HasField("surprise_after_nats")
            else "-",
        )
        for index, level in enumerate(session.levels)
    ]


def learnt_lines(
    consolidations: Iterable[sessions_pb2.Consolidation], elapsed_seconds: float
) -> list[str]:
    """Summary of a consolidation, as the end of a line that began with "learning ..."."""
    figures = [
        f"{count(each.spans)} spans, surprise "
        f"{each.surprise_before_nats:.1f} -> {each.surprise_after_nats:.1f}"
        for each in consolidations
    ]
    done = f"done in {duration(elapsed_seconds)}"
    if not figures:
        return ["nothing to learn"]
    if len(figures) == 1:
        return [f"{done}, {figures[0]}"]
    levels = [each.level for each in consolidations]
    return [done, *(f"  level {n}: {text}" for n, text in zip(levels, figures, strict=True))]


def count(number: int) -> str:
    """1234567 as 1,234,567."""
    return f"{number:,}"


def size(number_of_bytes: float) -> str:
    """Bytes in decimal units: 12.2 MB."""
    for unit in ("B", "kB", "MB"):
        if number_of_bytes < 1000:
            return f"{number_of_bytes:.0f} B" if unit == "B" else f"{number_of_bytes:.1f} {unit}"
        number_of_bytes /= 1000
    return f"{number_of_bytes:.1f} GB"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 5 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def short_name(name: str) -> str:
    """`diary` for users/{user}/sessions/diary."""
    return name.rsplit("/", 1)[-1]


def moment(timestamp: Timestamp) -> str:
    """Local time to the minute, or - if there is none."""
    if not timestamp.seconds:
        return "-"
    from datetime import UTC

    return f"{timestamp.ToDatetime(tzinfo=UTC).astimezone():%Y-%m-%d %H:%M}"


def rolled_back(session: sessions_pb2.Session) -> str:
    """One sentence that describes a rollback."""
    return (
        f"Rolled back to version {session.parent_version}; the session is now at version "
        f"{session.memory_version}."
    )
