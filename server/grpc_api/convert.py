"""Messages of sessions, made from values of the store and of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from google.protobuf.duration_pb2 import Duration
from hope.v1 import sessions_pb2 as pb

from hope_runtime.errors import CorruptStateError
from hope_runtime.learning import Consolidation
from hope_runtime.learning.figures import LEVEL_FIGURES
from hope_runtime.tokenizer import Tokenizer
from server.app.job_state import Ask, Progress
from server.app.session_events import noted_figures
from server.app.summary import decode_summary
from server.app.version_diff import Taught
from server.store.base import Head, SessionKey, Snapshot


def to_snapshot(key: SessionKey, snapshot: Snapshot) -> pb.Snapshot:
    """Message of a snapshot."""
    shown = pb.Snapshot(name=f"{key}/snapshots/{snapshot.name}", version=snapshot.version)
    shown.create_time.FromMicroseconds(int(snapshot.create_time * 1e6))
    return shown


def to_session(
    head: Head, running: Progress | None = None, *, known: AbstractSet[str]
) -> pb.Session:
    """Message of a session. `running` is the progress of its job if that runs on this server; the
    head has the progress of its last checkpoint. `known` are fingerprints of the served
    model."""
    summary = decode_summary(head.summary)
    levels = [
        pb.LevelStatus(
            **{figure.name: getattr(level, figure.name) for figure in LEVEL_FIGURES},
            frozen=level.frozen,
            rejections=level.rejections,
            guards=[_guard(*event) for event in level.guards],
        )
        for level in summary.levels
    ]
    session = pb.Session(
        name=str(head.key),
        display_name=head.display_name,
        policy=head.policy,
        base_fingerprint=head.fingerprint,
        other_base=head.fingerprint not in known,
        memory_version=head.version,
        parent_version=head.parent_version or 0,
        etag=head.etag,
        learnable_tokens=summary.learnable_tokens,
        pending_tokens=summary.pending_tokens,
        state_bytes=head.state_bytes,
        stored_bytes=head.stored_bytes,
        log_records=head.log_seq,
        levels=levels,
        conversations=summary.conversations,
        memory_hash=summary.memory_hash,
        documents=[
            pb.Document(
                name=name,
                committed_bytes=size,
                ended=ended,
                content_digest=bytes.fromhex(digest),
            )
            for name, size, ended, digest in summary.documents
        ],
    )
    session.create_time.FromMicroseconds(int(head.create_time * 1e6))
    session.update_time.FromMicroseconds(int(head.update_time * 1e6))
    if head.job is not None:
        progress = running or Progress.decode(head.job.progress)
        session.job.CopyFrom(to_job(Ask.decode(head.job.request), progress))
    return session


def to_consolidations(reports: Sequence[Consolidation], version: int) -> list[pb.Consolidation]:
    """Messages of the Learner's reports; `version` is that of the memory after them."""
    shown = []
    for report in reports:
        each = noted_consolidation(report.notes() | {"version": version})
        each.duration.CopyFrom(to_duration(report.seconds))
        shown.append(each)
    return shown


def noted_consolidation(notes: Mapping[str, Any]) -> pb.Consolidation:
    """Message of a consolidation, from its notes in the log. Figures that older servers did not
    note are unset. Raises CorruptStateError for notes that no server wrote: an imported log may
    hold anything."""
    fields = noted_figures(notes)
    try:
        shown = pb.Consolidation(memory_version=notes.get("version", 0), **fields)
        shown.guards.extend(_guard(**event) for event in notes.get("guards", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStateError(
            f"the stored figures of a consolidation cannot be decoded: {error}"
        ) from error
    return shown


def _guard(guard: str, value: float, limit: float) -> pb.GuardEvent:
    """Message of a guard's decision. One that this server does not know has its figures only."""
    name = f"GUARD_{guard.upper()}"
    known = dict(pb.Guard.items()).get(name, pb.GUARD_UNSPECIFIED)
    return pb.GuardEvent(guard=known, value=value, limit=limit)


def to_job(ask: Ask, progress: Progress) -> pb.Job:
    """Message of a job."""
    job = pb.Job(
        folded_records=progress.folded_records,
        total_records=progress.total_records,
        learnt_tokens=progress.learnt_tokens,
        total_tokens=progress.total_tokens,
        consolidations=progress.consolidations,
        duration=to_duration(progress.seconds),
    )
    if ask.document:
        job.forget_document = ask.document
    elif ask.statements:
        job.forget_statements.ids.extend(f"{each.seq}.{each.start}" for each in ask.statements)
    else:
        job.migrate_policy = ask.policy
    return job


def to_taught(taught: Taught, tokenizer: Tokenizer) -> pb.TaughtText:
    """Message of a text that one of two versions learnt."""
    excerpt, is_whole = taught.excerpt(tokenizer)
    return pb.TaughtText(
        log_record=taught.log_record,
        taken_back=taught.taken_back,
        conversation=taught.record.conversation,
        document=taught.record.document,
        excerpt=excerpt,
        truncated=not is_whole,
        learnable_tokens=taught.tokens,
        surprise_nats=taught.surprise_nats,
    )


def to_duration(seconds: float) -> Duration:
    """Message of a number of seconds, to the microsecond."""
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
