"""A store beside its model: calls have the same outcome, and the two hold the same after each."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant
from store_harness import Harness
from store_model import Model, Refusal, State

from server.store.base import Head, SessionKey, StoreError, VersionInfo


class ComparedStore(RuleBasedStateMachine):
    """A store beside the model of it, without rules that call them."""

    harness_class: type[Harness]

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.harness = self.harness_class(Path(self.directory.name))
        self.runner = asyncio.Runner()
        self.model = Model()
        self.last_fence = 0
        self.incarnations: dict[int, SessionKey] = {}
        self.nonces = 0
        self.store = self.harness.connect()
        self.run(self.store.open())

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()
        self.directory.cleanup()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(call)

    def outcome(self, call: Coroutine[Any, Any, Any], refusal: Refusal) -> Any:
        """Result of the call, None when it was refused as it should be."""
        if refusal is None:
            return self.run(call)
        with pytest.raises((StoreError, ValueError)) as raised:
            self.run(call)
        assert raised.type is refusal
        return None

    def next_nonce(self) -> str:
        self.nonces += 1
        return str(self.nonces)

    def some_version(self, key: SessionKey, data: st.DataObject) -> int:
        """Mostly one that is kept."""
        session = self.model.sessions.get(key)
        kept = sorted(session.versions) if session else []
        return int(data.draw(st.sampled_from([*kept, *kept, 99])))

    # What holds after every call

    @invariant()
    def store_equals_model(self) -> None:
        self.run(self.compare_all())

    async def compare_all(self) -> None:
        assert await self.store.check_integrity() == []
        for user in ("ada", "bob"):
            heads, _ = await self.store.list_sessions(user)
            assert [head.key for head in heads] == self.model.of(user)
            expected = self.model.user_bytes(user, self.harness.overhead_bytes)
            assert await self.store.user_bytes(user) == expected
            for head in heads:
                self.compare(head)
            # At once: a store on the network takes a while for each.
            await asyncio.gather(
                *(self.compare_contents(head.key) for head in heads),
                *(self.compare_job(head) for head in heads),
            )
        working = {key for key, session in self.model.sessions.items() if session.job}
        assert set(await self.store.jobs()) == working

    def compare(self, head: Head) -> None:
        session = self.model.sessions[head.key]
        assert self.incarnations.setdefault(head.incarnation, head.key) == head.key
        assert head.revision == session.revision
        assert head.stored_bytes == session.stored_bytes(self.harness.overhead_bytes)
        assert described(head) == described(session.state)

    async def compare_job(self, head: Head) -> None:
        expected = self.model.sessions[head.key].job
        if expected is None:
            assert head.job is None
            return
        job, made = await self.store.read_job(head.key)
        assert head.job == job
        assert (job.request, job.progress, made) == expected

    async def compare_contents(self, key: SessionKey) -> None:
        session = self.model.sessions[key]
        oldest = min(session.versions)
        present, log, kept, (named, token), past = await asyncio.gather(
            self.store.read_blobs(key),
            self.store.read_log(key),
            self.store.versions(key),
            self.store.snapshots(key),
            self.store.read_blobs(key, version=oldest),
        )
        assert present == session.state.blobs
        assert log == [(seq, *record) for seq, record in enumerate(session.log, start=1)]
        assert [described(info) for info in kept] == [
            described(state) for _, state in sorted(session.versions.items())
        ]
        assert ([(each.name, each.version) for each in named], token) == (
            sorted(session.snapshots.items()),
            "",
        )
        assert past == session.versions[oldest].blobs


def described(state: Head | VersionInfo | State) -> tuple[Any, ...]:
    """What a head, a version and the model's state have in common."""
    sizes = {
        name: len(blob) if isinstance(blob, bytes) else blob.size_bytes
        for name, blob in state.blobs.items()
    }
    return (
        state.version,
        state.parent_version,
        state.log_seq,
        state.fingerprint,
        state.summary,
        sizes,
    )
