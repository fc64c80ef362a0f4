"""The sealed head: what authenticates all of a session's state at once.

A store keeps a summary beside every head and every version. With encryption it is a sealed list:
the caller's summary, the display name, and the digest of every blob under its name. It is sealed
for one user, session, version, base model and policy, so no blob can be changed, left out, or taken
from another name, version, session or user. Blobs themselves are sealed for their user, which is
what lets versions and forks share them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.crypto.cipher import Cipher, UnsealError
from server.store.values import BlobRef, SessionKey


@dataclass(frozen=True, slots=True)
class SealedBlob:
    """A blob as it is stored, and as callers know it."""

    stored_digest: str
    ref: BlobRef


@dataclass(frozen=True, slots=True)
class SealedHead:
    """Content of a sealed summary."""

    lineage: str
    """Random; a session's forks have it too, for they share its log."""
    display_name: str = ""
    summary: bytes = b""
    blobs: Mapping[str, SealedBlob] = field(default_factory=dict)

    def seal(
        self, cipher: Cipher, key: SessionKey, version: int, fingerprint: str, policy: str
    ) -> bytes:
        """The bytes that a store keeps, good at this place only."""
        text = json.dumps(
            {
                "lineage": self.lineage,
                "display_name": self.display_name,
                "summary": base64.b64encode(self.summary).decode(),
                "blobs": _encoded(self.blobs),
            }
        )
        return cipher.seal(text.encode(), _place(key, version, fingerprint, policy))

    @staticmethod
    def open(
        cipher: Cipher,
        sealed: bytes,
        key: SessionKey,
        version: int,
        fingerprint: str,
        policy: str,
        stored: Mapping[str, BlobRef],
    ) -> SealedHead:
        """The sealed content, if it fits the blobs that are `stored`. Raises UnsealError."""
        fields = json.loads(cipher.open(sealed, _place(key, version, fingerprint, policy)))
        blobs = _decoded(fields["blobs"])
        if {name: blob.stored_digest for name, blob in blobs.items()} != {
            name: ref.digest for name, ref in stored.items()
        }:
            raise UnsealError("the blobs do not match the digests in the encrypted session record")
        summary = base64.b64decode(fields["summary"])
        return SealedHead(fields["lineage"], fields["display_name"], summary, blobs)


def seal_progress(
    cipher: Cipher, key: SessionKey, progress: bytes, blobs: Mapping[str, SealedBlob]
) -> bytes:
    """A job's progress, sealed with the digests of the blobs that it has made."""
    fields = {"progress": base64.b64encode(progress).decode(), "blobs": _encoded(blobs)}
    return cipher.seal(json.dumps(fields).encode(), ("job progress", *key))


def open_progress(
    cipher: Cipher, key: SessionKey, sealed: bytes
) -> tuple[bytes, dict[str, SealedBlob]]:
    """Content that `seal_progress` sealed. Raises UnsealError."""
    fields = json.loads(cipher.open(sealed, ("job progress", *key)))
    return base64.b64decode(fields["progress"]), _decoded(fields["blobs"])


def _place(key: SessionKey, version: int, fingerprint: str, policy: str) -> tuple[str, ...]:
    return ("head", key.user, key.session, str(version), fingerprint, policy)


def _encoded(blobs: Mapping[str, SealedBlob]) -> dict[str, list[str | int]]:
    return {
        name: [blob.stored_digest, blob.ref.digest, blob.ref.size_bytes]
        for name, blob in sorted(blobs.items())
    }


def _decoded(entries: Mapping[str, tuple[str, str, int]]) -> dict[str, SealedBlob]:
    return {
        name: SealedBlob(stored, BlobRef(digest, size))
        for name, (stored, digest, size) in entries.items()
    }
