"""Owners of leases: which process a name means, and when that process is proven to have ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from server.app.owner import has_ended, new_owner

_PRINT = "from server.app.owner import new_owner; print(new_owner(), flush=True)"


def parts_of(owner: str) -> list[str]:
    return owner.split("|")


def test_names_differ_and_say_which_process_they_mean() -> None:
    first, second = new_owner(), new_owner()
    assert first != second
    assert parts_of(first)[:5] == parts_of(second)[:5]
    assert first.startswith(f"process {os.getpid()} on ")


def test_a_process_that_runs_has_not_ended() -> None:
    assert not has_ended(new_owner())
    with subprocess.Popen(
        [sys.executable, "-c", f"{_PRINT}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        owner = child.stdout.readline().strip()
        assert not has_ended(owner)
        child.kill()
        child.stdout.read()  # until it has let go of everything
        # Not yet waited for by its parent, and ended all the same.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(owner)
        child.wait()
        assert has_ended(owner)


def test_a_process_id_that_was_given_again() -> None:
    _, boot, namespace, pid, start, random = parts_of(new_owner())
    for began in ("1", f"{start}0", "0"):
        assert has_ended("|".join(("another", boot, namespace, pid, began, random)))


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("elsewhere", ["", "another"])
def test_what_another_machine_or_container_does_is_not_known(at: int, elsewhere: str) -> None:
    dead = subprocess.run([sys.executable, "-c", _PRINT], capture_output=True, text=True)
    owner = dead.stdout.strip()
    assert has_ended(owner)
    parts = parts_of(owner)
    parts[at] = elsewhere
    assert not has_ended("|".join(parts))


@pytest.mark.parametrize(
    "owner", ["", "a", "0123456789abcdef" * 2, "|||||", "a|b|c|d|e|f", "p|b|n|-1|s|r"]
)
def test_names_of_another_form_prove_nothing(owner: str) -> None:
    assert not has_ended(owner)


def test_an_unknown_beginning_proves_nothing_while_the_process_id_is_in_use() -> None:
    _, boot, namespace, pid, _, random = parts_of(new_owner())
    assert not has_ended("|".join(("p", boot, namespace, pid, "", random)))
    assert not has_ended("|".join(("p", boot, namespace, "1" * 30, "", random)))
