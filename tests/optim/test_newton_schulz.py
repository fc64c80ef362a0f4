"""Newton-Schulz: to the orthogonal factor, from any scale, and nothing from nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_runtime.optim.newton_schulz import newton_schulz

SIZES = st.integers(min_value=0, max_value=7)


def matrix(rows: int, out: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, out, width, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(rows=SIZES, out=SIZES, width=SIZES, seed=st.integers(0, 99), quintic=st.booleans())
def test_29_shape_and_scale_do_not_matter(
    rows: int, out: int, width: int, seed: int, quintic: bool
) -> None:
    X = matrix(rows, out, width, seed)
    polynomial = "quintic" if quintic else "cubic"
    found = newton_schulz(X, polynomial=polynomial)
    assert found.shape == X.shape
    for scale in (1e-30, 3.7e-9, 1e30):
        scaled = newton_schulz(scale * X, polynomial=polynomial)
        torch.testing.assert_close(scaled, found, rtol=1e-9, atol=1e-9)
    mirrored = newton_schulz(X.mT, polynomial=polynomial).mT
    torch.testing.assert_close(mirrored, found, rtol=1e-9, atol=1e-9)
    for row in range(rows):
        alone = newton_schulz(X[row], polynomial=polynomial)
        torch.testing.assert_close(alone, found[row], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_29_tiny_gradients_do_not_underflow(dtype: torch.dtype) -> None:
    X = matrix(1, 5, 3).to(dtype)
    torch.testing.assert_close(newton_schulz(X * 1e-30), newton_schulz(X))


def test_29_zero_stays_zero() -> None:
    X = matrix(2, 4, 3)
    X[1] = 0
    found = newton_schulz(X)
    assert torch.equal(found[1], torch.zeros(4, 3, dtype=torch.float64))
    assert bool(found[0].any())


def test_29_the_cubic_tends_to_singular_values_of_one() -> None:
    U, _, Vh = torch.linalg.svd(matrix(1, 6, 4)[0], full_matrices=False)
    values = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    X = U @ torch.diag(values) @ Vh
    torch.testing.assert_close(newton_schulz(X, steps=25), U @ Vh, rtol=0, atol=1e-10)
    # The module's figure: 0.01 (of a norm of 1.12) is within a hundredth after 17 steps.
    smallest = float(torch.linalg.svdvals(newton_schulz(X, steps=17)).min())
    assert 0.99 < smallest < 1.0


def test_29_the_quintic_ends_near_one_in_five_steps() -> None:
    values = torch.linalg.svdvals(
        newton_schulz(matrix(1, 30, 20)[0], steps=5, polynomial="quintic")
    )
    assert 0.6 < float(values.min()) < float(values.max()) < 1.25


def test_the_cubic_is_gradient_descent_on_orthogonality() -> None:
    """Eq. 43 with rate 1/8."""
    X = matrix(1, 4, 3)[0]
    start = (X / torch.linalg.matrix_norm(X)).requires_grad_()
    identity = torch.eye(3, dtype=torch.float64)
    (slope,) = torch.autograd.grad((start.mT @ start - identity).square().sum(), start)
    torch.testing.assert_close(newton_schulz(X, steps=1), start - slope / 8, rtol=0, atol=1e-12)
