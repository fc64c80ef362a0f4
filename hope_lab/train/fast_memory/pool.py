"""The texts that training draws from at one time: some rounds end to end, on one device.

An *episode* is a row of stories in one memory, the questions that this memory answers, and what it
must not change: questions whose answer it was not told, half of them about something of a kind that
it was told of, and texts of the base itself. Everything is named by its index here, so a step
gathers rows of tensors and copies no text.

Knows indices and features. Leaves the loss to loss.py.

Shape suffixes: X values a token at the sources, D model width, N rivals, W taps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hope_lab.train.fast_memory.episodes import Key, Question
from hope_lab.train.fast_memory.features import ItemFeatures, RoundFeatures

Index = NDArray[np.int64]

# How often a story that corrects another one follows it, where it is drawn.
RETELL = 0.5
SAME_KIND_SHARE = 0.5
LEAST_STRANGERS, FACTS_A_STRANGER = 2, 4
UNCHANGED_AN_EPISODE = 1


@dataclass(frozen=True, slots=True)
class Episode:
    """Indices: stories in their order, the questions about them that count, what is not answered
    by them, and texts of the base."""

    stories: tuple[int, ...]
    asked: tuple[int, ...]
    strangers: tuple[int, ...]
    unchanged: tuple[int, ...]


class Pool:
    """Rounds and the base's own texts. The last row of `told` and of `seen` is zero, for gaps."""

    def __init__(self, rounds: Sequence[RoundFeatures], unchanged: ItemFeatures, taps: int) -> None:
        self.taps = taps
        self.questions: list[Question] = []
        self._questions_of: list[range] = []
        self._earlier: dict[int, int] = {}
        told_tokens: list[Index] = []
        for one in rounds:
            base = len(self._questions_of)
            for story, before in zip(one.texts.stories, one.texts.earlier, strict=True):
                if before is not None:
                    self._earlier[len(self._questions_of)] = base + before
                first = len(self.questions)
                self.questions += story.questions
                self._questions_of.append(range(first, len(self.questions)))
                told_tokens.append(np.array(story.ids)[np.array(story.learnable)])
        self.told_tokens = told_tokens
        self.told = _ended([one.told for one in rounds], unchanged.seen)
        lengths = [one.lengths.numpy() + taps for one in rounds]
        self.told_length, self.told_start = _places(lengths)
        items = [one.asked for one in rounds] + [unchanged]
        self.seen = _ended([one.seen for one in items], unchanged.seen)
        self.final = torch.cat([one.final for one in items])
        self.rivals = torch.cat([one.rivals for one in items]).numpy()
        self.answer = torch.cat([one.answer for one in items]).numpy()
        self.length, self.start = _places([one.lengths.numpy() for one in items])
        """Of each item: how many tokens are predicted, and where they begin in `final`."""
        self.is_value = np.zeros(len(self.answer), dtype=np.bool_)
        for index, question in enumerate(self.questions):
            at = self.start[index]
            self.is_value[at + question.value.start : at + question.value.stop] = True
        self.facts = sum(not question.is_completion for question in self.questions)
        self._unchanged = range(len(self.questions), len(self.length))
        self._by_kind: dict[tuple[str, bool], list[int]] = {}
        for index, question in enumerate(self.questions):
            self._by_kind.setdefault(_kind(question), []).append(index)

    def seen_start(self, item: int) -> int:
        """Start of an item in `seen`, taps - 1 places before its first token."""
        return int(self.start[item]) + item * (self.taps - 1)

    def episode(self, rng: random.Random, facts: int) -> Episode:
        """Stories of about `facts` facts."""
        chosen: list[int] = []
        count = 0
        # Few stories may not add up to the number; many do long before the tries run out.
        for _ in range(16 * facts):
            if count >= facts:
                break
            index = rng.randrange(len(self._questions_of))
            size = self._size(index)
            if index in chosen or (chosen and count + size > facts + 2):
                continue
            before = self._earlier.get(index)
            if before is not None and before not in chosen and rng.random() < RETELL:
                chosen.append(before)
                count += self._size(before)
            chosen.append(index)
            count += size
        newest: dict[Key, list[int]] = {}
        for index in chosen:
            told: dict[Key, list[int]] = {}
            for item in self._questions_of[index]:
                told.setdefault(self.questions[item].about, []).append(item)
            newest |= told
        asked = tuple(item for items in newest.values() for item in items)
        unchanged = tuple(rng.choices(self._unchanged, k=UNCHANGED_AN_EPISODE))
        return Episode(tuple(chosen), asked, self._strangers(rng, newest, facts), unchanged)

    def _size(self, story: int) -> int:
        return sum(not self.questions[item].is_completion for item in self._questions_of[story])

    def _strangers(
        self, rng: random.Random, told: dict[Key, list[int]], facts: int
    ) -> tuple[int, ...]:
        found = []
        keys = list(told)
        for _ in range(max(LEAST_STRANGERS, facts // FACTS_A_STRANGER)):
            item = rng.randrange(len(self.questions))
            if rng.random() < SAME_KIND_SHARE:
                known = rng.choice(told[rng.choice(keys)])
                item = rng.choice(self._by_kind[_kind(self.questions[known])])
            if self.questions[item].about not in told:
                found.append(item)
        return tuple(found)


def _kind(question: Question) -> tuple[str, bool]:
    return question.about[1], question.is_completion


def _ended(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat([*parts, like.new_zeros(1, like.shape[1])])


def _places(lengths: Sequence[NDArray[np.int64]]) -> tuple[Index, Index]:
    """All lengths, and where each part begins."""
    joined = np.concatenate(lengths).astype(np.int64)
    return joined, np.concatenate(([0], np.cumsum(joined)[:-1]))
