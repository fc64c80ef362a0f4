"""What the frozen base makes of texts, computed once: training never runs the base again.

The sources of a branch lie below its target, so the residual stream at them is a constant of the
text. With the target behind the last block, what the base would have said is one as well. A *round*
of stories is read by the base, kept in a file and drawn from for the rest of the run.

Shape suffixes: T tokens, X values a token at the sources, D model width, A tokens of answers,
N rivals.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hope_lab.train.fast_memory.episodes import Ids, Question, Story, Storyteller
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.norm import rms_norm
from hope_runtime.learning.decoding import decode
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemoryConfig

STORIES_A_ROUND = 32
# Of the stories of a round so many tell something of an earlier one anew.
RETOLD_SHARE = 0.25
ROWS = 16
RIVALS = 2
PLAIN_WINDOWS = 32
PLAIN_TOKENS = 40


@dataclass(frozen=True, slots=True)
class AskedFeatures:
    """`seen` (taps - 1 + A, X) float16 from before the answer on; `final` (A, D) float16 is the
    stream behind the last block where each token of the answer is predicted; `answer` (A,) ids,
    `is_value` (A,); `rivals` (A * N,): what the base itself would say there."""

    question: Question
    seen: Tensor
    final: Tensor
    answer: Tensor
    is_value: Tensor
    rivals: Tensor


@dataclass(frozen=True, slots=True)
class StoryFeatures:
    """`seen` (T, X) float16 and `learnable` (T,): the window from shortly before what is told.
    `earlier` is the story of this round in which some of it had been told before."""

    seen: Tensor
    learnable: Tensor
    told: Ids
    asked: tuple[AskedFeatures, ...]
    earlier: int | None


@dataclass(frozen=True, slots=True)
class PlainFeatures:
    """A window of the base's own text: `seen` (T, X), `final` (T, D), `ids` (T,)."""

    seen: Tensor
    final: Tensor
    ids: Tensor


@dataclass(frozen=True, slots=True)
class RoundTexts:
    """The texts of a round: stories, and for each the index of the one that it corrects."""

    stories: tuple[Story, ...]
    earlier: tuple[int | None, ...]


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
    """Reads texts with the frozen base and keeps what a branch of `config` sees of them."""

    def __init__(self, model: BaseModel, config: FastMemoryConfig, teller: Storyteller) -> None:
        self._model, self._config, self._teller = model, config, teller
        # What is only told needs no layer above the sources.
        top = config.sources[-1]
        self._lower = replace(
            model,
            config=replace(model.config, n_layers=top),
            weights=replace(model.weights, layers=model.weights.layers[:top]),
        )
        self._openings: dict[Ids, tuple[KVCache, Tensor]] = {}

    def stories(self, texts: RoundTexts, file: Path | None = None) -> list[StoryFeatures]:
        """The features of a round, from `file` where they lie there already, else put there."""
        digest = self._digest(
            *(story.ids for story in texts.stories), *map(_asked_ids, texts.stories)
        )
        parts = _stored(file, digest)
        if parts is None:
            parts = self._read(texts)
            _store(file, parts, digest)
        return self._assemble(texts, parts)

    def plain(self, seed: int, file: Path | None = None) -> list[PlainFeatures]:
        """Windows that the base writes at temperature 1, half as plain text and half as users."""
        digest = self._digest((seed, PLAIN_WINDOWS, PLAIN_TOKENS))
        parts = _stored(file, digest)
        if parts is None:
            parts = self._read_plain(seed)
            _store(file, parts, digest)
        lengths = parts["lengths"].tolist()
        split = [torch.split(parts[name], lengths) for name in ("seen", "final", "ids")]
        return [PlainFeatures(*views) for views in zip(*split, strict=True)]

    def _digest(self, *texts: tuple[object, ...]) -> str:
        """Of all that features are a function of."""
        config = self._config
        known = (self._model.fingerprint, config.sources, config.target, config.taps, texts)
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def _read_plain(self, seed: int) -> dict[str, Tensor]:
        teller, model = self._teller, self._model
        openings = (teller.document_opening, teller.opening)
        prompts = [openings[index % 2] for index in range(PLAIN_WINDOWS)]
        texts = decode(
            model,
            Workers(1),
            prompts,
            max_tokens=PLAIN_TOKENS,
            stop=model.tokenizer.eos_ids,
            temperature=1.0,
            seed=seed,
        )
        kept = [(opening, text) for opening, text in zip(prompts, texts, strict=True) if text]
        parts: dict[str, list[Tensor]] = {"seen": [], "final": [], "ids": []}
        for opening in openings:
            rows = [text for before, text in kept if before == opening]
            for text, (seen, final) in zip(rows, self._run(opening, rows), strict=True):
                parts["seen"].append(seen)
                parts["final"].append(final)
                parts["ids"].append(torch.tensor(text))
        found = {name: torch.cat(tensors) for name, tensors in parts.items()}
        return found | {"lengths": torch.tensor([len(ids) for ids in parts["ids"]])}

    def _read(self, texts: RoundTexts) -> dict[str, Tensor]:
        W = self._config.taps
        seen: dict[int, Tensor] = {}
        for opening in (self._teller.opening, self._teller.document_opening):
            members = [i for i, s in enumerate(texts.stories) if _opening_of(s) == opening]
            rows = [_told(texts.stories[i]) for i in members]
            found = self._run(opening, rows, model=self._lower)
            for i, (x_TX, _) in zip(members, found, strict=True):
                seen[i] = x_TX
        questions = [question for story in texts.stories for question in story.questions]
        # What the last token would predict is nobody's question.
        rows = [question.prompt + question.answer[:-1] for question in questions]
        asked, finals, rivals = [], [], []
        for question, (x_TX, final) in zip(
            questions, self._run(self._teller.opening, rows), strict=True
        ):
            first = len(question.prompt) - 1
            asked.append(x_TX[first - (W - 1) :])
            finals.append(final[first:])
            rivals.append(self._rivals(finals[-1]))
        return {
            "told": torch.cat([seen[i] for i in range(len(texts.stories))]),
            "asked": torch.cat(asked),
            "final": torch.cat(finals),
            "rivals": torch.cat(rivals),
        }

    def _assemble(self, texts: RoundTexts, parts: dict[str, Tensor]) -> list[StoryFeatures]:
        W = self._config.taps
        told = torch.split(parts["told"], [len(_told(story)) for story in texts.stories])
        questions = [question for story in texts.stories for question in story.questions]
        lengths = [len(question.answer) for question in questions]
        asked = iter(
            zip(
                questions,
                torch.split(parts["asked"], [length + W - 1 for length in lengths]),
                torch.split(parts["final"], lengths),
                torch.split(parts["rivals"], lengths),
                strict=True,
            )
        )
        stories = []
        for story, x_TX, before in zip(texts.stories, told, texts.earlier, strict=True):
            tail = self._opening(_opening_of(story))[1]
            stories.append(
                StoryFeatures(
                    torch.cat((tail, x_TX)),
                    torch.arange(len(tail) + len(x_TX)) >= len(tail),
                    _told(story),
                    tuple(_asked(*next(asked)) for _ in story.questions),
                    before,
                )
            )
        return stories

    def _rivals(self, final_AD: Tensor) -> Tensor:
        model = self._model
        normed = rms_norm(final_AD.to(model.dtype), model.weights.final_norm, model.config.norm_eps)
        return logits(model, normed).topk(RIVALS, dim=-1).indices.flatten().view(-1, RIVALS)

    def _opening(self, opening: Ids) -> tuple[KVCache, Tensor]:
        """The cache of what every text begins with, and its last tokens at the sources."""
        if opening not in self._openings:
            cache = _cache(self._model, 1, len(opening))
            keep = _Keep(self._config.sources)
            with torch.no_grad():
                ids = torch.tensor([opening], device=self._model.device)
                forward(self._model, ids, cache=cache, fast_memory=keep)
            self._openings[opening] = cache, keep.seen()[0, -self._config.taps :]
        return self._openings[opening]

    @torch.no_grad()
    def _run(
        self, opening: Ids, rows: Sequence[Ids], model: BaseModel | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each row, behind the opening: the stream at the sources and behind the last block."""
        model = model or self._model
        prefix, _ = self._opening(opening)
        L = model.config.n_layers
        P = prefix.length
        found: dict[int, tuple[Tensor, Tensor]] = {}
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), ROWS):
            members = order[start : start + ROWS]
            B, T = len(members), max(len(rows[index]) for index in members)
            # Padding stands behind a row's own tokens, which do not see it.
            ids_BT = torch.zeros(B, T, dtype=torch.long)
            for row, index in enumerate(members):
                ids_BT[row, : len(rows[index])] = torch.tensor(rows[index])
            cache = _cache(model, B, P + T)
            cache.k[:, :, :, :P], cache.v[:, :, :, :P] = prefix.k[:L], prefix.v[:L]
            cache.length = P
            keep = _Keep((*self._config.sources, L))
            forward(model, ids_BT.to(model.device), cache=cache, fast_memory=keep)
            seen_BTX = keep.seen()
            D = self._config.d_model
            for row, index in enumerate(members):
                own = seen_BTX[row, : len(rows[index])]
                found[index] = own[:, :-D].clone(), own[:, -D:].clone()
        return [found[index] for index in range(len(rows))]


def _stored(file: Path | None, digest: str) -> dict[str, Tensor] | None:
    """What a file holds of these very texts; None where there is none, or a broken one."""
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
        safetensors.torch.save_file(parts, beside, metadata={"digest": digest})
        beside.replace(file)


class _Keep:
    """Keeps the residual stream at some layers and adds nothing."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = layers
        self._seen: list[Tensor] = []

    def at(self, layer: int, x_BTD: Tensor) -> Tensor:
        self._seen += [x_BTD.half() for wanted in self._layers if wanted == layer]
        return x_BTD

    def seen(self) -> Tensor:
        """(B, T, X), on the CPU."""
        return torch.cat(self._seen, dim=-1).cpu()


def _cache(model: BaseModel, rows: int, capacity: int) -> KVCache:
    return KVCache(
        model.config, rows=rows, capacity=capacity, dtype=model.dtype, device=model.device
    )


def _asked(question: Question, seen: Tensor, final: Tensor, rivals: Tensor) -> AskedFeatures:
    place = torch.arange(len(question.answer))
    is_value = (place >= question.value.start) & (place < question.value.stop)
    answer = torch.tensor(question.answer)
    return AskedFeatures(question, seen, final, answer, is_value, rivals.flatten())


def _asked_ids(story: Story) -> tuple[Ids, ...]:
    return tuple(question.prompt + question.answer for question in story.questions)


def _opening_of(story: Story) -> Ids:
    return story.ids[: story.learnable.index(True)]


def _told(story: Story) -> Ids:
    return tuple(
        token for token, learnable in zip(story.ids, story.learnable, strict=True) if learnable
    )
