"""Ways in which stored bytes can be wrong: by accident, or made so by somebody."""

from __future__ import annotations

import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**53, 2**63, 2**200, -(2**70), 0.5, 1e300),
    *(float("nan"), float("inf"), "", "a", "ff", "\0", "é" * 50, "user", [], {}, [[]], [None]),
    *({"a": 1}, [1] * 100, json.loads("[" * 200 + "]" * 200)),
)


def mutated_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(6):
            case 0 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(raw):
                raw[at] = rng.choice((0, 1, 127, 128, 255))
            case 2:
                del raw[at : at + rng.choice((1, 8, len(raw)))]
            case 3:
                raw[at:at] = rng.randbytes(rng.choice((1, 4, 64)))
            case 4:
                raw[at:] = other[min(at, len(other)) :]
            case _:  # a length that is not
                raw[:8] = rng.choice((0, 1, len(raw), 2**31, 2**63 - 1, 2**64 - 1)).to_bytes(
                    8, "little"
                )
    return bytes(raw)


def mutated_json(rng: random.Random, value: Any) -> Any:
    """The value with one place in it changed, added, taken away or repeated."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node.insert(key, node[key])
        case 2:
            other, place = rng.choice(places)
            node[key] = json.loads(json.dumps(other[place]))
        case _:
            node[key] = rng.choice(ODD)
    return value
