"""Every store against the model in store_model, over random histories.

Each call succeeds or fails as it does in the model; after each, the two hold the
same sessions and the store breaks none of its laws.
"""

from typing import Any

import hypothesis.strategies as st
import pytest
from compared_store import ComparedStore
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, initialize, multiple, rule, run_state_machine_as_test
from store_harness import Harness

from server.store.base import Commit, Lease, Record, SessionKey, StoredReply

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


class StoreMachine(ComparedStore):
    leases = Bundle("leases")
    commits = Bundle("commits")

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
