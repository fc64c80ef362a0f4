"""The process's standard streams, whatever state they are in, and text that is read from them.

Knows bytes and encodings: text is UTF-8 wherever it comes from, and what cannot be written is
replaced. Which files make documents is in `documents.py`.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from pathlib import Path

_STANDARD_INPUT = "standard input"


class NotTextError(Exception):
    """The input is not UTF-8 text; the message names it, the place and the remedy."""


def prepare() -> None:
    """Makes the three streams usable: one that is closed reads as empty and writes to nowhere, one
    of a narrow encoding writes replacements."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file or connection would take the number, and be written to.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            nowhere = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - as they are
            setattr(sys, name, nowhere)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # somebody's own stream
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def read_text(file: str) -> str:
    """All of a file, or of standard input for `-`, without a byte order mark.

    Raises:
        NotTextError, OSError: it cannot be read.
    """
    if file == "-":
        return decode(sys.stdin.buffer.read(), _STANDARD_INPUT)
    return decode(Path(file).read_bytes(), file)


def read_line(number: int) -> str | None:
    """The next line of standard input, None at its end; `number` counts them from 1.

    Raises:
        NotTextError: it is not UTF-8.
    """
    line = sys.stdin.buffer.readline()
    return decode(line, f"{_STANDARD_INPUT}, line {number}") if line else None


def decode(data: bytes, name: str) -> str:
    """`data` as text, without a byte order mark.

    Raises:
        NotTextError: it is not UTF-8; `name` says where it comes from.
    """
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        begin = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        raise NotTextError(not_utf8(name, begin + error.start)) from None


def not_utf8(name: str, offset: int) -> str:
    """The sentence for bytes that are not UTF-8."""
    return (
        f"{name}: byte {offset:,} (counted from 0) is not UTF-8 text; if the text is in Latin-1 or "
        "Windows-1252, convert it with `iconv -f WINDOWS-1252 -t UTF-8`"
    )
