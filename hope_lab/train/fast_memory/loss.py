"""One step's texts and their loss: stories are written, and questions elsewhere are answered.

An episode is a row of stories in one memory. Its questions are those whose answer was not told anew
later. Beside them, questions about other stories and windows of plain text are held to what the
base predicts (KL): a memory must not answer what it was not told. All scores are over the words
that matter in the step (the texts' own, the base's rivals and random ones); evaluation uses all.

Shape suffixes: B rows, E episodes, Q questions, T tokens, X values a token at the sources,
D model width, A places that are scored, C candidates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hope_lab.train.fast_memory.features import AskedFeatures, PlainFeatures, StoryFeatures
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import (
    FastMemoryStream,
    fresh_carry,
    fresh_state,
    read,
    write,
)
from hope_runtime.models.fast_memory.weights import FastMemoryConfig, FastMemoryWeights

# Facts of an episode, and about how many of all episodes of a step.
FACTS = (4, 8, 8, 16, 24, 32)
RETELL = 0.5
PLAIN_STORY = 0.3
STRANGERS = 2
RANDOM_CANDIDATES = 768
# The words around a value come from the question; the base finds most of them alone.
REST_WEIGHT = 0.5
KL_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """What is written, in order: features and which tokens may be learnt."""

    seen: Tensor
    learnable: Tensor


@dataclass(frozen=True, slots=True)
class Episode:
    """Stories in their order, the questions about them, and ones that they do not answer."""

    told: tuple[Told, ...]
    words: tuple[int, ...]
    asked: tuple[AskedFeatures, ...]
    negatives: tuple[AskedFeatures, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """Loss of a step, and of its questions the share whose value, and whose every word, is what
    the scores would choose."""

    loss: Tensor
    answer_nats: float
    kl: float
    values: float
    answers: float
    questions: int


class Texts:
    """All that a run has read so far: stories of the rounds, and plain windows."""

    def __init__(self, plain: Sequence[PlainFeatures]) -> None:
        self.plain = list(plain)
        self.stories: list[StoryFeatures] = []
        self._earlier: dict[int, int] = {}

    def add(self, stories: Sequence[StoryFeatures]) -> None:
        base = len(self.stories)
        for offset, story in enumerate(stories):
            if story.earlier is not None:
                self._earlier[base + offset] = base + story.earlier
        self.stories += stories

    def episode(self, rng: random.Random, facts: int) -> Episode:
        """Stories of about `facts` facts."""
        chosen: list[int] = []
        count = 0
        # Few stories may not add up to the number; many do long before the tries run out.
        for _ in range(16 * facts):
            if count >= facts:
                break
            index = rng.randrange(len(self.stories))
            size = len(self.stories[index].asked)
            if index in chosen or (chosen and count + size > facts + 2):
                continue
            if index in self._earlier and rng.random() < RETELL:
                before = self._earlier[index]
                if before not in chosen:
                    chosen.append(before)
                    count += len(self.stories[before].asked)
            chosen.append(index)
            count += size
        newest: dict[tuple[str, str], AskedFeatures] = {}
        for index in chosen:
            newest |= {one.question.about: one for one in self.stories[index].asked}
        told = [Told(self.stories[i].seen, self.stories[i].learnable) for i in chosen]
        if self.plain and rng.random() < PLAIN_STORY:
            window = rng.choice(self.plain)
            told.insert(
                rng.randrange(len(told) + 1),
                Told(window.seen, torch.ones(len(window.ids), dtype=torch.bool)),
            )
        others = [rng.choice(rng.choice(self.stories).asked) for _ in range(STRANGERS)]
        negatives = tuple(one for one in others if one.question.about not in newest)
        words = tuple(token for i in chosen for token in self.stories[i].told)
        return Episode(tuple(told), words, tuple(newest.values()), negatives)


Dropout = Callable[[Tensor], Tensor]
"""What training does to the stream at the sources, so that no single value of it is relied on."""


def dropout(share: float, seed: int) -> Dropout:
    """Sets a share of the values to zero; the same ones for the same seed and shape."""
    generator = torch.Generator().manual_seed(seed)

    def drop(seen: Tensor) -> Tensor:
        return seen * (torch.rand(seen.shape, generator=generator) >= share)

    return drop


def memories(
    config: FastMemoryConfig,
    weights: FastMemoryWeights,
    episodes: Sequence[Episode],
    drop: Dropout = lambda seen: seen,
) -> Tensor:
    """What is written in each episode, (E, H, V, K). Every story is a window of its own."""
    device = weights.down.device
    W = config.taps
    # Windows side by side in one pass: the taps of the next reach into a gap that writes nothing.
    gap = torch.zeros(W, config.seen_width, dtype=torch.float16)
    silent = torch.zeros(W, dtype=torch.bool)
    rows = [[part for told in one.told for part in (gap, told.seen)] for one in episodes]
    learnable = [
        [part for told in one.told for part in (silent, told.learnable)] for one in episodes
    ]
    seen_ETX = drop(pad_sequence([torch.cat(row) for row in rows], batch_first=True))
    write_ET = pad_sequence([torch.cat(row) for row in learnable], batch_first=True)
    state = fresh_state(config, len(episodes), device)
    return write(config, weights, seen_ETX.to(device), state, write_ET.to(device)).memory


@dataclass(frozen=True, slots=True)
class _Asked:
    """The questions of a step side by side; what is scored are the A tokens of all answers.

    owner_Q: the episode whose memory is read. known_Q: whether that memory was told the answer.
    row_A: the question of each place.
    """

    seen_QTX: Tensor
    owner_Q: Tensor
    known_Q: Tensor
    places: tuple[int, ...]
    row_A: Tensor
    final_AD: Tensor
    answer_A: Tensor
    is_value_A: Tensor
    rivals: Tensor


def scored(
    model: BaseModel,
    config: FastMemoryConfig,
    weights: FastMemoryWeights,
    episodes: Sequence[Episode],
    *,
    plain: Sequence[PlainFeatures] = (),
    questions: int | None = None,
    rng: random.Random | None = None,
    whole_vocabulary: bool = False,
    drop: Dropout = lambda seen: seen,
) -> Scored:
    """The loss of some episodes, with at most `questions` questions of each, drawn by `rng`.

    Each of `plain` is read with the memory of one of the episodes, in turn.
    """
    device = weights.down.device
    memory_EHVK = memories(config, weights, episodes, drop)
    asked = _side_by_side(episodes, questions, rng, device)
    state = FastMemoryStream(
        memory_EHVK[asked.owner_Q], fresh_carry(config, len(asked.places), device)
    )
    added_QTD, _ = read(config, weights, drop(asked.seen_QTX), state)
    first = config.taps - 1
    added_AD = torch.cat(
        [row[first : first + n] for row, n in zip(added_QTD, asked.places, strict=True)]
    )
    head_CD, answer_A = model.weights.lm_head.float(), asked.answer_A
    if not whole_vocabulary:
        words = _candidates(model, episodes, asked, plain, rng).to(device)
        head_CD, answer_A = head_CD[words], torch.searchsorted(words, answer_A)

    def scores(stream_AD: Tensor) -> Tensor:
        norm_D = model.weights.final_norm.float()
        return nnf.linear(rms_norm(stream_AD, norm_D, model.config.norm_eps), head_CD)

    score_AC = scores(asked.final_AD + added_AD)
    known_A = asked.known_Q[asked.row_A]
    weight_A = torch.where(asked.is_value_A, 1.0, REST_WEIGHT) * known_A
    nats_A = nnf.cross_entropy(score_AC, answer_A, reduction="none")
    answer_loss = (nats_A * weight_A).sum() / weight_A.sum()
    kl = answer_loss.new_zeros(())
    if not bool(known_A.all()):
        kl = _kl(scores(asked.final_AD[~known_A]), score_AC[~known_A]).mean()
    for index, window in enumerate(plain):
        memory_1HVK = memory_EHVK[index % len(episodes)][None]
        state = FastMemoryStream(memory_1HVK, fresh_carry(config, 1, device))
        added_1TD, _ = read(config, weights, window.seen.to(device)[None], state)
        final_TD = window.final.to(device).float()
        kl = kl + _kl(scores(final_TD), scores(final_TD + added_1TD[0])).mean() / len(plain)

    wrong_A = score_AC.argmax(-1) != answer_A
    known_Q = asked.known_Q
    return Scored(
        answer_loss + KL_WEIGHT * kl,
        float(answer_loss.detach()),
        float(kl.detach()),
        float(_none(wrong_A & asked.is_value_A, asked)[known_Q].float().mean()),
        float(_none(wrong_A, asked)[known_Q].float().mean()),
        int(known_Q.sum()),
    )


def _side_by_side(
    episodes: Sequence[Episode],
    questions: int | None,
    rng: random.Random | None,
    device: torch.device,
) -> _Asked:
    rows: list[tuple[int, bool, AskedFeatures]] = []
    for index, episode in enumerate(episodes):
        own = list(episode.asked)
        if questions is not None and rng is not None and len(own) > questions:
            own = rng.sample(own, questions)
        rows += [(index, True, one) for one in own]
        rows += [(index, False, one) for one in episode.negatives]
    features = [one for _, _, one in rows]
    places = tuple(len(one.answer) for one in features)
    return _Asked(
        seen_QTX=pad_sequence([one.seen for one in features], batch_first=True).to(device),
        owner_Q=torch.tensor([owner for owner, _, _ in rows], device=device),
        known_Q=torch.tensor([known for _, known, _ in rows], device=device),
        places=places,
        row_A=torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(places)).to(device),
        final_AD=torch.cat([one.final for one in features]).to(device).float(),
        answer_A=torch.cat([one.answer for one in features]).to(device),
        is_value_A=torch.cat([one.is_value for one in features]).to(device),
        rivals=torch.cat([one.rivals for one in features]),
    )


def _candidates(
    model: BaseModel,
    episodes: Sequence[Episode],
    asked: _Asked,
    plain: Sequence[PlainFeatures],
    rng: random.Random | None,
) -> Tensor:
    """Rising ids of the words that a step scores, (C,)."""
    told = [token for episode in episodes for token in episode.words]
    if rng is not None:
        told += [rng.randrange(model.config.vocab_size) for _ in range(RANDOM_CANDIDATES)]
    others = [asked.rivals, *(window.ids for window in plain)]
    joined = torch.cat([asked.answer_A.cpu(), torch.tensor(told), *others])
    return torch.tensor(sorted(set(joined.tolist())))


def _none(wrong_A: Tensor, asked: _Asked) -> Tensor:
    """Which questions have no such place, (Q,)."""
    count_Q = torch.zeros(len(asked.places), dtype=torch.long, device=wrong_A.device)
    return count_Q.index_add(0, asked.row_A, wrong_A.long()) == 0


def _kl(base_AC: Tensor, score_AC: Tensor) -> Tensor:
    """KL(base || with memory) of each place, in nats."""
    base = base_AC.log_softmax(-1)
    return (base.exp() * (base - score_AC.log_softmax(-1))).sum(-1)
