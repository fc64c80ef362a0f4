"""Formal languages (Nested Learning, Table 5): which symbols may come next, at every place.

Set up as in Bhattamishra et al. 2020 and Irie et al. 2023, as far as their texts say: strings of
the language only; after each symbol (and before the first) the model names the *set* of symbols
that may follow, the end of the string among them; a string counts as right when every one of its
sets is right. For parity that is acceptance at every prefix, since its end is legal where the ones
so far are even. Bin0 has the lengths that were trained on, Bin1 longer ones.

A language is an automaton with counters, which is how targets are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_lab.train.tasks.base import Batch, LanguageTask

String = tuple[int, ...]
State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Language:
    """written: as the paper writes it; symbols: what 0, 1, ... stand for.

    `move` is the state after one more symbol, `legal` which symbols may follow and whether the
    string may end. `draw` gives a string of exactly that length, or None if there is none.
    """

    written: str
    symbols: str
    start: State
    move: Callable[[State, int], State]
    legal: Callable[[State], tuple[tuple[int, ...], bool]]
    draw: Callable[[int, torch.Generator], String | None]


class FormalTask(LanguageTask):
    """One language. Ids: 0 begins a string, 1.. are its symbols; as a target, 0 is the end."""

    def __init__(self, name: str, *, longest: int = 40, longest_tested: int = 100) -> None:
        if name not in LANGUAGES:
            raise ValueError(
                f"language {name!r} does not exist; available languages: {', '.join(LANGUAGES)}"
            )
        if not 12 <= longest < longest_tested - 12:
            raise ValueError("longest must be at least 12, and longest_tested at least 13 more")
        self.name = name
        self.language = LANGUAGES[name]
        self.vocab_size = 1 + len(self.language.symbols)
        self.bins = {"bin0": (1, longest), "bin1": (longest + 1, longest_tested)}

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        return self._drawn(rows, *self.bins["bin0"], generator)

    def tests(self, rows: int, generator: torch.Generator) -> dict[str, Batch]:
        return {name: self._drawn(rows, *ends, generator) for name, ends in self.bins.items()}

    def accuracy(self, scores: Tensor, batch: Batch) -> float:
        """Share of the strings all of whose sets are right."""
        right = ((scores > 0) == batch.targets).all(-1) | ~batch.counted
        return float(right.all(-1).double().mean())

    def _drawn(self, rows: int, shortest: int, longest: int, generator: torch.Generator) -> Batch:
        strings: list[String] = []
        while len(strings) < rows:
            length = int(torch.randint(shortest, longest + 1, (), generator=generator))
            string = self.language.draw(length, generator)
            if string is not None:
                strings.append(string)
        return self.encoded(strings)

    def encoded(self, strings: list[String]) -> Batch:
        """A batch of given strings of the language; symbols count from 0."""
        T, V = 1 + max(map(len, strings)), self.vocab_size
        ids, targets, counted = [], [], []
        for string in strings:
            padding = T - 1 - len(string)
            ids.append([0, *(symbol + 1 for symbol in string), *[0] * padding])
            targets.append(self._sets(string) + [[False] * V] * padding)
            counted.append([True] * (1 + len(string)) + [False] * padding)
        return Batch(torch.tensor(ids), torch.tensor(targets), torch.tensor(counted))

    def _sets(self, string: String) -> list[list[bool]]:
        """Ids of the symbols that may come at each place."""
        language, state = self.language, self.language.start
        sets = []
        for symbol in (*string, None):
            symbols, may_end = language.legal(state)
            sets.append([may_end, *(at in symbols for at in range(len(language.symbols)))])
            if symbol is not None:
                state = language.move(state, symbol)
        return sets


def _parity() -> Language:
    """An even number of ones."""

    def draw(length: int, generator: torch.Generator) -> String | None:
        free = torch.randint(0, 2, (length - 1,), generator=generator).tolist()
        return (*free, sum(free) % 2)

    def legal(state: State) -> tuple[tuple[int, ...], bool]:
        return (0, 1), state == (0,)

    return Language("parity", "01", (0,), lambda state, bit: (state[0] ^ bit,), legal, draw)


def _cycle(written: str, word: String) -> Language:
    """Repetitions of a word: (aa)* and (abab)*."""

    def move(state: State, symbol: int) -> State:
        return ((state[0] + 1) % len(word),)

    def legal(state: State) -> tuple[tuple[int, ...], bool]:
        return (word[state[0]],), state == (0,)

    def draw(length: int, generator: torch.Generator) -> String | None:
        return None if length % len(word) else word * (length // len(word))

    return Language(written, "ab"[: 1 + max(word)], (0,), move, legal, draw)


def _blocks(written: str, kinds: int) -> Language:
    """a^n b^n, or with three kinds a^n b^n c^n, for n of at least 1."""

    def move(state: State, symbol: int) -> State:
        return tuple(count + (kind == symbol) for kind, count in enumerate(state))

    def legal(state: State) -> tuple[tuple[int, ...], bool]:
        n, *others = state
        if not others[0]:
            return ((0, 1) if n else (0,)), False
        for kind, count in enumerate(others, start=1):
            if count < n:
                return (kind,), False
        return (), True

    def draw(length: int, generator: torch.Generator) -> String | None:
        if length % kinds:
            return None
        return tuple(kind for kind in range(kinds) for _ in range(length // kinds))

    return Language(written, "abc"[:kinds], (0,) * kinds, move, legal, draw)


def _shuffle() -> Language:
    """Two kinds of brackets, each balanced by itself: ([)] is one of its strings."""

    def move(state: State, symbol: int) -> State:
        kind, change = symbol // 2, 1 - 2 * (symbol % 2)
        return tuple(count + change * (at == kind) for at, count in enumerate(state))

    def legal(state: State) -> tuple[tuple[int, ...], bool]:
        closing = tuple(2 * kind + 1 for kind, count in enumerate(state) if count)
        return (0, 2, *closing), not any(state)

    def draw(length: int, generator: torch.Generator) -> String | None:
        if length % 2:
            return None
        string: list[int] = []
        state: State = (0, 0)
        coins = torch.rand(length, 2, generator=generator).tolist()
        for left, (close, which) in zip(range(length, 0, -1), coins, strict=True):
            opened = sum(state)
            if opened == left or (opened and close < 0.5):
                # One of the brackets that are open, each as likely as another.
                string.append(2 * int(which * opened >= state[0]) + 1)
            else:
                string.append(2 * int(which < 0.5))
            state = move(state, string[-1])
        return tuple(string)

    return Language("Shuffle-2", "()[]", (0, 0), move, legal, draw)


LANGUAGES: dict[str, Language] = {
    "parity": _parity(),
    "aa": _cycle("(aa)*", (0, 0)),
    "abab": _cycle("(abab)*", (0, 1, 0, 1)),
    "anbn": _blocks("a^n b^n", 2),
    "anbncn": _blocks("a^n b^n c^n", 3),
    "shuffle2": _shuffle(),
}
