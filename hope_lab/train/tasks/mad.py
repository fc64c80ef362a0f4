"""The five synthetic tasks of MAD (Poli et al. 2024; Nested Learning, Table 4), at small sizes.

  in_context_recall  keys with values that are drawn anew for each string; later keys ask again
  fuzzy_recall       the same, with keys and values of one to three tokens
  selective_copying  tokens between blanks, to be written out in order after a sign
  memorization       a dictionary that never changes: it must be learnt into the weights
  compression        a whole string in the state of its last token, decoded place by place

A string's last part asks. Sizes are ours (MAD: up to 256 tokens and millions of strings). In
`compression` a small readout of the task's own decodes the last hidden state, as there.

Shape suffixes: B rows, T tokens, S places to decode, D model width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_lab.train.tasks.base import Batch, LanguageTask, Readout
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.model import logits
from hope_runtime.models.hope.weights import HopeWeights


class MadTask(LanguageTask):
    """Base of the five tasks: one test set, drawn as the training strings are."""

    name: str
    vocab_size: int

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        raise NotImplementedError

    def tests(self, rows: int, generator: torch.Generator) -> dict[str, Batch]:
        return {"test": self.batch(rows, generator)}


class InContextRecall(MadTask):
    """Keys and values alternate. A key that was there before asks for the value it had."""

    name = "in_context_recall"

    def __init__(self, *, pairs: int = 16, keys: int = 12, values: int = 12) -> None:
        _positive(pairs=pairs, keys=keys, values=values)
        self.pairs, self.keys, self.values = pairs, keys, values
        self.vocab_size = keys + values

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        value_of = torch.randint(0, self.values, (rows, self.keys), generator=generator)
        keys = torch.randint(0, self.keys, (rows, self.pairs), generator=generator)
        values = value_of.gather(1, keys)
        ids = torch.stack((keys, self.keys + values), dim=2).flatten(1)
        # The last token answers nothing any more.
        targets = torch.cat((ids[:, 1:], torch.zeros(rows, 1, dtype=torch.int64)), dim=1)
        earlier = (keys[:, :, None] == keys[:, None, :]).tril(-1).any(-1)
        counted = torch.stack((earlier, torch.zeros_like(earlier)), dim=2).flatten(1)
        return Batch(ids, targets, counted)


class FuzzyRecall(MadTask):
    """Keys and values are of one to three tokens. The last part asks for one of the keys again."""

    name = "fuzzy_recall"

    def __init__(self, *, pairs: int = 6, keys: int = 8, values: int = 8, longest: int = 3) -> None:
        _positive(pairs=pairs, keys=keys, values=values, longest=longest)
        if keys < 2:
            raise ValueError("keys must be at least 2")
        self.pairs, self.keys, self.values, self.longest = pairs, keys, values, longest
        # Behind keys and values: a sign before each pair, one between its halves, and padding.
        self.begin, self.then, self.padding = (keys + values + at for at in range(3))
        self.vocab_size = keys + values + 3

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        T = (self.pairs + 1) * (2 * self.longest + 2)
        ids = torch.full((rows, T), self.padding)
        targets = torch.zeros(rows, T, dtype=torch.int64)
        counted = torch.zeros(rows, T, dtype=torch.bool)
        for row in range(rows):
            written: dict[tuple[int, ...], list[int]] = {}
            text: list[int] = []
            for _ in range(self.pairs):
                key = tuple(self._some(0, self.keys, generator))
                if key not in written:
                    written[key] = self._some(self.keys, self.values, generator)
                text += [self.begin, *key, self.then, *written[key]]
            asked = list(written)[int(torch.randint(0, len(written), (), generator=generator))]
            text += [self.begin, *asked, self.then]
            answer = written[asked]
            end = len(text)
            text += answer
            ids[row, : len(text)] = torch.tensor(text)
            targets[row, end - 1 : end - 1 + len(answer)] = torch.tensor(answer)
            counted[row, end - 1 : end - 1 + len(answer)] = True
        return Batch(ids, targets, counted)

    def _some(self, first: int, count: int, generator: torch.Generator) -> list[int]:
        length = int(torch.randint(1, self.longest + 1, (), generator=generator))
        drawn: list[int] = torch.randint(
            first, first + count, (length,), generator=generator
        ).tolist()
        return drawn


class SelectiveCopying(MadTask):
    """Tokens at random places among blanks; after the sign they are written out in order."""

    name = "selective_copying"

    def __init__(self, *, tokens: int = 8, length: int = 32, symbols: int = 12) -> None:
        _positive(tokens=tokens, length=length, symbols=symbols)
        if tokens > length:
            raise ValueError("tokens must be at most length")
        self.tokens, self.length, self.symbols = tokens, length, symbols
        self.blank, self.sign = symbols, symbols + 1
        self.vocab_size = symbols + 2

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        chosen = torch.rand(rows, self.length, generator=generator).argsort(1)[:, : self.tokens]
        places = chosen.sort(1).values
        tokens = torch.randint(0, self.symbols, (rows, self.tokens), generator=generator)
        read = torch.full((rows, self.length), self.blank).scatter(1, places, tokens)
        sign = torch.full((rows, 1), self.sign)
        # What is asked for is never shown: the model sees the sign again and again.
        ids = torch.cat((read, sign.expand(-1, self.tokens)), dim=1)
        targets = torch.cat((torch.zeros_like(read), tokens), dim=1)
        counted = torch.zeros_like(ids, dtype=torch.bool)
        counted[:, self.length :] = True
        return Batch(ids, targets, counted)


class Memorization(MadTask):
    """Key, then a sign in the place of its value: one dictionary for all strings and seeds."""

    name = "memorization"

    def __init__(self, *, pairs: int = 16, keys: int = 128, values: int = 128) -> None:
        _positive(pairs=pairs, keys=keys, values=values)
        self.pairs, self.keys = pairs, keys
        self.vocab_size = keys + values + 1
        fixed = torch.Generator().manual_seed(20_241)
        self.dictionary = keys + torch.randint(0, values, (keys,), generator=fixed)

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        keys = torch.randint(0, self.keys, (rows, self.pairs), generator=generator)
        sign = torch.full_like(keys, self.vocab_size - 1)
        ids = torch.stack((keys, sign), dim=2).flatten(1)
        found = self.dictionary[keys]
        targets = torch.stack((torch.zeros_like(found), found), dim=2).flatten(1)
        counted = (torch.arange(ids.shape[1]) % 2 == 1).expand(rows, -1)
        return Batch(ids, targets, counted)


class Compression(MadTask):
    """Random tokens and a sign; from the hidden state of the sign alone, all of them again."""

    name = "compression"

    def __init__(self, *, length: int = 16, symbols: int = 12) -> None:
        _positive(length=length, symbols=symbols)
        self.length, self.symbols = length, symbols
        self.vocab_size = symbols + 1

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        tokens = torch.randint(0, self.symbols, (rows, self.length), generator=generator)
        sign = torch.full((rows, 1), self.symbols)
        counted = torch.ones_like(tokens, dtype=torch.bool)
        return Batch(torch.cat((tokens, sign), dim=1), tokens, counted)

    def readout(self, config: HopeConfig, generator: torch.Generator) -> dict[str, Tensor]:
        D = config.backbone.d_model
        scale = 1 / math.sqrt(D)
        return {
            "place": torch.randn(self.length, D, generator=generator) * scale,
            "up": torch.randn(4 * D, D, generator=generator) * scale,
            "down": torch.randn(D, 4 * D, generator=generator) * scale / 2,
        }

    def scores(self, hidden_BTD: Tensor, weights: HopeWeights, readout: Readout) -> Tensor:
        asked_BSD = hidden_BTD[:, -1:] + readout["place"]
        up = nnf.silu(nnf.linear(asked_BSD, readout["up"]))
        return logits(weights, nnf.linear(up, readout["down"]))


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1")


MAD: dict[str, type[MadTask]] = {
    kind.name: kind
    for kind in (Compression, InContextRecall, FuzzyRecall, SelectiveCopying, Memorization)
}
