"""The loss of one step: stories are written, and questions elsewhere are answered.

What an episode's memory was told it must answer (cross-entropy, the words around a value with less
weight). What it was not told, and texts of the base, are held to what the base predicts (KL). All
scores are over the words that matter in the step (the texts' own, the base's rivals and random
ones), or over the whole vocabulary.

An episode is one row: its stories one after the other when they are written, its items one after
the other when they are read, each behind the places that its keys and queries reach back to. So no
memory is copied for a question.

Shape suffixes: E episodes, T tokens, X values a token at the sources, D model width, A places that
are scored, C candidates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_lab.train.fast_memory.pool import Episode, Index, Pool
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

# Facts of an episode.
FACTS = (4, 8, 8, 16, 24, 32)
RANDOM_CANDIDATES = 768
# The words around a value come from the question; the base finds most of them alone.
REST_WEIGHT = 0.3
KL_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Scored:
    """The loss of a step and its parts in nats. Shares of the told questions whose value, and
    whose every word, is what the scores would choose behind the right words: `values` and
    `answers` of those in chats, `completions` the values of completions; nan of no question."""

    loss: Tensor
    answer_nats: float
    kl: float
    values: float
    answers: float
    completions: float
    questions: int
    completed: int


Dropout = Callable[[Tensor], Tensor]
"""A change of the stream at the sources in training, so that no single value is relied on."""


def dropout(share: float, seed: int, device: torch.device) -> Dropout:
    """Sets a share of the values to zero; the same ones for the same seed and shape."""
    generator = torch.Generator(device).manual_seed(seed)

    def drop(seen: Tensor) -> Tensor:
        kept = torch.rand(seen.shape, generator=generator, device=device) >= share
        return seen * kept

    return drop


def memories(
    config: FastMemoryConfig,
    weights: FastMemoryWeights,
    pool: Pool,
    episodes: Sequence[Episode],
    drop: Dropout = lambda seen: seen,
) -> Tensor:
    """Memory that each episode writes, (E, H, V, K). Every story is a window of its own."""
    W = config.taps
    width = max(sum(int(pool.told_length[i]) for i in one.stories) for one in episodes)
    gap = len(pool.told) - 1
    index_ET = np.full((len(episodes), width), gap, dtype=np.int64)
    learnable_ET = np.zeros((len(episodes), width), dtype=np.bool_)
    for row, episode in enumerate(episodes):
        at = 0
        for story in episode.stories:
            start, length = int(pool.told_start[story]), int(pool.told_length[story])
            index_ET[row, at : at + length] = np.arange(start, start + length)
            learnable_ET[row, at + W : at + length] = True
            at += length
    device = weights.down.device
    seen_ETX = drop(pool.told[torch.from_numpy(index_ET).to(device)])
    write_ET = torch.from_numpy(learnable_ET).to(device)
    state = fresh_state(config, len(episodes), device)
    return write(config, weights, seen_ETX, state, write_ET).memory


@dataclass(frozen=True, slots=True)
class _Read:
    """The items of a step. `index_ET` are rows of the pool's `seen`, `place_A` the scored places
    among its entries, `final_A` the same places of the pool's `final`; `item_A` counts the items of
    the step. `known_A` says where the memory was told the answer, `unchanged_A` where the text is
    the base's own."""

    index_ET: Index
    place_A: Index
    final_A: Index
    item_A: Index
    known_A: Index
    unchanged_A: Index
    items: list[int]


def scored(
    model: BaseModel,
    config: FastMemoryConfig,
    weights: FastMemoryWeights,
    pool: Pool,
    episodes: Sequence[Episode],
    *,
    questions: int | None = None,
    rng: random.Random | None = None,
    whole_vocabulary: bool = False,
    drop: Dropout = lambda seen: seen,
) -> Scored:
    """The loss of some episodes, with at most `questions` questions of each, drawn by `rng`."""
    device = weights.down.device
    memory_EHVK = memories(config, weights, pool, episodes, drop)
    asked = _reading(pool, episodes, questions, rng)

    def put(array: Index) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    state = FastMemoryStream(memory_EHVK, fresh_carry(config, len(episodes), device))
    added_ETD, _ = read(config, weights, drop(pool.seen[put(asked.index_ET)]), state)
    added_AD = added_ETD.flatten(0, 1)[put(asked.place_A)]
    final_AD = pool.final[put(asked.final_A)].float()
    answer = pool.answer[asked.final_A]
    head_CD, norm_D = model.weights.lm_head, model.weights.final_norm.float()
    if not whole_vocabulary:
        words = _candidates(model, pool, episodes, asked, rng)
        head_CD, answer = head_CD[put(words)], np.searchsorted(words, answer)
    head_CD = head_CD.to(torch.get_autocast_dtype(device.type) if _autocast(device) else norm_D)

    def scores(stream_AD: Tensor) -> Tensor:
        normed_AD = rms_norm(stream_AD, norm_D, model.config.norm_eps)
        return nnf.linear(normed_AD.to(head_CD.dtype), head_CD).float()

    def held(places: Index) -> Tensor:
        """KL(base || with memory), the mean of some places in nats."""
        if not len(places):
            return score_AC.new_zeros(())
        at = put(places)
        with torch.no_grad():
            base = scores(final_AD[at]).log_softmax(-1)
        return (base.exp() * (base - score_AC[at].log_softmax(-1))).sum(-1).mean()

    score_AC, answer_A = scores(final_AD + added_AD), put(answer)
    known = np.flatnonzero(asked.known_A)
    nats = nnf.cross_entropy(score_AC[put(known)], answer_A[put(known)], reduction="none")
    weight = put(np.where(pool.is_value[asked.final_A[known]], 1.0, REST_WEIGHT)).float()
    answer_loss = (nats * weight).sum() / weight.sum()
    strangers = np.flatnonzero(~(asked.known_A | asked.unchanged_A))
    kl = held(strangers) + held(np.flatnonzero(asked.unchanged_A))
    with torch.no_grad():
        wrong_A = (score_AC.argmax(-1) != answer_A).cpu().numpy()
    return Scored(
        answer_loss + KL_WEIGHT * kl,
        float(answer_loss.detach()),
        float(kl.detach()),
        *_shares(pool, asked, wrong_A),
    )


def _autocast(device: torch.device) -> bool:
    return torch.is_autocast_enabled(device.type)


def _reading(
    pool: Pool, episodes: Sequence[Episode], questions: int | None, rng: random.Random | None
) -> _Read:
    rows: list[list[int]] = []
    known: list[bool] = []
    for episode in episodes:
        own = list(episode.asked)
        if questions is not None and rng is not None and len(own) > questions:
            own = rng.sample(own, questions)
        known += [True] * len(own) + [False] * (len(episode.strangers) + len(episode.unchanged))
        rows.append([*own, *episode.strangers, *episode.unchanged])
    lead = pool.taps - 1
    width = max(sum(lead + int(pool.length[item]) for item in row) for row in rows)
    index_ET = np.full((len(rows), width), len(pool.seen) - 1, dtype=np.int64)
    places, finals = [], []
    for number, row in enumerate(rows):
        at = 0
        for item in row:
            A, start = int(pool.length[item]), pool.seen_start(item)
            index_ET[number, at : at + lead + A] = np.arange(start, start + lead + A)
            places.append(number * width + at + lead + np.arange(A))
            finals.append(int(pool.start[item]) + np.arange(A))
            at += lead + A
    items = [item for row in rows for item in row]
    lengths = pool.length[items]
    return _Read(
        index_ET,
        np.concatenate(places),
        np.concatenate(finals),
        np.repeat(np.arange(len(items)), lengths),
        np.repeat(np.array(known), lengths),
        np.repeat(np.array(items) >= len(pool.questions), lengths),
        items,
    )


def _candidates(
    model: BaseModel,
    pool: Pool,
    episodes: Sequence[Episode],
    asked: _Read,
    rng: random.Random | None,
) -> Index:
    """Rising ids of the words that a step scores, (C,)."""
    told = [pool.told_tokens[story] for episode in episodes for story in episode.stories]
    others = [pool.answer[asked.final_A], pool.rivals[asked.final_A].ravel()]
    if rng is not None:
        drawn = np.random.default_rng(rng.getrandbits(64))
        others.append(drawn.integers(model.config.vocab_size, size=RANDOM_CANDIDATES))
    return np.unique(np.concatenate([*told, *others]))


def _shares(pool: Pool, asked: _Read, wrong_A: Index) -> tuple[float, float, float, int, int]:
    """The fields of Scored that count questions."""
    count = len(asked.items)
    wrong = np.bincount(asked.item_A, wrong_A, count) > 0
    wrong_value = np.bincount(asked.item_A, wrong_A & pool.is_value[asked.final_A], count) > 0
    known = np.zeros(count, dtype=np.bool_)
    known[asked.item_A] = asked.known_A
    completion = np.array(
        [item < len(pool.questions) and pool.questions[item].is_completion for item in asked.items]
    )
    chat, completed = known & ~completion, known & completion
    return (
        _share(~wrong_value[chat]),
        _share(~wrong[chat]),
        _share(~wrong_value[completed]),
        int(chat.sum()),
        int(completed.sum()),
    )


def _share(right: Index) -> float:
    return float(right.mean()) if len(right) else float("nan")
