"""Sealing of bytes: AES-256-GCM, with what they belong to as associated data.

    sealed = format (1 byte) | nonce (12) | ciphertext | tag (16)

The nonce is made from the content (HMAC-SHA-256 of associated data and plaintext under a key of its
own, cut to 96 bits), so no counter and no source of randomness can repeat it for another content,
and the same content sealed twice gives the same bytes, which a store keeps once. What that tells
who sees the store: which of one user's blobs are equal. Two of n contents of a user meet in a
nonce with a chance of n^2 / 2^97.

Covered: reading, changing, swapping and mixing what is stored. Not covered: putting back all of an
older state, and sizes, times and names, which a store must know.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_FORMAT = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
OVERHEAD_BYTES = len(_FORMAT) + _NONCE_BYTES + _TAG_BYTES


class UnsealError(Exception):
    """The bytes were not sealed like this: another key, another place, or they were changed."""


class Cipher:
    """Seals and opens with one key of KEY_BYTES bytes."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES
        self._aead = AESGCM(_derived(key, b"hope encryption"))
        self._nonce_key = _derived(key, b"hope nonces")

    def seal(self, data: bytes, place: Sequence[str]) -> bytes:
        """`data`, readable at this `place` only."""
        associated = encode_place(place)
        nonce = hmac.new(self._nonce_key, associated + data, hashlib.sha256).digest()
        nonce = nonce[:_NONCE_BYTES]
        return _FORMAT + nonce + self._aead.encrypt(nonce, data, associated)

    def open(self, sealed: bytes, place: Sequence[str]) -> bytes:
        """Content that was sealed for this `place`. Raises UnsealError."""
        if len(sealed) < OVERHEAD_BYTES or sealed[:1] != _FORMAT:
            raise UnsealError("not in the encrypted format; it may have been stored without keys")
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        try:
            return self._aead.decrypt(nonce, sealed[1 + _NONCE_BYTES :], encode_place(place))
        except InvalidTag:
            raise UnsealError("modified, moved, or encrypted with another key") from None


def encode_place(place: Sequence[str]) -> bytes:
    """Each part with its length before it, so that no two places read the same."""
    parts = [part.encode("utf-8", "surrogatepass") for part in place]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=purpose).derive(key)
