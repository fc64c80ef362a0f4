"""Names of server processes as owners of leases, and proof that such a process has ended.

A lease outlives a server that was killed. Whoever finds it on the same machine need not wait for
its end: the owner's name says which process it is, and the kernel knows whether that still runs.
Where the kernel cannot know (another machine, another boot, another namespace of process ids,
a system without /proc), nothing is proven and the lease is waited for.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

# An owner is "process PID on HOST|BOOT|NAMESPACE|PID|START|RANDOM": the first part is for people.
_SEPARATOR = "|"
# States in /proc/PID/stat of a process that runs no more and waits for its parent.
_ENDED_STATES = ("Z", "X", "x")


def new_owner() -> str:
    """A name that no other owner has, for a server in this process."""
    pid = os.getpid()
    found = _stat(pid)
    host = socket.gethostname().replace(_SEPARATOR, "-") or "localhost"
    parts = (
        f"process {pid} on {host}",
        _boot(),
        _namespace(),
        str(pid),
        found[1] if found else "",
        uuid.uuid4().hex,
    )
    return _SEPARATOR.join(parts)


def has_ended(owner: str) -> bool:
    """Whether the owner's process is proven to run no more."""
    parts = owner.split(_SEPARATOR)
    if len(parts) != 6:
        return False
    _, boot, namespace, pid, start, _ = parts
    here = (_boot(), _namespace())
    if not all(here) or here != (boot, namespace) or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # It runs as another user.
        pass
    found = _stat(int(pid))
    if found is None or not start:
        return False
    state, began = found
    # A process id is given again; the moment at which its process began is not.
    return state in _ENDED_STATES or began != start


def _boot() -> str:
    """This boot of this machine; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    """The namespace in which process ids have a meaning: containers have their own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str] | None:
    """State of a process and when it began, in ticks since the boot; None when unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    # The name before the last parenthesis is the program's and may hold anything.
    fields = text.rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else None
