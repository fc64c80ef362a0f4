"""Every store against the model in store_model, over random histories.

Each call succeeds or fails as it does in the model; after each, the two hold the
same sessions and the store breaks none of its laws.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from store_harness import Harness
from store_model import Model, Refusal, State

from server.store.base import (
    Commit,
    Head,
    Lease,
    Record,
    SessionKey,
    StoredReply,
    StoreError,
    VersionInfo,
)

TTL = 10.0
USERS = st.sampled_from(["ada", "bob"])
KEYS = st.builds(SessionKey, USERS, st.sampled_from(["x", "y"]))
# Few contents, so that blobs are now and then shared.
NAMES = st.sampled_from(["fast", "level", "window"])
BLOBS = st.dictionaries(NAMES, st.integers(0, 15).map(lambda n: b"%d" % n))
RECORDS = st.lists(st.builds(Record, st.just("turn"), st.binary(max_size=2)), max_size=2)
SNAPSHOTS = st.sampled_from(["before", "later"])
REQUESTS = st.sampled_from(["r1", "r2"])
# Rules that need a lease mostly take the one that is good.
NEWEST = st.sampled_from([True, True, False])


class StoreMachine(RuleBasedStateMachine):
    harness_class: type[Harness]
    leases = Bundle("leases")
    commits = Bundle("commits")

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

    # Calls

    @initialize(key=KEYS, blobs=BLOBS)
    def begin(self, key: SessionKey, blobs: dict[str, bytes]) -> None:
        self.create(key, blobs)

    @rule(key=KEYS, blobs=BLOBS)
    def create(self, key: SessionKey, blobs: dict[str, bytes]) -> None:
        call = self.store.create(key, fingerprint="base", policy="p", blobs=blobs, summary=b"")
        self.outcome(call, self.model.create(key, "base", blobs))

    @rule(key=KEYS, whole_user=st.sampled_from([False, False, True]))
    def delete(self, key: SessionKey, whole_user: bool) -> None:
        if whole_user:
            gone = [self.model.delete(key) for key in self.model.of(key.user)]
            assert self.run(self.store.delete_user(key.user)) == len(gone)
        else:
            self.outcome(self.store.delete(key), self.model.delete(key))

    @rule(
        target=leases,
        key=KEYS,
        owner=st.sampled_from(["a", "b"]),
        after=st.sampled_from([0.0, TTL / 2, TTL]),
    )
    def acquire(self, key: SessionKey, owner: str, after: float) -> Any:
        self.harness.now += after
        refusal = self.model.acquire(key, owner, self.harness.now)
        lease = self.outcome(self.store.acquire(key, owner, TTL), refusal)
        if lease is None:
            return multiple()
        assert lease.fence > self.last_fence
        self.last_fence = lease.fence
        self.model.grant(lease)
        return lease

    @rule(lease=leases)
    def renew(self, lease: Lease) -> None:
        renewed = self.outcome(self.store.renew(lease, TTL), self.model.refuses(lease))
        if renewed:
            assert (renewed.fence, renewed.expires_at) == (lease.fence, self.harness.now + TTL)
            self.model.grant(renewed)

    @rule(lease=leases)
    def release(self, lease: Lease) -> None:
        self.run(self.store.release(lease))
        self.model.release(lease)

    @rule(
        target=commits,
        lease=leases,
        newest=NEWEST,
        put=BLOBS,
        drop=st.frozensets(NAMES),
        records=RECORDS,
        request=st.none() | REQUESTS,
        step=st.sampled_from([0, 0, 0, 1, 1, 2]),
        behind=st.sampled_from([0, 0, 0, 0, 1]),
        ends_job=st.booleans(),
        fingerprint=st.sampled_from([None, None, "other base"]),
    )
    def commit(
        self,
        lease: Lease,
        newest: bool,
        put: dict[str, bytes],
        drop: frozenset[str],
        records: list[Record],
        request: str | None,
        step: int,
        behind: int,
        ends_job: bool,
        fingerprint: str | None,
    ) -> tuple[Lease, Commit]:
        session = self.model.sessions.get(lease.key)
        if newest and session and session.lease:
            lease = session.lease
        nonce = self.next_nonce()
        reply = None
        if request:
            reply = StoredReply(
                request_id=request,
                body_digest=b"d",
                payload=nonce.encode(),
                expires_at=self.harness.now + TTL,
            )
        change = Commit(
            expected_revision=session.revision - behind if session else 1,
            nonce=nonce,
            version=session.state.version + step if session else 1,
            summary=nonce.encode(),
            put_blobs=put,
            drop_blobs=drop - put.keys(),
            records=records,
            reply=reply,
            fingerprint=fingerprint,
            ends_job=ends_job,
        )
        self.commit_again((lease, change))
        return lease, change

    @rule(target=leases, key=KEYS, blobs=st.lists(BLOBS, min_size=1, max_size=4))
    def learn(self, key: SessionKey, blobs: list[dict[str, bytes]]) -> Any:
        """New versions in a row, which the other rules alone would seldom get to."""
        session = self.model.sessions.get(key)
        lease = self.acquire(key, session.lease.owner if session and session.lease else "a", 0)
        if session is None:
            return lease
        for put in blobs:
            nonce = self.next_nonce()
            change = Commit(
                expected_revision=session.revision,
                nonce=nonce,
                version=session.state.version + 1,
                summary=nonce.encode(),
                put_blobs=put,
                records=[Record("learn", nonce.encode())],
            )
            self.commit_again((lease, change))
        return lease

    @rule(again=commits)
    def commit_again(self, again: tuple[Lease, Commit]) -> None:
        lease, change = again
        refusal = self.model.commit(lease, change, self.harness.now)
        if head := self.outcome(self.store.commit(lease, change), refusal):
            self.compare(head)

    @rule(lease=leases, newest=NEWEST, data=st.data(), times=st.integers(1, 2))
    def rollback(self, lease: Lease, newest: bool, data: st.DataObject, times: int) -> None:
        session = self.model.sessions.get(lease.key)
        if newest and session and session.lease:
            lease = session.lease
        revision = session.revision if session else 1
        version = self.some_version(lease.key, data)
        nonce = self.next_nonce()
        record = Record("rollback", b"%d" % version)
        for _ in range(times):
            call = self.store.rollback(
                lease,
                expected_revision=revision,
                nonce=nonce,
                to_version=version,
                record=record,
            )
            refusal = self.model.rollback(lease, revision, nonce, version, record)
            if head := self.outcome(call, refusal):
                self.compare(head)

    @rule(source=KEYS, copy=KEYS, at_version=st.booleans(), data=st.data())
    def fork(
        self, source: SessionKey, copy: SessionKey, at_version: bool, data: st.DataObject
    ) -> None:
        version = self.some_version(source, data) if at_version else None
        refusal = self.model.fork(source, copy, version)
        if head := self.outcome(self.store.fork(source, copy, version=version), refusal):
            self.compare(head)

    @rule(key=KEYS, keep=st.integers(1, 3))
    def collect(self, key: SessionKey, keep: int) -> None:
        count = self.outcome(self.store.collect(key, keep), self.model.missing(key))
        if count is not None:
            assert count == self.model.collect(key, keep)

    @rule(key=KEYS, name=SNAPSHOTS)
    def snapshot(self, key: SessionKey, name: str) -> None:
        refusal = self.model.snapshot(key, name)
        if found := self.outcome(self.store.snapshot(key, name), refusal):
            assert (found.name, found.create_time) == (name, self.harness.now)
            assert found.version == self.model.sessions[key].state.version

    @rule(key=KEYS, name=SNAPSHOTS)
    def delete_snapshot(self, key: SessionKey, name: str) -> None:
        self.outcome(self.store.delete_snapshot(key, name), self.model.delete_snapshot(key, name))

    @rule(
        lease=leases,
        newest=NEWEST,
        request=st.sampled_from([b"forget", b"forget", b"migrate"]),
        progress=st.binary(max_size=1),
        put=BLOBS,
        drop=st.frozensets(NAMES),
    )
    def save_job(
        self,
        lease: Lease,
        newest: bool,
        request: bytes,
        progress: bytes,
        put: dict[str, bytes],
        drop: frozenset[str],
    ) -> None:
        session = self.model.sessions.get(lease.key)
        if newest and session and session.lease:
            lease = session.lease
        drop -= put.keys()
        refusal = self.model.save_job(lease, request, progress, put, drop)
        call = self.store.save_job(
            lease, request=request, progress=progress, put_blobs=put, drop_blobs=drop
        )
        if job := self.outcome(call, refusal):
            assert (job.request, job.progress) == (request, progress)

    @rule(lease=leases)
    def end_job(self, lease: Lease) -> None:
        self.outcome(self.store.end_job(lease), self.model.end_job(lease))

    @rule(key=KEYS, request=REQUESTS)
    def find_reply(self, key: SessionKey, request: str) -> None:
        found = self.outcome(self.store.find_reply(key, request), self.model.missing(key))
        if session := self.model.sessions.get(key):
            assert found == session.live_reply(request, self.harness.now)

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.harness.connect()
        self.run(self.store.open())

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


@pytest.mark.parametrize("more", [1, pytest.param(20, marks=pytest.mark.heavy)])
def test_random_histories(harness_class: type[Harness], more: int) -> None:
    machine = type("Machine", (StoreMachine,), {"harness_class": harness_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=harness_class.histories * more,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
