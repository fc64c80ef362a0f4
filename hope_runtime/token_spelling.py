"""Spelling of tokens: the bytes that the text of a vocabulary entry stands for."""

from __future__ import annotations


def byte_alphabet() -> dict[str, int]:
    """The printable characters by which byte-level BPE spells bytes, with the byte of each.

    Printable Latin-1 bytes spell themselves; the others take, in order, the characters from 256.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF = byte_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a token of byte-level BPE."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()  # not spelled in bytes: a name that training never merged


def sentencepiece_bytes(token: str) -> bytes:
    """Bytes of a SentencePiece token: `<0xAB>` is a byte, U+2581 a space."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("\u2581", " ").encode()
