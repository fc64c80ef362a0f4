"""Places at which a consolidation must not change what a memory says.

Nothing in a first-person statement can be exchanged as a name can, so without these "My sister is
called Clara." becomes the answer to whatever is asked. Three pools: contrasts (a statement's own
questions and answers with another noun, owner or name, up to where the value begins, and answers
to other questions that have begun), anchors (everyday questions along the base's own replies), and
near questions, of which only the first token of a reply is held. What no statement answers, new or
earlier, is held to the base, so that nothing bends further from one consolidation to the next; what
an earlier one answers is held to the memory before, which keeps it without rehearsal.

Pools are read in fixed batches, so that no bit depends on what was read before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from hope_runtime.learning.packing import BATCH, DEVICE_BATCH, Example, in_batches
from hope_runtime.learning.recipe import Resources, Work
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.recipes.specific.batch import Batch, Item, share_out
from hope_runtime.learning.recipes.specific.lean import views
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.reference import Reference, Rehearsed
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


class _Inputs:
    """Inputs of the learning layers' MLPs, of one part of what was read after the other."""

    def __init__(self) -> None:
        self.parts: list[list[tuple[Tensor, Tensor]]] = []

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Those of all parts, by layer."""
        return [
            (torch.cat([outer for outer, _ in layer]), torch.cat([inner for _, inner in layer]))
            for layer in zip(*self.parts, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Held:
    """The pools, each example with what the memory predicted in it before."""

    contrasts: list[Rehearsed]
    anchors: list[Rehearsed]
    near: list[Rehearsed]
    # Inputs of each learning layer's MLPs where contrasts and near questions are predicted, (N, D)
    # and (N, F): of gate and up, and of down.
    inputs: list[tuple[Tensor, Tensor]]
    # Questions that nothing told answers, in an order without meaning.
    questions: list[str]
    # The lower layers under the memory that all but known anchors are held to.
    reference: LowerLayers


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
        self._of_base: dict[tuple[int, int], tuple[list[Rehearsed], LowerLayers]] = {}

    def write(
        self,
        statements: Sequence[Statement],
        earlier: Sequence[Statement],
        lower: LowerLayers,
        rng: random.Random,
        *,
        to_base: bool,
    ) -> Work[Held]:
        """The pools for `statements`, beside which `earlier` ones are known; yields on the way.

        The memory before is that of `lower`. Without `to_base` everything is held to that one.
        """
        if not self._model.tokenizer.has_chat_template:
            return Held([], [], [], [], [], lower)
        told, known = [*statements, *earlier], earlier if to_base else ()
        seen, memory = _Inputs(), lower
        if to_base and lower.before is not None:
            lower = LowerLayers(self._model, self._workers, lower.first, None)
        contrasts = yield from self._contrasts(statements, told, known, lower, seen, rng)
        anchors = yield from self._anchors(statements, known, lower, memory, rng)
        near: list[Rehearsed] = []
        questions: list[str] = []
        if statements:
            asked = self._parser.near(statements, known, self._names, rng)
            chosen = rng.sample(asked, min(len(asked), NEAR))
            if to_base:
                unlike = self._parser.unlike(statements, known, rng)
                questions = list(dict.fromkeys([*unlike, *asked]))
                rng.shuffle(questions)
            told_of = {name for item in statements for name in self._names.find(item.stated)[:1]}
            prompts = [self._near(text, told_of) for text in chosen]
            near = yield from self.read(prompts, lower, seen)
        return Held(contrasts, anchors, near, seen.layers(), questions, lower)

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
        known: Sequence[Statement],
        lower: LowerLayers,
        seen: _Inputs,
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
        found = yield from self.read(chosen, lower, seen)
        begun = self._begun_answers([*statements, *known])
        begun = rng.sample(begun, min(len(begun), BEGUN))
        found += yield from self.read([self._begun(*pair) for pair in begun], lower, seen)
        return found

    def _begun_answers(self, statements: Sequence[Statement]) -> list[tuple[str, str]]:
        return [(pair.question, pair.answer) for pair in self._parser.begun(statements)]

    def _anchors(
        self,
        statements: Sequence[Statement],
        earlier: Sequence[Statement],
        lower: LowerLayers,
        memory: LowerLayers,
        rng: random.Random,
    ) -> Work[list[Rehearsed]]:
        """Everyday questions that no statement answers, along the base's own replies, as `lower`
        predicts them; those that an earlier one answers as `memory` does."""
        count = -(-len(self._order) // BATCH)
        answered = {place for item in statements for place in self._parser.answered_by_words(item)}
        before = {place for item in earlier for place in self._parser.answered_by_words(item)}
        found: list[Rehearsed] = []
        for block in rng.sample(range(count), min(BLOCKS, count)):
            places = self._order[block * BATCH : (block + 1) * BATCH]
            held = yield from self._block(block, places, lower)
            free = [pair for pair in zip(places, held, strict=True) if pair[0] not in answered]
            found += [each for place, each in free if place not in before]
            again = [each.example for place, each in free if place in before]
            found += yield from self.read(again, memory)
        return found

    def _block(
        self, block: int, places: Sequence[int], lower: LowerLayers
    ) -> Work[list[Rehearsed]]:
        kept = self._of_base.get((block, lower.first)) if lower.before is None else None
        if kept is not None:
            lower.take(kept[1])
            return kept[0]
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
        # Alone, so that what else was read beside them changes no bit.
        alone = LowerLayers(self._model, self._workers, lower.first, lower.before)
        held = yield from self.read(examples, alone)
        if lower.before is None:
            self._of_base[block, lower.first] = held, alone
        lower.take(alone)
        return held

    def read(
        self, examples: Sequence[Example], lower: LowerLayers, seen: _Inputs | None = None
    ) -> Work[list[Rehearsed]]:
        """Examples with what the memory of `lower` predicts in them."""
        found: list[Rehearsed] = []
        size = BATCH if self._model.device.type == "cpu" else DEVICE_BATCH
        for batch in in_batches(examples, size):
            lower.read(batch)
            shares = share_out([len(each.ids) for each in batch])
            read = partial(self._view, lower=lower, seen=seen is not None)
            parts = self._workers.map(read, [[batch[place] for place in part] for part in shares])
            views = [
                (place, view)
                for part, (of, _) in zip(shares, parts, strict=True)
                for place, view in zip(part, of, strict=True)
            ]
            found += [
                Rehearsed(batch[place], view) for place, view in sorted(views, key=itemgetter(0))
            ]
            if seen is not None:
                seen.parts += [inputs for _, inputs in parts]
            yield None
        return found

    def _view(
        self, examples: Sequence[Example], *, lower: LowerLayers, seen: bool
    ) -> tuple[list[Reference], list[tuple[Tensor, Tensor]]]:
        """Predictions at the examples' targets, and the inputs of the MLPs there."""
        batch = Batch([Item(each, 1.0) for each in examples], self._model.device)
        outer: list[Tensor] = []
        inner: list[Tensor] = []

        def take(_: int, x_ND: Tensor, h_NF: Tensor) -> None:
            outer.append(x_ND[batch.tensors.predictors_M].float())
            inner.append(h_NF[batch.tensors.predictors_M].float())

        found = views(self._model, batch, lower.before, lower, take if seen else None)
        if not seen:
            return found, []
        # At once: a device would wait at every layer.
        layers = (torch.stack(each).cpu().unbind(0) for each in (outer, inner))
        return found, list(zip(*layers, strict=True))

    def _near(self, text: str, told_of: set[str]) -> Example:
        """Held at the first token of a reply; about somebody of whom something is told, behind the
        name as well, with which any answer would begin. What is predicted there is compared as a
        whole: the last token itself means nothing."""
        begun = sorted(name for name in told_of if name in text)
        lead = tuple(self._model.tokenizer.encode(begun[0])) if begun else ()
        return self._question(text).followed_by((*lead, *self._writer.end[:1]))

    def _question(self, text: str) -> Example:
        return self._writer.question(tuple(self._model.tokenizer.encode(text)))

    def _begun(self, question: str, answer: str) -> Example:
        """Held along an answer that has begun, and at the token behind it."""
        encode = self._model.tokenizer.encode
        return self._question(question).followed_by((*encode(answer), *self._writer.end[:1]))
