"""Queue of documents that a session reads in the background, as a store keeps it: a job.

The job's progress is the queue, its blobs are the texts. So they are sealed, counted and erased
like all else of the session. How far a document was read is in the session's memory alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from hope_runtime.errors import CorruptStateError
from server.app.residency import JobRunningError
from server.store.base import Head, Job

# Until a call that must wait for the job is worth repeating.
RETRY_SECONDS = 30.0
# Request of the job, which tells it from a rebuild's.
REQUEST = b'{"reads": "documents"}'


@dataclass(frozen=True, slots=True)
class QueuedDocument:
    """A document that is read, or waits. Its text begins at byte `offset` and ends at byte `end`.

    `error` is the cause of its being left unread, "" while there is none.
    """

    document: str
    conversation: str
    offset: int
    end: int
    learn: bool = True
    budget: float | None = None
    error: str = ""

    @property
    def blob(self) -> str:
        """Name of the blob that has its text; names of documents may hold anything."""
        return f"text.{hashlib.sha256(self.document.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class ReadingQueue:
    """Documents in the order in which they are read."""

    documents: tuple[QueuedDocument, ...] = ()

    @property
    def next(self) -> QueuedDocument | None:
        """The document to read now; None when none is left that can be read."""
        return next((each for each in self.documents if not each.error), None)

    def with_document(self, document: QueuedDocument) -> ReadingQueue:
        """With a document at the end, in place of one of its name."""
        return ReadingQueue((*self.without(document.document).documents, document))

    def without(self, name: str) -> ReadingQueue:
        """Without the document of this name."""
        return ReadingQueue(tuple(each for each in self.documents if each.document != name))

    def failed(self, name: str, error: str) -> ReadingQueue:
        """With the cause of a document's being left unread."""
        return ReadingQueue(
            tuple(
                replace(each, error=error) if each.document == name else each
                for each in self.documents
            )
        )

    def encode(self) -> bytes:
        """JSON of the queue."""
        return json.dumps([asdict(each) for each in self.documents]).encode()

    @staticmethod
    def decode(data: bytes) -> ReadingQueue:
        """Inverse of `encode`. Raises CorruptStateError."""
        try:
            return ReadingQueue(tuple(QueuedDocument(**each) for each in json.loads(data)))
        except (ValueError, TypeError) as error:
            raise CorruptStateError(
                f"the stored queue of documents cannot be decoded ({error}); cancel the job"
            ) from error


def reads_documents(job: Job | None) -> bool:
    """Whether a session's job reads documents, so that the session goes on beside it."""
    return job is not None and job.request == REQUEST


def require_no_reading(head: Head) -> None:
    """Raise JobRunningError for a session that reads documents in the background."""
    if reads_documents(head.job):
        raise JobRunningError(
            f"session {head.key} reads documents in the background; wait for that job or cancel it",
            RETRY_SECONDS,
        )
