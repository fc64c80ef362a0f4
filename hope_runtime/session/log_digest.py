"""Digest of a log, by which two sessions are known to have been told the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from hope_runtime.session.log import Record, RecordKind


def extend_digest(digest: bytes, record: Record) -> bytes:
    """Running SHA-256 over what the fold reads of a log, independent of how text was cut.

    Each span enters on its own, so one document in one record or in two hundred gives the same
    digest. Byte offsets, times and notes stay out.
    """
    if record.kind is RecordKind.CONSOLIDATION:
        return digest
    if record.fresh:
        digest = _chain(digest, ("fresh", record.conversation, ""), ())
    for segment in record.segments:
        source: tuple[object, ...] = (
            segment.speaker,
            segment.learnable,
            record.conversation,
            record.document,
        )
        if record.budget is not None:  # it decides what is learnt of the span
            source = (*source, record.budget)
        for span in segment.spans:
            digest = _chain(digest, source, span)
    if record.ended or record.kind not in (RecordKind.TURN, RecordKind.DOCUMENT):
        tag = (record.kind, record.conversation, record.document)
        places = [number for place in record.places for number in place]
        digest = _chain(digest, tag, (*record.levels, *places))
    return digest


def _chain(digest: bytes, tag: Sequence[object], ids: Sequence[int]) -> bytes:
    # JSON, because names may hold any character and two tags must never read the same.
    head = json.dumps(tag).encode()
    body = np.asarray(ids, dtype="<u4").tobytes()
    return hashlib.sha256(digest + len(head).to_bytes(4, "little") + head + body).digest()
