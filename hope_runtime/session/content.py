"""A digest of a document's bytes that can stop anywhere, be stored, and go on.

The state of a SHA-256 cannot be taken out of hashlib, so the bytes are digested in blocks, each
together with the digest so far; sessions.proto specifies it, and the clients compute the same. A
state is those 32 bytes and, behind them, the bytes of the block that is not complete yet.
"""

from __future__ import annotations

import hashlib

BLOCK_BYTES = 64
DIGEST_BYTES = 32
EMPTY = bytes(DIGEST_BYTES)


def extend(state: bytes, data: bytes) -> bytes:
    """The state after `data`, in any number of pieces."""
    chain, rest = state[:DIGEST_BYTES], state[DIGEST_BYTES:] + data
    whole = len(rest) - len(rest) % BLOCK_BYTES
    for at in range(0, whole, BLOCK_BYTES):
        chain = hashlib.sha256(chain + rest[at : at + BLOCK_BYTES]).digest()
    return chain + rest[whole:]


def fits(state: bytes, committed_bytes: int, ended: bool) -> bool:
    """Whether a state, or of an ended document the digest, can be that of so many bytes. So can an
    empty one, of a document that was not digested."""
    rest = 0 if ended else committed_bytes % BLOCK_BYTES
    return len(state) in (0, DIGEST_BYTES + rest)


def digest(state: bytes) -> bytes:
    """Digest of everything that entered the state."""
    return hashlib.sha256(state).digest()
