"""Contrasts: what is asked about people and things that nobody mentioned, where nothing may change.

Without them every question of a taught form would get the taught answer. There are two kinds. The
told ones are written before training: a taught exchange with the name exchanged, up to the place
where the value begins. The answered ones are written by the level itself while it learns: it is
asked about a stranger, or after something was said in the first person about anything else, and
is held to the base along its own reply, wherever that went.

Shape suffixes: see packing.py.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from itertools import chain

from hope_runtime.learning.decoding import decode
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import ROW_TOKENS, in_batches
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.reference import Rehearsed, references, up_to_surprise
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel

# Tokens of a reply in which an intrusion would have shown.
REPLY_TOKENS = 12


class Negatives:
    """Writes contrasts for the statements of one base model's sessions."""

    def __init__(self, model: BaseModel, workers: Workers, writer: ReplayWriter) -> None:
        self._model = model
        self._workers = workers
        self._writer = writer

    def told(
        self, statements: Sequence[Statement], each: int, rng: random.Random
    ) -> list[Rehearsed]:
        """`each` contrasts for every statement, about different strangers."""
        written = [self._writer.contrast(item, rng) for item in statements for _ in range(each)]
        examples = [example for example in written if example is not None]
        batches = in_batches(examples)
        read = partial(up_to_surprise, self._model, row_tokens=ROW_TOKENS)
        return [*chain.from_iterable(self._workers.map(read, batches))]

    def answered(
        self,
        trainer: LevelTrainer,
        statements: Sequence[Statement],
        questions: Sequence[tuple[int, ...]],
        rng: random.Random,
    ) -> list[Rehearsed]:
        """The trainee's present replies about a stranger for each statement that names somebody,
        and to one of `questions` for each in the first person."""
        prompts = []
        for item in statements:
            if item.first_person and questions:
                prompts.append(self._writer.question(rng.choice(questions)))
            elif prompt := self._writer.stranger_question(item, rng):
                prompts.append(prompt)
        if not prompts:
            return []
        replies = decode(
            self._model,
            self._workers,
            [(*prompt.prefix, *prompt.ids) for prompt in prompts],
            max_tokens=REPLY_TOKENS,
            stop=self._model.tokenizer.eos_ids,
            adapter=trainer.snapshot(),
        )
        examples = [
            prompt.followed_by(reply)
            for prompt, reply in zip(prompts, replies, strict=True)
            if reply
        ]
        batches = in_batches(examples)
        views = self._workers.map(partial(references, self._model, row_tokens=ROW_TOKENS), batches)
        return [Rehearsed(*pair) for pair in zip(examples, chain.from_iterable(views), strict=True)]
