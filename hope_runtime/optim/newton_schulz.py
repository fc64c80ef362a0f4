"""Newton-Schulz iterations: a matrix to its nearest matrix with orthonormal rows or columns.

The cubic X <- 1.5 X - 0.5 X Xᵀ X is gradient descent with rate 1/8 on || Xᵀ X - I ||²_F (Nested
Learning, Eq. 43; Eq. 44 prints another factor and a term that keeps X near its start). It
converges: every non-zero singular value tends to 1, one of 0.01 within 17 steps. The quintic of
Muon (Jordan et al., 2024) climbs faster and stays at about 0.7 to 1.2.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Polynomial = Literal["cubic", "quintic"]
POLYNOMIALS = ("cubic", "quintic")
# a X + (b X Xᵀ + c (X Xᵀ)²) X
COEFFICIENTS = {"cubic": (1.5, -0.5, 0.0), "quintic": (3.4445, -4.7750, 2.0315)}


def newton_schulz(matrix: Tensor, *, steps: int = 12, polynomial: Polynomial = "cubic") -> Tensor:
    """U Vᵀ of each matrix U S Vᵀ, approximately; (*rows, out, in), same dtype.

    Does not depend on a matrix's scale. A zero matrix stays zero.
    """
    if not matrix.numel():
        return matrix
    a, b, c = COEFFICIENTS[polynomial]
    tall = matrix.shape[-2] > matrix.shape[-1]
    X = matrix.mT if tall else matrix
    # Divided by the largest entry first, because the square of a small gradient underflows.
    X = X / _or_one(X.abs().amax((-2, -1), keepdim=True))
    X = X / _or_one(torch.linalg.matrix_norm(X, keepdim=True))
    for _ in range(steps):
        gram = X @ X.mT
        factor = b * gram + c * gram @ gram if c else b * gram
        X = a * X + factor @ X
    return X.mT if tall else X


def _or_one(norm: Tensor) -> Tensor:
    return torch.where(norm > 0, norm, torch.ones_like(norm))
