"""The digest of a document's bytes: the same however they come, another one for any other bytes."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.session.content import BLOCK_BYTES, DIGEST_BYTES, EMPTY, digest, extend, fits

PIECES = st.lists(st.binary(max_size=200), max_size=6)


@given(PIECES)
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    state = EMPTY
    for piece in pieces:
        state = extend(state, piece)
    whole = b"".join(pieces)
    assert state == extend(EMPTY, whole)
    assert len(state) == DIGEST_BYTES + len(whole) % BLOCK_BYTES
    assert fits(state, len(whole), False)
    assert fits(digest(state), len(whole), True)
    assert fits(b"", len(whole), False)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_other_bytes_have_another_digest(one: bytes, other: bytes) -> None:
    assert (digest(extend(EMPTY, one)) == digest(extend(EMPTY, other))) == (one == other)


def test_it_is_what_the_protocol_says() -> None:
    assert digest(EMPTY) == hashlib.sha256(bytes(32)).digest()
    first = hashlib.sha256(bytes(32) + b"a" * 64).digest()
    assert digest(extend(EMPTY, b"a" * 64)) == hashlib.sha256(first).digest()
    assert digest(extend(EMPTY, b"a" * 65)) == hashlib.sha256(first + b"a").digest()


def test_a_state_of_another_length_does_not_fit() -> None:
    state = extend(EMPTY, b"abc")
    assert not fits(state, 4, False)
    assert not fits(state, 3, True)
    assert not fits(b"abc", 3, False)
