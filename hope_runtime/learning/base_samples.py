"""Rehearsal of the base model's own behaviour, from its own samples: no foreign text is needed.

Windows of text that the frozen base writes at temperature 1, from nothing and as a chat. While a
level learns, it is held to the base's predictions on them; that is what makes low-rank writes
harmless elsewhere. And questions that a user might ask about other things: what users told of
themselves must not become the answer to every "How can I". Written once for a base model and dtype
(kept.py).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

from hope_runtime.learning.packing import Example
from hope_runtime.learning.prompt_prefixes import chat_opening, plain_opening
from hope_runtime.learning.reference import Rehearsed, references
from hope_runtime.learning.sample_cache import SampleCache
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.tokenizer import Tokenizer

WINDOWS = 48
WINDOW_TOKENS = 48
QUESTIONS = 24
QUESTION_TOKENS = 14
# English, like the change of person (english.py).
_OPENINGS = ("How can I", "How do I", "What should I", "Why do I", "Where can I", "Can I")


@dataclass(frozen=True, slots=True)
class BaseSamples:
    """Texts that the base wrote: windows to rehearse, and users' questions as token ids."""

    windows: list[Rehearsed]
    questions: list[tuple[int, ...]]


def sample(
    model: BaseModel, workers: Workers, kept: SampleCache, seed: int
) -> Generator[None, None, BaseSamples]:
    """The base's own samples, deterministic in `seed`; yields on the way."""
    windows = yield from sample_windows(model, workers, kept, seed)
    tokenizer = model.tokenizer
    if not tokenizer.has_chat_template:
        return BaseSamples(windows, [])
    chat = chat_opening(tokenizer)
    rows = [tuple(tokenizer.encode(opening)) for opening in _OPENINGS]
    rows = [rows[index % len(rows)] for index in range(QUESTIONS)]
    ends = kept.write(
        rows,
        prefix=chat,
        max_tokens=QUESTION_TOKENS,
        stop=tokenizer.eos_ids,
        temperature=1.0,
        seed=seed + 1,
    )
    return BaseSamples(windows, [(*row, *end) for row, end in zip(rows, ends, strict=True)])


def sample_windows(
    model: BaseModel, workers: Workers, kept: SampleCache, seed: int, count: int = WINDOWS
) -> Generator[None, None, list[Rehearsed]]:
    """`count` windows of the base's own, half plain text, half chat; fewer where it says nothing.
    Deterministic in `seed`."""
    prompts = _prompts(model.tokenizer)
    rows = [prompts[index % len(prompts)] for index in range(count)]
    texts = kept.write(
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
    yield
    batches = [examples[start : start + 8] for start in range(0, len(examples), 8)]
    found = workers.map(partial(references, model, row_tokens=256), batches)
    return [
        Rehearsed(*pair)
        for batch, views in zip(batches, found, strict=True)
        for pair in zip(batch, views, strict=True)
    ]


def _prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Prefixes of the samples: the beginning of a text, and of a user's message."""
    plain = plain_opening(tokenizer)
    return [plain, chat_opening(tokenizer)] if tokenizer.has_chat_template else [plain]
