"""Catalogue of the errors that callers and operators meet: status, reason, meaning and remedy.

`CATALOGUE` has one entry for each reason code on the wire, `code_of` finds the entry of an
exception, and `TERMINAL` lists the errors that end a command instead. Statuses are those of
google.rpc. docs/errors.md shows the same tables, and a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.rpc import code_pb2

from hope_runtime import errors as runtime
from server.app.documents import DocumentDiffersError
from server.app.event_stream import StalledStreamError
from server.app.ingest import BrokenStreamError
from server.app.jobs import JobCancelledError
from server.app.quotas import QuotaExceededError
from server.app.residency import JobRunningError
from server.app.sessions import DrainingError
from server.app.statements import StatementNotFoundError
from server.auth.tokens import UnauthenticatedError
from server.crypto.files import KeyFileError
from server.crypto.keys import MasterKeyError
from server.store import base as store
from server.telemetry.tracing import TracingError


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One reason code. `retry_seconds` is the delay of RetryInfo, None when none is sent.

    Errors that know a delay of their own (a lease, a quota, a job) replace `retry_seconds`.
    """

    reason: str
    status: int
    meaning: str
    remedy: str
    retry_seconds: float | None = None


INTERNAL = ErrorCode(
    "INTERNAL",
    code_pb2.INTERNAL,
    "The server failed unexpectedly; the message has the reference of its log entry.",
    "Report the reference to the operator, who finds the cause in the server's log.",
)

_CODES = (
    ErrorCode(
        "UNAUTHENTICATED",
        code_pb2.UNAUTHENTICATED,
        "The call has no valid credentials.",
        "Send a valid token or client certificate.",
    ),
    ErrorCode(
        "INVALID_REQUEST",
        code_pb2.INVALID_ARGUMENT,
        "A field of the request has an invalid value.",
        "Correct the field that BadRequest names.",
    ),
    ErrorCode(
        "WINDOW_OVERFLOW",
        code_pb2.INVALID_ARGUMENT,
        "The text is longer than the window.",
        "Shorten the text, or ingest it as a document.",
    ),
    ErrorCode(
        "DOCUMENT_DIFFERS",
        code_pb2.FAILED_PRECONDITION,
        "Another document of this name was read, at least in part.",
        "Choose another name, or forget the document first.",
    ),
    ErrorCode(
        "SESSION_NOT_FOUND",
        code_pb2.NOT_FOUND,
        "The session, or the user, does not exist or belongs to somebody else.",
        "Check the name with ListSessions, or create the session.",
    ),
    ErrorCode(
        "VERSION_NOT_FOUND",
        code_pb2.NOT_FOUND,
        "The session does not keep this version.",
        "Name a recent version or one that a snapshot keeps; ListSnapshots shows those.",
    ),
    ErrorCode(
        "SNAPSHOT_NOT_FOUND",
        code_pb2.NOT_FOUND,
        "The session has no snapshot of this name.",
        "Check the name with ListSnapshots.",
    ),
    ErrorCode(
        "STATEMENT_NOT_FOUND",
        code_pb2.NOT_FOUND,
        "The session was not taught this statement, or it was forgotten or taken back.",
        "Find the ids of statements with ListStatements.",
    ),
    ErrorCode(
        "SESSION_EXISTS",
        code_pb2.ALREADY_EXISTS,
        "The name of the session is taken.",
        "Choose another name, or delete the existing session.",
    ),
    ErrorCode(
        "SNAPSHOT_EXISTS",
        code_pb2.ALREADY_EXISTS,
        "The name of the snapshot is taken.",
        "Choose another name, or delete the existing snapshot.",
    ),
    ErrorCode(
        "STALE_ETAG",
        code_pb2.ABORTED,
        "The session changed after the etag was read.",
        "Read the session again and retry with its new etag.",
    ),
    ErrorCode(
        "SESSION_OWNED_ELSEWHERE",
        code_pb2.UNAVAILABLE,
        "Another server holds the session.",
        "Retry after the given delay.",
        retry_seconds=1.0,
    ),
    ErrorCode(
        "SESSION_LOST",
        code_pb2.ABORTED,
        "The server lost the session to another one before the turn was stored.",
        "Retry after the given delay.",
        retry_seconds=1.0,
    ),
    ErrorCode(
        "JOB_RUNNING",
        code_pb2.UNAVAILABLE,
        "A job is rebuilding the session, which accepts no other call meanwhile.",
        "Wait for the job and retry after the given delay, or end it with CancelJob.",
    ),
    ErrorCode(
        "JOB_CANCELLED",
        code_pb2.ABORTED,
        "The job was cancelled, and the session is as it was before.",
        "Start the job again if its result is still wanted.",
    ),
    ErrorCode(
        "QUOTA_EXCEEDED",
        code_pb2.RESOURCE_EXHAUSTED,
        "A quota of the session or the user is used up; QuotaFailure names which.",
        "Wait if a delay is given, else delete data; learn=false does not count as learning.",
    ),
    ErrorCode(
        "CANCELLED",
        code_pb2.CANCELLED,
        "The turn was cancelled before it was stored, so it had no effect.",
        "Send the turn again if it is still wanted.",
    ),
    ErrorCode(
        "STALLED_STREAM",
        code_pb2.ABORTED,
        "The client did not read the reply for too long, so the turn was cancelled.",
        "Send the turn again and read its reply without long pauses.",
    ),
    ErrorCode(
        "BROKEN_STREAM",
        code_pb2.ABORTED,
        "The chunks of a document stopped before their end was announced.",
        "Resume the ingest at the committed byte.",
        retry_seconds=0.0,
    ),
    ErrorCode(
        "OTHER_BASE_MODEL",
        code_pb2.FAILED_PRECONDITION,
        "The session or the export was learnt on another base model.",
        "Use a server of that base model.",
    ),
    ErrorCode(
        "UNSUPPORTED_MEMORY",
        code_pb2.FAILED_PRECONDITION,
        "The engine of this server cannot serve the memory of the session.",
        "Use a server that runs with --engine native.",
    ),
    ErrorCode(
        "UNKNOWN_STATE_FORMAT",
        code_pb2.FAILED_PRECONDITION,
        "The stored state has a newer format, or its policy is not available as it was.",
        "Use a newer server, or migrate the session to an available policy.",
    ),
    ErrorCode(
        "MEMORY_WOULD_DIVERGE",
        code_pb2.FAILED_PRECONDITION,
        "Learning this text would make the memory non-finite, so nothing was learnt.",
        "Send the text with learn=false, or use a policy with guards.",
    ),
    ErrorCode(
        "CORRUPT_STATE",
        code_pb2.DATA_LOSS,
        "Stored bytes of the session are damaged or cannot be decrypted.",
        "Restore the store or the missing keys from a backup, or delete the session.",
    ),
    ErrorCode(
        "CORRUPT_STORE",
        code_pb2.DATA_LOSS,
        "The store is damaged or belongs to another program.",
        "Follow the message: restore a backup, or choose another store.",
    ),
    ErrorCode(
        "UNKNOWN_STORE_FORMAT",
        code_pb2.FAILED_PRECONDITION,
        "The store was written by a newer program, or its server is too old.",
        "Use the version that the message names.",
    ),
    ErrorCode(
        "STORE_FULL",
        code_pb2.RESOURCE_EXHAUSTED,
        "The store has no room or no permission to write; nothing was changed.",
        "Make room in the store, then retry after the given delay.",
        retry_seconds=60.0,
    ),
    ErrorCode(
        "STORE_LOST",
        code_pb2.UNAVAILABLE,
        "The database file was removed or replaced while the server used it; nothing was changed.",
        "Put the file back or restore a backup, and restart the server.",
        retry_seconds=5.0,
    ),
    ErrorCode(
        "STORE_UNAVAILABLE",
        code_pb2.UNAVAILABLE,
        "The store is busy or cannot be reached; the last commit may have happened.",
        "Retry after the given delay with the same request_id.",
        retry_seconds=1.0,
    ),
    ErrorCode(
        "NOT_FINITE",
        code_pb2.INTERNAL,
        "The model computed a non-finite number, so the turn was discarded.",
        "Retry; if it happens again, check the hardware and --dtype.",
    ),
    ErrorCode(
        "ENGINE_LOST",
        code_pb2.UNAVAILABLE,
        "The process that computes was lost and is being restarted; the turn had no effect.",
        "Retry after the given delay.",
        retry_seconds=5.0,
    ),
    ErrorCode(
        "DRAINING",
        code_pb2.UNAVAILABLE,
        "The server is shutting down.",
        "Retry after the given delay, on another server if there is one.",
        retry_seconds=5.0,
    ),
    ErrorCode(
        "UNIMPLEMENTED",
        code_pb2.UNIMPLEMENTED,
        "The server does not support the method yet.",
        "Use a newer server.",
    ),
    INTERNAL,
)

CATALOGUE: dict[str, ErrorCode] = {code.reason: code for code in _CODES}

# Most specific first: the first class that matches decides.
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (UnauthenticatedError, "UNAUTHENTICATED"),
    (runtime.WindowOverflowError, "WINDOW_OVERFLOW"),
    (DocumentDiffersError, "DOCUMENT_DIFFERS"),
    (runtime.InvalidRequestError, "INVALID_REQUEST"),
    (runtime.FingerprintMismatchError, "OTHER_BASE_MODEL"),
    (runtime.StateVersionError, "UNKNOWN_STATE_FORMAT"),
    (runtime.DivergedStateError, "MEMORY_WOULD_DIVERGE"),
    (runtime.CorruptStateError, "CORRUPT_STATE"),
    (runtime.UnsupportedMemoryError, "UNSUPPORTED_MEMORY"),
    (runtime.NotFiniteError, "NOT_FINITE"),
    (runtime.EngineLostError, "ENGINE_LOST"),
    (runtime.CancelledTurnError, "CANCELLED"),
    (store.VersionNotFoundError, "VERSION_NOT_FOUND"),
    (store.SnapshotNotFoundError, "SNAPSHOT_NOT_FOUND"),
    (store.NotFoundError, "SESSION_NOT_FOUND"),
    (store.SnapshotExistsError, "SNAPSHOT_EXISTS"),
    (store.AlreadyExistsError, "SESSION_EXISTS"),
    (store.LeaseHeldError, "SESSION_OWNED_ELSEWHERE"),
    (store.LeaseLostError, "SESSION_LOST"),
    (store.StaleRevisionError, "STALE_ETAG"),
    (store.CorruptBlobError, "CORRUPT_STATE"),
    (store.CorruptStoreError, "CORRUPT_STORE"),
    (store.StoreVersionError, "UNKNOWN_STORE_FORMAT"),
    (store.StoreFullError, "STORE_FULL"),
    (store.StoreLostError, "STORE_LOST"),
    (store.StoreUnavailableError, "STORE_UNAVAILABLE"),
    (QuotaExceededError, "QUOTA_EXCEEDED"),
    (StatementNotFoundError, "STATEMENT_NOT_FOUND"),
    (JobRunningError, "JOB_RUNNING"),
    (JobCancelledError, "JOB_CANCELLED"),
    (StalledStreamError, "STALLED_STREAM"),
    (BrokenStreamError, "BROKEN_STREAM"),
    (DrainingError, "DRAINING"),
    (NotImplementedError, "UNIMPLEMENTED"),
)

# Errors that end `hope serve`, `hope train` or `hope evaluate` with one line on standard error.
TERMINAL: tuple[tuple[type[Exception], str], ...] = (
    (runtime.ModelNotFoundError, "Check the path or the name given with --model."),
    (runtime.UnsupportedModelError, "Choose a model or an option that the message allows."),
    (runtime.CorruptModelError, "Download or convert the model again."),
    (runtime.TokenizerMissingError, "Give a checkpoint that contains its tokenizer."),
    (runtime.ModelError, "Change the setting that the message names."),
    (KeyFileError, "Replace the certificate or key file that the message names."),
    (MasterKeyError, "Generate a master key with `openssl rand -hex 32`."),
    (TracingError, "Install the extra otel, or omit --otlp-endpoint."),
    (runtime.UnknownRuleError, "Choose one of the update rules that the message lists."),
    (runtime.HyperparameterError, "Give the hyper-parameter a value in the stated range."),
    (runtime.GradientError, "Check the data and the learning rate; parameters are unchanged."),
    (runtime.TrainingDivergedError, "Resume from the last checkpoint with a lower learning rate."),
)


def code_of(error: BaseException | type[BaseException]) -> ErrorCode:
    """The entry of an exception or of its class; INTERNAL for one that is not expected here."""
    kind = error if isinstance(error, type) else type(error)
    for expected, reason in REASONS:
        if issubclass(kind, expected):
            return CATALOGUE[reason]
    return INTERNAL
