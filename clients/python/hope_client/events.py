"""Events of a running turn or ingest. Knows the wire messages and nothing that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hope.v1 import inference_pb2 as pb

from hope_client.errors import HopeClientError


@dataclass(frozen=True, slots=True)
class Resuming:
    """The call broke; after `delay_seconds` the turn is taken up again.

    An ingest goes on where the server's memory ends. A generate turn is asked for
    again under its request_id, so that it is learnt once whatever became of the first call.
    """

    error: HopeClientError
    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Restarted:
    """The text shown so far is void: the turn ran again and reads differently from there on.

    The text follows from its beginning. Rare: a turn that runs again has the same
    memory and the same seed, so it differs only where rounding decides.
    """


GenerateEvent: TypeAlias = pb.StatusUpdate | pb.TextDelta | Resuming | Restarted | pb.GenerateResult
"""Events of a turn: that it waits, a piece of text, that the connection broke and what that
means for the text, or (last) that it is durable."""

IngestEvent: TypeAlias = pb.StatusUpdate | pb.IngestProgress | Resuming | pb.IngestResult
"""Events of an ingest: that it waits, how far it is, that it reconnects, or (last) its end."""
