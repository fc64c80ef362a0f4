"""The frozen base's view of texts, computed once: training never runs the base again.

The sources of a fast memory lie below its target, so the residual stream at them is a constant of
the text. With the target behind the last block, what the base would have said is one as well. A
*round* of stories is read by the base and kept in a file, so a resumed run reads nothing twice.

What is read at every place where something may be predicted is an *item*: a question with its
answer, or a text that must not change (the base's own writing, its own replies to everyday
questions). Items and told windows lie end to end in flat tensors; each begins with the places
before it that keys and queries are made of, zeros where the window has none.

Shape suffixes: T tokens, X values a token at the sources, D model width, A places of items,
N rivals, W taps.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hope_lab.train.fast_memory.base_reader import BaseReader
from hope_lab.train.fast_memory.corpus import general_questions
from hope_lab.train.fast_memory.episodes import Ids, Question, Story, Storyteller
from hope_runtime.learning.decoding import decode
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemoryConfig

# Of the stories of a round so many tell something of an earlier one anew.
RETOLD_SHARE = 0.25
PLAIN_WINDOWS = 32
PLAIN_TOKENS = 40
GENERAL_TOKENS = 24
_FORMAT = "2"


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """Items end to end: `seen` (sum of W - 1 + A, X) float16, W - 1 places before each item's
    first; `final` (sum of A, D) float16, the stream behind the last block; `rivals` (sum of A, N),
    the base's likeliest tokens; `answer` (sum of A,), the tokens that follow; `lengths` (items,)
    their A."""

    seen: Tensor
    final: Tensor
    rivals: Tensor
    answer: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class RoundTexts:
    """The texts of a round: stories, and for each the index of the one that it corrects."""

    stories: tuple[Story, ...]
    earlier: tuple[int | None, ...]

    @property
    def questions(self) -> list[Question]:
        return [question for story in self.stories for question in story.questions]


@dataclass(frozen=True, slots=True)
class RoundFeatures:
    """A round as the base sees it: `told` (sum of W + T, X) float16, W places before the first
    token that is told of each story; `lengths` (stories,) their T; `asked` the questions."""

    texts: RoundTexts
    told: Tensor
    lengths: Tensor
    asked: ItemFeatures


def round_texts(teller: Storyteller, seed: int, index: int, count: int) -> RoundTexts:
    """The stories of a round: a function of the seed and the index."""
    rng = random.Random(f"memory:{seed}:{index}")
    stories: list[Story] = []
    earlier: list[int | None] = []
    for _ in range(count):
        before = rng.randrange(len(stories)) if stories and rng.random() < RETOLD_SHARE else None
        keys = [] if before is None else [rng.choice(stories[before].questions).about]
        stories.append(teller.story(rng, earlier=keys))
        earlier.append(before)
    return RoundTexts(tuple(stories), tuple(earlier))


class Reader:
    """Reads texts with the frozen base and keeps what a fast memory of `config` sees of them."""

    def __init__(self, model: BaseModel, config: FastMemoryConfig, teller: Storyteller) -> None:
        self._model, self._config, self._teller = model, config, teller
        self._base = BaseReader(model, config)

    def stories(self, texts: RoundTexts, file: Path | None = None) -> RoundFeatures:
        """The features of a round, from `file` where they lie there already, else put there."""
        asked = [(q.prompt, q.answer, q.is_completion) for q in texts.questions]
        digest = self._digest([story.ids for story in texts.stories], asked)
        parts = _stored(file, digest)
        if parts is None:
            parts = self._read_told(texts.stories) | self._read_items(
                [(self._teller.opening_of(one), one.prompt, one.answer) for one in texts.questions]
            )
            _store(file, parts, digest)
        device = self._model.device
        return RoundFeatures(
            texts, parts["told"].to(device), parts["told_lengths"], self._items(parts)
        )

    def unchanged(self, seed: int, file: Path | None = None) -> ItemFeatures:
        """Texts that the base writes at temperature 1, half as plain text and half as users, and
        its own replies to everyday questions: no memory should change any of it."""
        digest = self._digest("unchanged", seed, PLAIN_WINDOWS, PLAIN_TOKENS, general_questions())
        parts = _stored(file, digest)
        if parts is None:
            parts = self._read_items([*self._written(seed), *self._replied()])
            _store(file, parts, digest)
        return self._items(parts)

    def _digest(self, *texts: object) -> str:
        """Of all that features are a function of."""
        config, model = self._config, self._model
        shape = (config.sources, config.target, config.taps)
        known = (_FORMAT, model.fingerprint, str(model.dtype), shape, texts)
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def _written(self, seed: int) -> list[tuple[Ids, Ids, Ids]]:
        openings = (self._teller.document_opening, self._teller.opening)
        prompts = [openings[index % 2] for index in range(PLAIN_WINDOWS)]
        texts = self._decode(prompts, PLAIN_TOKENS, 1.0, seed)
        pairs = zip(prompts, texts, strict=True)
        return [(opening, text[:1], text[1:]) for opening, text in pairs if len(text) > 1]

    def _replied(self) -> list[tuple[Ids, Ids, Ids]]:
        """Scored from the end of the question on, where a reply takes shape."""
        teller, encode = self._teller, self._model.tokenizer.encode
        prompts = [(*encode(question), *teller.closing) for question in general_questions()]
        whole = [teller.opening + prompt for prompt in prompts]
        replies = self._decode(whole, GENERAL_TOKENS, 0.0, 0)
        pairs = zip(prompts, replies, strict=True)
        return [(teller.opening, prompt, reply) for prompt, reply in pairs if reply]

    def _decode(
        self, prompts: Sequence[Ids], tokens: int, temperature: float, seed: int
    ) -> list[Ids]:
        return decode(
            self._model,
            Workers(1),
            prompts,
            max_tokens=tokens,
            stop=self._model.tokenizer.eos_ids,
            temperature=temperature,
            seed=seed,
        )

    def _read_told(self, stories: Sequence[Story]) -> dict[str, Tensor]:
        rows = [(_opening_of(story), _told(story)) for story in stories]
        found = self._base.told(rows)
        lengths = torch.tensor([len(told) for _, told in rows])
        return {"told": torch.cat(found), "told_lengths": lengths}

    def _read_items(self, items: Sequence[tuple[Ids, Ids, Ids]]) -> dict[str, Tensor]:
        found = self._base.items(items)
        return {
            "seen": torch.cat([one.seen for one in found]),
            "final": torch.cat([one.final for one in found]),
            "rivals": torch.cat([one.rivals for one in found]),
            "answer": torch.tensor([token for _, _, answer in items for token in answer]),
            "lengths": torch.tensor([len(answer) for _, _, answer in items]),
        }

    def _items(self, parts: dict[str, Tensor]) -> ItemFeatures:
        device = self._model.device
        return ItemFeatures(
            parts["seen"].to(device),
            parts["final"].to(device),
            parts["rivals"],
            parts["answer"],
            parts["lengths"],
        )


def _stored(file: Path | None, digest: str) -> dict[str, Tensor] | None:
    """Stored features of these very texts; None if there is no intact file."""
    if file is None or not file.exists():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get("digest") != digest:
                return None
        return safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError):
        return None


def _store(file: Path | None, parts: dict[str, Tensor], digest: str) -> None:
    if file is not None:
        beside = file.with_suffix(".tmp")
        kept = {name: tensor.cpu() for name, tensor in parts.items()}
        safetensors.torch.save_file(kept, beside, metadata={"digest": digest})
        beside.replace(file)


def _opening_of(story: Story) -> Ids:
    return story.ids[: story.learnable.index(True)]


def _told(story: Story) -> Ids:
    return tuple(
        token for token, learnable in zip(story.ids, story.learnable, strict=True) if learnable
    )
