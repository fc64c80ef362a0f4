"""Answers of a memory to questions, each asked alone in a new conversation."""

from __future__ import annotations

from collections.abc import Sequence

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.decoding import decode
from hope_runtime.learning.recipe import Resources
from hope_runtime.learning.recipes.replay.examples import ReplayWriter


def answers(
    resources: Resources,
    writer: ReplayWriter,
    questions: Sequence[str],
    memory: LoraAdapter | None,
    *,
    max_tokens: int,
    rows: int | None = None,
) -> list[str]:
    """Greedy replies of a memory, whose terms are in the model's dtype, or of the frozen base.

    `rows` questions are answered together, which bits may depend on.
    """
    if not questions:
        return []
    tokenizer = resources.model.tokenizer
    prompts = [writer.question(tuple(tokenizer.encode(question))) for question in questions]
    replies = decode(
        resources.model,
        resources.workers,
        [prompt.ids for prompt in prompts],
        prefix=prompts[0].prefix,
        max_tokens=max_tokens,
        stop=tokenizer.eos_ids,
        adapter=memory,
        rows=rows,
    )
    return [tokenizer.decode(reply) for reply in replies]
