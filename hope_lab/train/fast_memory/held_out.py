"""Tests of a fast memory during training, on stories that training never reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch

from hope_lab.train.fast_memory.config import MemoryTrainConfig
from hope_lab.train.fast_memory.episodes import Split, Storyteller
from hope_lab.train.fast_memory.features import ItemFeatures, Reader, round_texts
from hope_lab.train.fast_memory.loss import scored
from hope_lab.train.fast_memory.pool import Pool
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemoryConfig, FastMemoryWeights

_HELD_OUT_ROUND = -1


class HeldOut:
    """Stories of every split, read by the base once; `file` names where a split's are kept."""

    def __init__(
        self,
        model: BaseModel,
        config: FastMemoryConfig,
        how: MemoryTrainConfig,
        unchanged: ItemFeatures,
        file: Callable[[str], Path | None],
    ) -> None:
        self._model, self._config = model, config
        self._pools = {}
        for split in (Split.UNSEEN, Split.KNOWN):
            teller = Storyteller(model.tokenizer, split)
            told = round_texts(teller, how.seed, _HELD_OUT_ROUND, how.test_stories)
            found = Reader(model, config, teller).stories(told, file(split.value))
            self._pools[split] = Pool([found], unchanged, config.taps)

    @torch.no_grad()
    def test(self, weights: FastMemoryWeights) -> dict[str, float]:
        """Shares of right values behind the right words, for 8 and 24 facts of relations that
        training never saw, and for 8 of known ones with names and values that it never saw."""
        found = {}
        for name, split, facts, batches, count in (
            ("8", Split.UNSEEN, 8, 3, 4),
            ("24", Split.UNSEEN, 24, 2, 2),
            ("known_8", Split.KNOWN, 8, 3, 4),
        ):
            rng = random.Random(f"tests:{name}")
            pool = self._pools[split]
            rows = [
                scored(
                    self._model,
                    self._config,
                    weights,
                    pool,
                    [pool.episode(rng, facts) for _ in range(count)],
                    whole_vocabulary=True,
                )
                for _ in range(batches)
            ]
            asked = sum(one.questions for one in rows)
            completed = max(1, sum(one.completed for one in rows))
            found[f"values_{name}"] = sum(one.values * one.questions for one in rows) / asked
            found[f"answers_{name}"] = sum(one.answers * one.questions for one in rows) / asked
            found[f"completions_{name}"] = (
                sum(one.completions * one.completed for one in rows if one.completed) / completed
            )
            found[f"kl_{name}"] = sum(one.kl for one in rows) / len(rows)
            found[f"questions_{name}"] = asked
        return {name: round(value, 4) for name, value in found.items()}
