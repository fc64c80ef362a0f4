"""State of a job as a store keeps it: its request, and how far it is."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from hope_runtime.errors import CorruptStateError
from hope_runtime.session.log import Place, Record, RecordKind

_Fields = TypeVar("_Fields", "Ask", "Progress")


@dataclass(frozen=True, slots=True)
class Ask:
    """Request of a job: fold the whole log, or all of it but one document or some statements, under
    a policy. The digest tells whether the policy has changed since the job began."""

    policy: str
    policy_digest: str
    # Both empty: nothing is left out.
    document: str = ""
    statements: tuple[Place, ...] = ()

    @property
    def forgets(self) -> str:
        """Description of what is left out; "" when nothing is."""
        if self.document:
            return f"document '{self.document}'"
        count = len(self.statements)
        return f"{count} statement{'s' if count > 1 else ''}" if count else ""

    def encode(self) -> bytes:
        fields = asdict(self)
        if not self.statements:  # what older servers wrote, and read
            del fields["statements"]
        return json.dumps(fields).encode()

    @staticmethod
    def decode(data: bytes) -> Ask:
        ask = _decoded_fields(Ask, data)
        try:
            return replace(ask, statements=tuple(Place(*place) for place in ask.statements))
        except TypeError as error:
            raise _undecodable(error) from error

    def records(self) -> list[Record]:
        """Records that the job appends to the log: what says that something was left out."""
        if not self.forgets:
            return []
        record = Record(RecordKind.FORGET, document=self.document, places=self.statements)
        return [replace(record, time=int(time.time()))]


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a rebuild. `seconds` is the time spent on the part that was kept, on all servers;
    `log_seq` is the length of the log that is folded."""

    folded_records: int = 0
    total_records: int = 0
    learnt_tokens: int = 0
    total_tokens: int = 0
    consolidations: int = 0
    seconds: float = 0.0
    log_seq: int = 0

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Progress:
        return _decoded_fields(Progress, data)


def _decoded_fields(kind: type[_Fields], data: bytes) -> _Fields:
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise _undecodable(error) from error


def _undecodable(error: Exception) -> CorruptStateError:
    return CorruptStateError(
        f"the stored job cannot be decoded ({error}); cancel it and start it again"
    )
