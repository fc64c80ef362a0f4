"""The control re-scales, finds the scale that is right, and has nothing else to go by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hope_lab.evaluate.calibration import Calibration

V = 40


def stream(sharpness: float, steps: int = 60) -> list[tuple[Tensor, Tensor]]:
    """Scores that are `sharpness` times those that the tokens were drawn by."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(steps):
        true_NV = 2 * torch.randn(64, V, generator=generator)
        targets_N = true_NV.softmax(-1).multinomial(1, generator=generator)[:, 0]
        found.append((sharpness * true_NV, targets_N))
    return found


def read(calibration: Calibration, parts: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [calibration.read(logits_NV, targets_N) for logits_NV, targets_N in parts]


def test_the_first_tokens_have_the_loss_that_they_had() -> None:
    logits_NV, targets_N = stream(3.0)[0]
    expected = cross_entropy(logits_NV, targets_N, reduction="none")
    torch.testing.assert_close(Calibration(V).read(logits_NV, targets_N), expected)


def test_a_wrong_temperature_is_found() -> None:
    calibration = Calibration(V)
    read(calibration, stream(2.0))
    assert abs(float(calibration.weights_F[0]) - 0.5) < 0.05
    assert abs(float(calibration.weights_F[1])) < 0.1


def test_right_scores_stay_what_they_are() -> None:
    calibration = Calibration(V)
    parts = stream(1.0)
    plain = sum(float(cross_entropy(s, t, reduction="sum")) for s, t in parts)
    fitted = sum(float(nats.sum()) for nats in read(calibration, parts))
    assert abs(fitted - plain) < 0.005 * plain


def test_words_of_this_text_become_likelier() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [
        (torch.zeros(64, V), torch.randint(0, 4, (64,), generator=generator)) for _ in range(20)
    ]
    last = read(Calibration(V), parts)[-1]
    # Uniform scores over V words, of which four occur: ln 4 is the best that can be.
    assert 1.38 < float(last.mean()) < 1.6


def test_nothing_is_known_of_a_token_before_it_was_read() -> None:
    """What is to come, its own loss included, changes no loss."""
    parts = stream(2.0, steps=6)
    whole = read(Calibration(V), parts)
    torch.testing.assert_close(read(Calibration(V), parts[:4]), whole[:4])
    swapped = [*parts[:5], (parts[5][0], (parts[5][1] + 1) % V)]
    torch.testing.assert_close(read(Calibration(V), swapped)[:5], whole[:5])


def test_it_cannot_tell_which_context_a_token_had() -> None:
    """Where every token is certain from the one before it, and the scores do not show it, a
    memory could learn the rule and re-scaling cannot: it stays at the words' frequencies."""
    cycle = torch.arange(64) % V
    parts = [(torch.zeros(64, V), (cycle + 64 * step) % V) for step in range(30)]
    last = read(Calibration(V), parts)[-1]
    assert float(last.mean()) > 0.95 * torch.tensor(float(V)).log()
