"""Choosing tokens: against a plain reference, reproducibly, and never what is not allowed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.device import available
from hope_runtime.engine import device_draws, draw_noise
from hope_runtime.engine.device_draws import UNSURE
from hope_runtime.engine.sampling import MAX_STOPS, Sampler, Sampling
from hope_runtime.errors import InvalidRequestError

SCORES = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12)


def reference(
    scores: list[float], *, temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """Probability of each token that stays, by the definitions and in plain Python."""
    best = max(scores)
    weights = [math.exp((score - best) / temperature) for score in scores]
    shares = [weight / sum(weights) for weight in weights]
    order = sorted(range(len(scores)), key=lambda index: (-shares[index], index))
    kept, before = {}, 0.0
    for rank, index in enumerate(order):
        likely = shares[index] >= min_p * shares[order[0]]
        if likely and before < top_p and not (top_k and rank >= top_k):
            kept[index] = shares[index]
        before += shares[index]
    total = sum(kept.values())
    return {index: share / total for index, share in kept.items()}


def draw(scores: list[float], sampling: Sampling, count: int = 1) -> list[int]:
    sampler = Sampler(sampling)
    return [sampler.choose(torch.tensor(scores), []) for _ in range(count)]


@given(SCORES)
def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first(scores: list[float]) -> None:
    assert draw(scores, Sampling()) == [scores.index(max(scores))]


@given(SCORES, st.integers(0, 2**64 - 1))
def test_a_seed_gives_the_same_tokens_again(scores: list[float], seed: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    assert draw(scores, sampling, 8) == draw(scores, sampling, 8)


def test_seeds_differ() -> None:
    replies = {tuple(draw([0.0] * 12, Sampling(temperature=1, seed=seed), 8)) for seed in range(20)}
    assert len(replies) == 20


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5, "top_k": 3},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 2.0, "min_p": 0.3},
        {"temperature": 1.3, "top_k": 4, "top_p": 0.8, "min_p": 0.1},
    ],
)
def test_tokens_come_as_often_as_the_definitions_say(options: dict[str, float]) -> None:
    scores = [1.0, 3.0, 2.5, -1.0, 2.0, 0.0]
    expected = reference(scores, **{"top_k": 0, "top_p": 1.0, "min_p": 0.0} | options)
    count = 4000
    tokens = draw(scores, Sampling(**options, seed=3), count)
    assert set(tokens) <= set(expected)
    for token, share in expected.items():
        # Five standard deviations; the seed is fixed, so this never flickers.
        tolerance = 5 * math.sqrt(share * (1 - share) / count) + 1e-6
        assert abs(tokens.count(token) / count - share) <= tolerance


@given(
    SCORES,
    st.floats(0.1, 2),
    st.integers(0, 12),
    st.floats(0.01, 0.99),
    st.floats(0, 0.9),
)
def test_only_what_the_definitions_keep_is_ever_chosen(
    scores: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    slack = 1e-4  # rounding may decide at the very edge
    allowed = reference(
        scores, temperature=temperature, top_k=top_k, top_p=top_p + slack, min_p=min_p - slack
    )
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    # Scores that are nearly equal have equal weights in float32, and then the order of their ids.
    lowest = min(scores[index] for index in allowed) - slack * temperature
    assert all(scores[token] >= lowest for token in draw(scores, sampling, 6))


def test_a_penalty_makes_what_was_said_less_likely_whatever_its_sign() -> None:
    for scores in ([2.0, 1.9], [-1.9, -2.0]):
        tensor = torch.tensor(scores)
        sampler = Sampler(Sampling(repetition_penalty=1.5))
        assert sampler.choose(tensor, []) == 0
        assert sampler.choose(tensor, [0, 0]) == 1
        assert tensor.tolist() == torch.tensor(scores).tolist()  # the caller's stay as they are


@given(
    SCORES,
    st.sampled_from([1e-45, 1e-38, 1e-6, 2.0]),
    st.sampled_from([1e-38, 0.5, 1.0, 1e38]),
    st.lists(st.integers(0, 11), max_size=3),
)
def test_extreme_values_that_are_allowed_still_give_a_token(
    scores: list[float], temperature: float, penalty: float, reply: list[int]
) -> None:
    reply = [token % len(scores) for token in reply]
    sampler = Sampler(Sampling(temperature=temperature, repetition_penalty=penalty))
    assert 0 <= sampler.choose(torch.tensor(scores), reply) < len(scores)


def test_scores_of_lower_precision_do() -> None:
    assert Sampler(Sampling()).choose(torch.tensor([0.0, 2.0, 1.0], dtype=torch.bfloat16), []) == 1


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [0, -1]),
        ("temperature", [-0.1, 2.1, NAN, INF]),
        ("top_k", [-1]),
        ("top_p", [0.0, -0.1, 1.1, NAN]),
        ("min_p", [-0.1, 1.1, NAN]),
        ("repetition_penalty", [0.0, -1.0, NAN, INF]),
        ("stop", [("",), ("a", ""), ("a",) * (MAX_STOPS + 1)]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(
            InvalidRequestError, match=rf"sampling\.{name} is .*; allowed values:"
        ) as caught:
            Sampling(**{name: value})
        assert caught.value.field == f"sampling.{name}"


def drawn_from_all(logits_V: torch.Tensor, sampling: Sampling, count: int) -> list[int]:
    """Draws by a sort of the whole vocabulary and torch.multinomial: what a seed has meant since
    the first release."""
    generator = torch.Generator().manual_seed(sampling.seed)
    scores_V, order_V = ((logits_V.float() - logits_V.float().max()) / sampling.temperature).sort(
        descending=True, stable=True
    )
    weights_V = scores_V.softmax(-1)
    keep_V = weights_V >= sampling.min_p * weights_V[0]
    keep_V &= weights_V.cumsum(-1) - weights_V < sampling.top_p
    if sampling.top_k:
        keep_V[sampling.top_k :] = False
    kept_V = weights_V * keep_V
    return [int(order_V[torch.multinomial(kept_V, 1, generator=generator)]) for _ in range(count)]


@pytest.mark.parametrize("spread", [0.3, 3.0, 9.0])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 2.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 1.3, "min_p": 0.02},
    ],
)
def test_a_seed_means_what_it_always_has(spread: float, options: dict[str, float]) -> None:
    # Rounded to bfloat16 many logits are equal, and equals are in the order of their ids.
    logits_V = (torch.randn(20_000, generator=torch.Generator().manual_seed(1)) * spread).bfloat16()
    for seed in range(3):
        sampling = Sampling(seed=seed, **options)
        sampler = Sampler(sampling)
        found = [sampler.choose(logits_V, []) for _ in range(20)]
        assert found == drawn_from_all(logits_V, sampling, 20)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_noise_of_the_first_ranks_is_that_of_all(
    one_by_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if one_by_one and not draw_noise._makes_one_by_one():
        pytest.skip("this processor's library makes noise in another way")
    monkeypatch.setattr(draw_noise, "_makes_one_by_one", lambda: one_by_one)
    one, other = (torch.Generator().manual_seed(7) for _ in range(2))
    for count in (1, 40, 1999, 2000, 3):
        all_V = torch.empty(2000).exponential_(generator=other)
        noise = draw_noise.DrawNoise(one, 2000)
        for again in (count, 5, count):
            first, least = noise.first(again)
            assert torch.equal(first, all_V[:again])
            # A lower bound, and a close one.
            assert least <= min(all_V[again:].tolist(), default=math.inf) <= least * 1.0001
        assert torch.equal(noise.all(), all_V)
        assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("spread", [0.3, 3.0, 9.0])
def test_a_device_draws_what_the_host_does(name: str, spread: float) -> None:
    """Rows of all options at once, by and by; what a device leaves open the host draws from the
    same noise."""
    options: list[dict[str, float]] = [
        {"temperature": 1.0},
        {"temperature": 2.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 1.3, "min_p": 0.02},
    ]
    generator = torch.Generator().manual_seed(1)
    settings = [Sampling(seed=seed, **each) for seed, each in enumerate(options)]  # type: ignore[arg-type]
    hosts, devices = ([Sampler(each) for each in settings] for _ in range(2))
    open_rows = 0
    for _ in range(20):
        logits_BV = torch.randn(len(options), 20_000, generator=generator) * spread
        draws = [sampler.draw_of(20_000) for sampler in devices]
        tokens = device_draws.draw(logits_BV.to(name), draws).tolist()
        for row, token in enumerate(tokens):
            open_rows += token == UNSURE
            known = None if token == UNSURE else token
            expected = hosts[row].choose(logits_BV[row], [])
            assert devices[row].choose(logits_BV[row], [], known) == expected
    # Nearly even chances reach far behind the ranks that a device knows; a model's do not.
    assert open_rows < 5 if spread == 9.0 else open_rows or spread != 0.3


def test_what_a_device_drew_twice_is_drawn_once() -> None:
    """A step that failed is computed again."""
    logits_V = torch.randn(3000, generator=torch.Generator().manual_seed(1))
    one, other = (Sampler(Sampling(temperature=1.0, seed=4)) for _ in range(2))
    for _ in range(5):
        one.draw_of(3000)
        given = one.draw_of(3000)
        token = int(device_draws.draw(logits_V[None], [given]))
        assert one.choose(logits_V, [], None if token == UNSURE else token) == other.choose(
            logits_V, []
        )
