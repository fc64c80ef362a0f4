"""Tasks against brute-force definitions of what they say."""

from __future__ import annotations

import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_lab.train.tasks import LANGUAGES, MAD, make_task
from hope_lab.train.tasks.formal import FormalTask
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.hope.config import preset
from hope_runtime.models.hope.weights import init_weights

seeds = st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _balanced(text: str, pair: str) -> bool:
    kept = "".join(letter for letter in text if letter in pair)
    while pair in kept:
        kept = kept.replace(pair, "")
    return not kept


def _counts(text: str, letters: str) -> bool:
    n = len(text) // len(letters)
    return n > 0 and text == "".join(letter * n for letter in letters)


MEMBERS = {
    "parity": lambda text: text.count("1") % 2 == 0,
    "aa": lambda text: re.fullmatch("(aa)*", text) is not None,
    "abab": lambda text: re.fullmatch("(abab)*", text) is not None,
    "anbn": lambda text: _counts(text, "ab"),
    "anbncn": lambda text: _counts(text, "abc"),
    "shuffle2": lambda text: _balanced(text, "()") and _balanced(text, "[]"),
}
# Long enough that every prefix of half that length can be completed within it.
ENOUGH = {"parity": 7, "aa": 8, "abab": 8, "anbn": 10, "anbncn": 9, "shuffle2": 6}


@cache
def members(name: str) -> frozenset[str]:
    """All strings of the language up to some length, by trying every string."""
    symbols, most = LANGUAGES[name].symbols, ENOUGH[name]
    texts = ("".join(t) for n in range(most + 1) for t in product(symbols, repeat=n))
    return frozenset(text for text in texts if MEMBERS[name](text))


@pytest.mark.parametrize("name", LANGUAGES)
def test_sets_are_those_of_the_definition(name: str) -> None:
    task = FormalTask(name)
    symbols = LANGUAGES[name].symbols
    short = [text for text in members(name) if len(text) <= ENOUGH[name] // 2]
    for text in short:
        batch = task.encoded([tuple(symbols.index(letter) for letter in text)])
        assert bool(batch.counted.all())
        for place in range(len(text) + 1):
            prefix = text[:place]
            may = [prefix in members(name)]
            may += [any(m.startswith(prefix + s) for m in members(name)) for s in symbols]
            assert batch.targets[0, place].tolist() == may, (text, place)


@pytest.mark.parametrize("name", LANGUAGES)
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_drawn_strings_are_in_the_language_and_in_their_bin(name: str, seed: int) -> None:
    task = FormalTask(name, longest=16, longest_tested=40)
    symbols = LANGUAGES[name].symbols
    for bin_name, batch in task.tests(8, generator(seed)).items():
        shortest, longest = task.bins[bin_name]
        for ids, counted in zip(batch.ids_BT, batch.counted, strict=True):
            length = int(counted.sum()) - 1
            text = "".join(symbols[int(i) - 1] for i in ids[1 : 1 + length])
            assert shortest <= length <= longest
            assert MEMBERS[name](text)


def test_a_string_counts_only_when_all_its_sets_are_right() -> None:
    task = FormalTask("parity")
    batch = task.encoded([(1, 1), (0, 1, 1)])
    scores = batch.targets.float() * 2 - 1
    # Padding does not count.
    scores[0, 3] *= -1
    assert task.accuracy(scores, batch) == 1.0
    scores[0, 2, 0] *= -1
    assert task.accuracy(scores, batch) == 0.5


@pytest.mark.parametrize("name", MAD)
def test_a_batch_is_a_function_of_the_seed(name: str) -> None:
    task = make_task(name)
    one, same, other = (task.batch(5, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.ids_BT, same.ids_BT)
    assert not torch.equal(one.ids_BT, other.ids_BT)
    assert 0 <= int(one.ids_BT.min()) <= int(one.ids_BT.max()) < task.vocab_size
    assert one.targets.shape == one.counted.shape


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_in_context_recall_asks_what_was_told(seed: int) -> None:
    batch = make_task("in_context_recall").batch(3, generator(seed))
    for ids, targets, counted in zip(*(t.tolist() for t in _parts(batch)), strict=True):
        told: dict[int, int] = {}
        for at in range(0, len(ids), 2):
            assert counted[at] == (ids[at] in told)
            assert not counted[at + 1]
            if counted[at]:
                assert targets[at] == told[ids[at]]
            assert told.setdefault(ids[at], ids[at + 1]) == ids[at + 1]


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_selective_copying_asks_for_the_tokens_in_order(seed: int) -> None:
    task = make_task("selective_copying", tokens=5, length=12)
    batch = task.batch(3, generator(seed))
    for ids, targets, counted in zip(*(t.tolist() for t in _parts(batch)), strict=True):
        wanted = [token for token in ids[:12] if token != 12]
        assert [t for t, counts in zip(targets, counted, strict=True) if counts] == wanted
        assert ids[12:] == [13] * 5


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_fuzzy_recall_asks_for_a_whole_key(seed: int) -> None:
    batch = make_task("fuzzy_recall").batch(3, generator(seed))
    for ids, targets, counted in zip(*(t.tolist() for t in _parts(batch)), strict=True):
        text = [i for i in ids if i != 18]
        pairs, start = [], None
        for at, token in enumerate([*text, 16]):
            if token == 16:
                if start is not None:
                    pairs.append(text[start:at])
                start = at + 1
        halves = [(tuple(p[: p.index(17)]), p[p.index(17) + 1 :]) for p in pairs]
        asked, answer = halves[-1]
        assert answer == dict(halves[:-1])[asked]
        assert [t for t, counts in zip(targets, counted, strict=True) if counts] == answer
        first = counted.index(True)
        assert ids[first] == 17


def test_memorization_has_one_dictionary_and_compression_one_place_to_read() -> None:
    batch = make_task("memorization").batch(64, generator(0))
    keys, values = batch.ids_BT[:, ::2].flatten(), batch.targets[:, 1::2].flatten()
    seen: dict[int, int] = {}
    for key, value in zip(keys, values, strict=True):
        assert seen.setdefault(int(key), int(value)) == int(value)
    task = make_task("compression", length=6)
    config = preset("hope", vocab_size=task.vocab_size, d_model=8, n_layers=1, n_heads=2)
    hidden = torch.randn(2, 7, 8, generator=generator(0))
    readout = task.readout(config, generator(1))
    weights = init_weights(config, 0)
    scores = task.scores(hidden, weights, readout)
    assert scores.shape == (2, 6, task.vocab_size)
    hidden[:, :-1] = 0
    assert torch.equal(task.scores(hidden, weights, readout), scores)


def test_text_windows_are_the_files_and_the_tests_were_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(200)))
    options = {"files": [str(tmp_path / "a")], "window": 10}
    task = make_task("text", held_out=0.1, **options)
    learnt, tested = task.batch(50, generator(0)), task.tests(50, generator(0))["held_out"]
    for batch in (learnt, tested):
        assert torch.equal(batch.targets, batch.ids_BT + 1)
        assert torch.equal(batch.targets[:, :-1], batch.ids_BT[:, 1:])
    assert int(learnt.targets.max()) < 180 <= int(tested.ids_BT.min())
    with pytest.raises(InvalidRequestError, match="more than a window"):
        make_task("text", held_out=0.01, **options)
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        make_task("text", files=[str(tmp_path / "none")])


def _parts(batch):  # type: ignore[no-untyped-def]
    return batch.ids_BT, batch.targets, batch.counted
