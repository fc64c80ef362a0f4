"""Sealing: what opens, and that nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.crypto.cipher import KEY_BYTES, OVERHEAD_BYTES, Cipher, UnsealError, encode_place

KEY = b"k" * KEY_BYTES
PLACES = st.lists(st.text(max_size=8), max_size=4).map(tuple)


@given(st.binary(max_size=200), PLACES)
def test_what_was_sealed_opens_at_its_place(data: bytes, place: tuple[str, ...]) -> None:
    sealed = Cipher(KEY).seal(data, place)
    assert len(sealed) == len(data) + OVERHEAD_BYTES
    assert Cipher(KEY).open(sealed, place) == data


@given(st.binary(max_size=200), PLACES, PLACES)
def test_nothing_opens_at_another_place(
    data: bytes, place: tuple[str, ...], other: tuple[str, ...]
) -> None:
    if place == other:
        return
    with pytest.raises(UnsealError):
        Cipher(KEY).open(Cipher(KEY).seal(data, place), other)


@given(st.binary(max_size=60), st.data())
def test_no_change_of_a_byte_opens(data: bytes, drawn: st.DataObject) -> None:
    cipher = Cipher(KEY)
    sealed = bytearray(cipher.seal(data, ("blob", "ada")))
    at = drawn.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= drawn.draw(st.integers(1, 255))
    with pytest.raises(UnsealError):
        cipher.open(bytes(sealed), ("blob", "ada"))


@given(st.binary(max_size=100))
def test_what_was_never_sealed_does_not_open(data: bytes) -> None:
    with pytest.raises(UnsealError):
        Cipher(KEY).open(data, ("blob", "ada"))


def test_another_key_does_not_open() -> None:
    sealed = Cipher(KEY).seal(b"content", ("blob", "ada"))
    with pytest.raises(UnsealError):
        Cipher(b"x" * KEY_BYTES).open(sealed, ("blob", "ada"))


def test_equal_contents_are_stored_once_and_others_share_no_nonce() -> None:
    cipher = Cipher(KEY)
    seal = {
        (data, user): cipher.seal(data, ("blob", user)) for data in (b"a", b"b") for user in "pq"
    }
    assert seal[b"a", "p"] == cipher.seal(b"a", ("blob", "p"))
    assert len({sealed[1:13] for sealed in seal.values()}) == 4


@given(PLACES, PLACES)
def test_no_two_places_read_the_same(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert (encode_place(one) == encode_place(other)) == (one == other)
