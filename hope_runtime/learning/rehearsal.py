"""Rehearsal of the base model's own behaviour, from its own samples: no foreign text is needed.

Windows of text that the frozen base writes at temperature 1, from nothing and as a chat. While a
level learns, it is held to the base's predictions on them; that is what makes low-rank writes
harmless elsewhere. Written once for a base model, dtype and thread count, then kept in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from hope_runtime.learning.decoding import decode
from hope_runtime.learning.packing import Example
from hope_runtime.learning.reference import Reference, Rehearsed, references
from hope_runtime.model.weights import BaseModel

WINDOWS = 48
WINDOW_TOKENS = 48


def sample_windows(model: BaseModel, seed: int) -> Generator[None, None, list[Rehearsed]]:
    """The base's own windows: half plain text, half chat. Deterministic in `seed`."""
    prompts = _prompts(model)
    rows = [prompts[index % len(prompts)] for index in range(WINDOWS)]
    texts = yield from decode(
        model,
        rows,
        max_tokens=WINDOW_TOKENS,
        stop=model.tokenizer.eos_ids,
        temperature=1.0,
        seed=seed,
    )
    examples = [
        Example(prompt + text, (False,) * len(prompt) + (True,) * len(text))
        for prompt, text in zip(rows, texts, strict=True)
        if len(text) > 1
    ]
    found: list[Reference] = []
    for start in range(0, len(examples), 8):
        found += references(model, examples[start : start + 8], row_tokens=256)
        yield
    return [Rehearsed(*pair) for pair in zip(examples, found, strict=True)]


def _prompts(model: BaseModel) -> Sequence[tuple[int, ...]]:
    """What the samples begin with: the beginning of a text, and of a user's message."""
    tokenizer = model.tokenizer
    opening = tokenizer.bos_id if tokenizer.bos_id is not None else min(tokenizer.eos_ids)
    plain = (opening,)
    if not tokenizer.has_chat_template:
        return [plain]
    pieces = tokenizer.turn_pieces([{"role": "user", "content": "?"}], first=True)
    before = next(index for index, piece in enumerate(pieces) if piece.is_content)
    text = "".join(piece.text for piece in pieces[:before])
    return [plain, tuple(tokenizer.encode_template(text))]
