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
from hope_runtime.session.policy import POLICIES
from hope_runtime.tokenizer import Tokenizer
from server.app.background_reading import Reading
from server.app.job_state import Ask, Progress
from server.app.reading_queue import ReadingQueue, reads_documents
from server.app.session_events import noted_figures
from server.app.summary import decode_summary
from server.app.version_diff import Taught
from server.store.base import Head, Job, SessionKey, Snapshot


def to_snapshot(key: SessionKey, snapshot: Snapshot) -> pb.Snapshot:
    """Message of a snapshot."""
    shown = pb.Snapshot(name=f"{key}/snapshots/{snapshot.name}", version=snapshot.version)
    shown.create_time.FromMicroseconds(int(snapshot.create_time * 1e6))
    return shown


def to_session(
    head: Head,
    running: Progress | None = None,
    reading: Reading | None = None,
    *,
    known: AbstractSet[str],
) -> pb.Session:
    """Message of a session. `running` is the progress of its job if that runs on this server, and
    `reading` that of a document; the head has what was saved last. `known` are fingerprints of the
    served model."""
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
        document_budget=document_budget(head.policy),
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
    if reads_documents(head.job):
        committed = {name: size for name, size, _, _ in summary.documents}
        session.job.CopyFrom(_to_reading_job(head.job, reading, committed))
    elif head.job is not None:
        progress = running or Progress.decode(head.job.progress)
        session.job.CopyFrom(to_job(Ask.decode(head.job.request), progress))
    return session


def document_budget(policy: str) -> float | None:
    """Budget of documents under a policy; None where it knows none."""
    known = POLICIES.get(policy)
    return None if known is None else known.document_budget


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


def _to_reading_job(
    job: Job | None, reading: Reading | None, committed: Mapping[str, int]
) -> pb.Job:
    assert job is not None
    message = pb.Job(read_documents=pb.DocumentQueue())
    for queued in ReadingQueue.decode(job.progress).documents:
        document = pb.QueuedDocument(
            name=queued.document,
            total_bytes=queued.end,
            committed_bytes=committed.get(queued.document, 0),
            budget=queued.budget,
            error=queued.error,
        )
        if reading is not None and reading.document == queued.document:
            learning = reading.learning
            document.tokens = reading.tokens
            document.duration.CopyFrom(to_duration(reading.seconds))
            document.trained_tokens = learning.trained_tokens
            document.practised_statements = learning.practised_statements
            if learning.budget is not None:
                document.budget = learning.budget
        message.read_documents.documents.append(document)
    return message


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
