"""The bytes that a token stands for, by the way its tokenizer spells them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hope_runtime.tokenizer_backend import SPACE


def byte_table(
    vocabulary: Mapping[str, int], described: Mapping[str, Any], control: Collection[int]
) -> dict[int, bytes]:
    """The bytes of every token by its id. `described` is a parsed tokenizer.json, and `control`
    tokens stand for their names."""
    byte_level = '"ByteLevel"' in json.dumps(described.get("decoder"))
    spell: Callable[[str], bytes] = _byte_level_bytes if byte_level else _sentencepiece_bytes
    return {
        index: token.encode() if index in control else spell(token)
        for token, index in vocabulary.items()
    }


def byte_level_json() -> str:
    """A tokenizer.json whose ids are the bytes of UTF-8."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": level | {"use_regex": False},
            "decoder": level,
            "model": {"type": "BPE", "vocab": byte_alphabet(), "merges": []},
        }
    )


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


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()  # not spelled in bytes: a name that training never merged


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace(SPACE, " ").encode()
