"""The digest by which a server tells a document from another one of the same name.

`Document.content_digest` in hope/v1/sessions.proto says how it is made. A state is what is needed
to go on: the digest of the whole blocks, and the bytes behind them.
"""

from __future__ import annotations

import hashlib

_BLOCK_BYTES = 64
_DIGEST_BYTES = 32
EMPTY = bytes(_DIGEST_BYTES)


def extend(state: bytes, data: bytes | bytearray) -> bytes:
    """The state after `data`, in any number of pieces."""
    chain, rest = state[:_DIGEST_BYTES], state[_DIGEST_BYTES:] + data
    whole = len(rest) - len(rest) % _BLOCK_BYTES
    for at in range(0, whole, _BLOCK_BYTES):
        chain = hashlib.sha256(chain + rest[at : at + _BLOCK_BYTES]).digest()
    return chain + rest[whole:]


def digest(state: bytes) -> bytes:
    """Digest of everything that entered the state."""
    return hashlib.sha256(state).digest()
