"""Places at which a memory is held to what it was before a consolidation.

Nothing in a first-person statement can be exchanged as a name can, so without these "My sister is
called Clara." becomes the answer to whatever is asked. Three pools: contrasts (a statement's own
questions and answers with another noun, owner or name, up to where the value begins, and answers
to other questions that have begun), anchors (everyday questions along the base's own replies), and
near questions, of which only the first token of a reply is held. Being held to the memory before,
and not to the base, keeps what was learnt earlier without rehearsing it.

Pools are read in fixed batches, so that no bit depends on what was read before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.packing import BATCH, WIDE_ROW_TOKENS, Example, in_batches
from hope_runtime.learning.recipe import Resources, Work
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.reference import Rehearsed, references
from hope_runtime.learning.statements import StatementParser
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.statement import Statement

# Blocks of the library, of BATCH questions each, that a consolidation draws from, and the tokens of
# the base's replies to them.
BLOCKS = 4
REPLY_TOKENS = 6
# Contrasts, begun answers and near questions that are written for a stretch, at most, and
# contrasts for each statement.
CONTRASTS = 96
BEGUN = 12
NEAR = 24
LEAST_CONTRASTS = 20
CONTRASTS_EACH = 6


@dataclass(frozen=True, slots=True)
class Held:
    """The pools, each example with what the memory predicted in it before."""

    contrasts: list[Rehearsed]
    anchors: list[Rehearsed]
    near: list[Rehearsed]


class Holding:
    """Writes and reads what holds one base model's memories."""

    def __init__(
        self, resources: Resources, writer: ReplayWriter, names: Names, parser: StatementParser
    ) -> None:
        self._resources = resources
        self._model = resources.model
        self._workers = resources.workers
        self._writer = writer
        self._names = names
        self._parser = parser
        # Questions of all kinds in every block, in an order that is the same everywhere.
        self._order = list(range(len(parser.library)))
        random.Random("library").shuffle(self._order)
        self._of_base: dict[int, list[Rehearsed]] = {}

    def write(
        self,
        statements: Sequence[Statement],
        earlier: Sequence[Statement],
        before: LoraAdapter | None,
        rng: random.Random,
    ) -> Work[Held]:
        """The pools for `statements`, beside which `earlier` ones are known; yields on the way."""
        if not self._model.tokenizer.has_chat_template:
            return Held([], [], [])
        told = [*statements, *earlier]
        contrasts = yield from self._contrasts(statements, told, before, rng)
        anchors = yield from self._anchors(statements, before, rng)
        near: list[Rehearsed] = []
        if statements:
            asked = self._parser.near(statements, self._names, rng)
            asked = rng.sample(asked, min(len(asked), NEAR))
            # What is predicted there is compared as a whole; the token itself means nothing.
            prompts = [self._question(text).followed_by(self._writer.end[:1]) for text in asked]
            near = yield from self.read(prompts, before)
        return Held(contrasts, anchors, near)

    def texts(self) -> list[list[Example]]:
        """Everyday exchanges as kinds of text in which directions are found: of the speaker and
        the world, and of strangers."""
        if not self._model.tokenizer.has_chat_template:
            return []
        rng = random.Random("strangers")
        asked = [self._question(anchor.question) for anchor in self._parser.library]
        begun = [self._begun(*each) for each in self._begun_answers(())]
        negatives = []
        for anchor in self._parser.library:
            if anchor.whose == "name":
                question = anchor.question
                for name in self._names.find(question):
                    question = question.replace(name, self._names.invent(rng))
                negatives.append(self._question(question))
        for question, answer in self._begun_answers(()):
            for name in self._names.find(answer):
                stranger = self._names.invent(rng)
                question, answer = (t.replace(name, stranger) for t in (question, answer))
            negatives.append(self._begun(question, answer))
        return [[*asked, *begun], negatives]

    # Pools

    def _contrasts(
        self,
        statements: Sequence[Statement],
        told: Sequence[Statement],
        before: LoraAdapter | None,
        rng: random.Random,
    ) -> Work[list[Rehearsed]]:
        """Statements told of others, up to where the value begins, and answers that have begun."""
        if not statements:
            return []
        each = max(CONTRASTS_EACH, LEAST_CONTRASTS // len(statements))
        examples: dict[Example, None] = {}
        for item in statements:
            value = self._parser.value(item.stated)
            for turn in range(each):
                pair = None
                # Two kinds of contrast in turn: with another name, and with another noun or owner.
                if turn % 2 == 0 and not item.first_person:
                    pair = self._writer.told_of_a_stranger(item, rng)
                if pair is None and (other := self._parser.swapped(item, told, self._names, rng)):
                    pair = (other.question, other.answer)
                if pair and (example := self._writer.up_to_value(*pair, value)):
                    examples[example] = None
        chosen = list(examples)
        if len(chosen) > CONTRASTS:
            chosen = rng.sample(chosen, CONTRASTS)
        found = yield from self.read(chosen, before)
        begun = self._begun_answers(statements)
        begun = rng.sample(begun, min(len(begun), BEGUN))
        found += yield from self.read([self._begun(*pair) for pair in begun], before)
        return found

    def _begun_answers(self, statements: Sequence[Statement]) -> list[tuple[str, str]]:
        return [(pair.question, pair.answer) for pair in self._parser.begun(statements)]

    def _anchors(
        self, statements: Sequence[Statement], before: LoraAdapter | None, rng: random.Random
    ) -> Work[list[Rehearsed]]:
        """Everyday questions that no statement answers, along the base's own replies."""
        count = -(-len(self._order) // BATCH)
        answered = {place for item in statements for place in self._parser.answered_by_words(item)}
        found: list[Rehearsed] = []
        for block in rng.sample(range(count), min(BLOCKS, count)):
            places = self._order[block * BATCH : (block + 1) * BATCH]
            held = yield from self._block(block, places, before)
            found += [
                each for place, each in zip(places, held, strict=True) if place not in answered
            ]
        return found

    def _block(
        self, block: int, places: Sequence[int], before: LoraAdapter | None
    ) -> Work[list[Rehearsed]]:
        if before is None and block in self._of_base:
            return self._of_base[block]
        prompts = [self._question(self._parser.library[place].question) for place in places]
        replies = self._resources.kept.write(
            [prompt.ids for prompt in prompts],
            prefix=prompts[0].prefix,
            max_tokens=REPLY_TOKENS,
            stop=self._model.tokenizer.eos_ids,
        )
        yield None
        examples = [
            prompt.followed_by(reply if len(reply) == REPLY_TOKENS else (*reply, *self._writer.end))
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        held = yield from self.read(examples, before)
        if before is None:
            self._of_base[block] = held
        return held

    def read(
        self, examples: Sequence[Example], before: LoraAdapter | None
    ) -> Work[list[Rehearsed]]:
        """Examples with what a memory (None: the frozen base) predicts in them."""
        batches = in_batches(examples)
        read = partial(references, self._model, row_tokens=WIDE_ROW_TOKENS, adapter=before)
        found: list[Rehearsed] = []
        for at in range(0, len(batches), 2):
            pair = batches[at : at + 2]
            views = chain.from_iterable(self._workers.map(read, pair))
            found += [
                Rehearsed(*each) for each in zip(chain.from_iterable(pair), views, strict=True)
            ]
            yield None
        return found

    def _question(self, text: str) -> Example:
        return self._writer.question(tuple(self._model.tokenizer.encode(text)))

    def _begun(self, question: str, answer: str) -> Example:
        """Held along an answer that has begun, and at the token behind it."""
        encode = self._model.tokenizer.encode
        return self._question(question).followed_by((*encode(answer), *self._writer.end[:1]))
