"""Guards: what each decides, that honest use meets none, and that every decision is replayed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memories import WINDOW, document

from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.errors import DivergedStateError
from hope_runtime.learning import Consolidation, Learner
from hope_runtime.learning.drift import base_norm
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.reference import Reference
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.codec import decode_memory, encode_memory
from hope_runtime.session.fold import due, observe, replay
from hope_runtime.session.guards import Guard, GuardConfig
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.page_hinkley import PageHinkley
from hope_runtime.session.policy import (
    DEFAULT_POLICY,
    UNGUARDED_POLICY,
    LearningPolicy,
    LevelConfig,
)
from hope_runtime.steps import at_once

WIDE = GuardConfig(
    surprise_nats=1e6, update_ratio=1e6, relative_norm=1e6, probe_rise=1e6, freeze_after=2
)


def policy(guards: GuardConfig | None, rate: float = 1e-2) -> LearningPolicy:
    level = LevelConfig(period_tokens=32, rank=4, learning_rate=rate)
    return LearningPolicy("guarded", (level,), recipe="summed_gradient", guards=guards)


def text(part: int) -> Record:
    start = 300 + 32 * part
    return document([tuple(range(start, start + 20)), tuple(range(start + 20, start + 32))])


@pytest.fixture(scope="module")
def learner(chat_model: BaseModel) -> Learner:
    return Learner(chat_model)


def learn(
    learner: Learner, memory: SessionMemory, *records: Record
) -> tuple[SessionMemory, list[Consolidation]]:
    """The memory after the records, and what its boundaries did."""
    reports = []
    for record in records:
        memory = observe(memory, record, window_tokens=WINDOW)
        while (boundary := due(memory)) is not None:
            memory, report = at_once(learner.consolidate(memory, boundary))
            reports.append(report)
    return memory, reports


def fresh(model: BaseModel, guards: GuardConfig | None, rate: float = 1e-2) -> SessionMemory:
    return SessionMemory.fresh(model.fingerprint, policy(guards, rate))


def decided(report: Consolidation) -> list[Guard]:
    return [event.guard for event in report.guards]


def test_the_default_guards_leave_the_digest_that_sessions_are_stored_under() -> None:
    assert DEFAULT_POLICY.guards == GuardConfig()
    bare = replace(DEFAULT_POLICY, guards=None)
    assert DEFAULT_POLICY.digest() == bare.digest()
    other = replace(DEFAULT_POLICY, guards=GuardConfig(probe_rise=0.5))
    assert other.digest() != bare.digest()
    assert replace(UNGUARDED_POLICY, name="default") == bare


def test_guards_that_decide_nothing_change_no_bit(chat_model: BaseModel, learner: Learner) -> None:
    guarded, reports = learn(learner, fresh(chat_model, WIDE), text(0), text(1))
    free, _ = learn(learner, fresh(chat_model, None), text(0), text(1))
    assert [decided(report) for report in reports] == [[], []]
    assert all("guards" not in report.notes() for report in reports)
    assert guarded.levels_digest() == free.levels_digest()


def test_a_change_beyond_the_limit_is_clipped(chat_model: BaseModel, learner: Learner) -> None:
    _, [first, second] = learn(learner, fresh(chat_model, WIDE), text(0), text(1))
    assert first.drift is not None
    assert second.drift is not None
    for report in (first, second):
        assert report.drift is not None
        limit = report.drift.update_ratio * 0.7
        guards = replace(WIDE, update_ratio=limit)
        start = fresh(chat_model, guards)
        if report is second:  # from what the first one left, unclipped
            before, _ = learn(learner, fresh(chat_model, WIDE), text(0))
            start = replace(before, policy=start.policy)
        _, [clipped] = learn(learner, start, text(0) if report is first else text(1))
        assert decided(clipped) == [Guard.CLIPPED]
        assert clipped.guards[0].value == pytest.approx(report.drift.update_ratio)
        assert clipped.drift is not None
        assert 0.2 * limit < clipped.drift.update_ratio <= limit


def test_a_level_beyond_its_budget_decays(chat_model: BaseModel, learner: Learner) -> None:
    _, [free] = learn(learner, fresh(chat_model, WIDE), text(0))
    assert free.drift is not None
    budget = free.drift.relative_norm / 3
    guards = replace(WIDE, relative_norm=budget)
    memory, [report] = learn(learner, fresh(chat_model, guards), text(0))
    assert decided(report) == [Guard.DECAYED]
    adapter = memory.levels[0].adapter
    assert adapter is not None
    assert 0.9 * budget < adapter.norm() / base_norm(chat_model) <= budget
    # The directions are the same.
    assert report.drift is not None
    assert report.drift.effective_rank == pytest.approx(free.drift.effective_rank, rel=0.02)


def test_beyond_reason_is_skipped_and_the_rest_is_taught(
    chat_model: BaseModel, learner: Learner
) -> None:
    record = text(0)
    all_skipped = fresh(chat_model, replace(WIDE, surprise_nats=1e-6))
    nats = {}
    for ids in record.segments[0].spans:
        said = [document([ids]), Record(RecordKind.CONSOLIDATE)]
        memory, [report] = learn(learner, all_skipped, *said)
        assert decided(report) == [Guard.SKIPPED]
        assert (memory.levels[0].adapter, memory.pending) == (None, ())
        nats[ids] = report.guards[0].value
    low, high = sorted(nats.values())
    assert low < high
    guards = replace(WIDE, surprise_nats=(low + high) / 2)
    after, [report] = learn(learner, fresh(chat_model, guards), record)
    assert decided(report) == [Guard.SKIPPED]
    assert report.guards[0].value == pytest.approx(high, rel=1e-5)
    [kept] = [len(ids) for ids, each in nats.items() if each == low]
    assert after.levels[0].learnt_tokens == kept


def test_damage_is_rejected_and_at_last_the_level_freezes(
    chat_model: BaseModel, learner: Learner
) -> None:
    guards = replace(WIDE, probe_rise=0.02)
    start = fresh(chat_model, guards, rate=0.5)
    once, [first] = learn(learner, start, text(0))
    assert decided(first) == [Guard.REJECTED]
    assert first.guards[0].value > 0.02
    assert first.probed is not None
    assert first.guards[0].value == pytest.approx(first.probed.rise)
    assert once.levels[0].adapter is None
    assert (once.pending, once.levels[0].learnt_through) == ((), 32)
    assert not once.learnt_since(start)
    left = once.levels[0].guard
    assert (left.rejections, left.frozen, left.events) == (1, False, first.guards)
    twice, [second] = learn(learner, once, text(1))
    assert decided(second) == [Guard.REJECTED, Guard.FROZEN]
    passed, [third] = learn(learner, twice, text(2))
    assert decided(third) == [Guard.PASSED_OVER]
    assert (third.trained_tokens, passed.levels[0].guard.frozen) == (0, True)
    # What was decided is in the state and in the hash, and is found again by the fold.
    restored = decode_memory(
        encode_memory(passed),
        policies={"guarded": start.policy},
        layout=AdapterLayout(chat_model.config),
        fingerprint=chat_model.fingerprint,
    )
    assert restored.levels == passed.levels
    records = [text(0), text(1), text(2)]
    assert replay(start, records, learner, window_tokens=WINDOW).hash() == passed.hash()
    assert passed.hash() != replace(passed, levels=start.levels).hash()


@pytest.mark.parametrize("kind", [RecordKind.UNFREEZE, RecordKind.RESET])
def test_one_event_lets_a_frozen_level_learn_again(
    chat_model: BaseModel, learner: Learner, kind: RecordKind
) -> None:
    start = fresh(chat_model, WIDE)
    freeze = Record(RecordKind.FREEZE, levels=(0,))
    frozen, [report] = learn(learner, start, freeze, text(0))
    assert decided(report) == [Guard.PASSED_OVER]
    after, [report] = learn(learner, frozen, Record(kind, levels=(0,)), text(1))
    assert decided(report) == []
    assert after.levels[0].adapter is not None
    assert not after.levels[0].guard.frozen


def test_learning_well_forgives(chat_model: BaseModel, learner: Learner) -> None:
    once, _ = learn(learner, fresh(chat_model, replace(WIDE, probe_rise=1e-9), rate=0.5), text(0))
    assert once.levels[0].guard.rejections == 1
    gentle = replace(once, policy=policy(WIDE))
    after, _ = learn(learner, gentle, text(1))
    assert after.levels[0].guard.rejections == 0
    assert after.levels[0].guard.events == ()


def poisoned(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets one place of learning compute what is no number."""
    bad = float("nan")
    match site:
        case "loss":
            nats = LevelTrainer.nats
            monkeypatch.setattr(LevelTrainer, "nats", lambda *args: nats(*args) * bad)
        case "gradient":
            gradient = torch.autograd.grad
            monkeypatch.setattr(
                torch.autograd, "grad", lambda *args: [each * bad for each in gradient(*args)]
            )
        case "terms":
            step = torch.Tensor.sub_
            monkeypatch.setattr(
                torch.Tensor, "sub_", lambda *args, **words: step(*args, **words).mul_(bad)
            )
        case "stored":
            # Finite in float32, and beyond bfloat16 as it is stored.
            step = torch.Tensor.sub_
            monkeypatch.setattr(
                torch.Tensor, "sub_", lambda *args, **words: step(*args, **words).fill_(3.4e38)
            )
        case "probes":
            measure = Reference.divergence
            monkeypatch.setattr(Reference, "divergence", lambda *args: measure(*args) * bad)


SITES = ("loss", "gradient", "terms", "stored", "probes")


@pytest.mark.parametrize("site", SITES)
def test_what_is_no_number_undoes_the_consolidation_and_learning_goes_on(
    chat_model: BaseModel, learner: Learner, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    guards = replace(WIDE, freeze_after=3)
    once, _ = learn(learner, fresh(chat_model, guards), text(0))
    with monkeypatch.context() as patched:
        poisoned(site, patched)
        twice, [report] = learn(learner, once, text(1))
    assert decided(report) == [Guard.DIVERGED]
    assert twice.levels[0].adapter is once.levels[0].adapter
    assert twice.levels[0].guard.rejections == 1
    assert (twice.pending, twice.levels[0].learnt_through) == ((), 64)
    after, [report] = learn(learner, twice, text(2))
    assert decided(report) == []
    assert after.levels[0].updates == 2


@pytest.mark.parametrize("site", SITES)
def test_without_guards_what_is_no_number_is_an_error_and_the_memory_as_it_was(
    chat_model: BaseModel, learner: Learner, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    once, _ = learn(learner, fresh(chat_model, None), text(0))
    before = once.hash()
    with monkeypatch.context() as patched:
        poisoned(site, patched)
        with pytest.raises(DivergedStateError, match="is not finite"):
            learn(learner, once, text(1))
    assert once.hash() == before
    after, _ = learn(learner, once, text(1))
    assert after.levels[0].updates == 2


def test_a_change_is_told_and_changes_nothing_else(chat_model: BaseModel, learner: Learner) -> None:
    quick = PageHinkley(tolerance=0.0, threshold=1e-4, warm_up=2)
    told = replace(WIDE, surprise_change=quick, probes_change=quick)
    records = [text(0), text(0), text(3)]
    free, _ = learn(learner, fresh(chat_model, WIDE), *records)
    memory, reports = learn(learner, fresh(chat_model, told), *records)
    events = [event for report in reports for event in report.guards]
    assert {event.guard for event in events} == {Guard.SURPRISE_CHANGED, Guard.PROBES_CHANGED}
    assert not any(event.guard.decides for event in events)
    assert memory.levels_digest() == free.levels_digest()
    # The streams go on where a stored memory left them.
    restored = decode_memory(
        encode_memory(free),
        policies={"guarded": free.policy},
        layout=AdapterLayout(chat_model.config),
        fingerprint=chat_model.fingerprint,
    )
    assert restored.levels[0].guard == free.levels[0].guard
    assert free.levels[0].guard.surprise.count == 3
