"""Re-scaling that is fitted while a text is read: what a memory's gain must not be mistaken for.

Scores of the next token are turned into a log p(v) + w log u(v): a temperature and a bias towards
the words of this text, u being their frequencies so far. (a, w) begin at (1, 0), which changes
nothing, and are fitted by online Newton steps to the tokens that were read: the loss is convex in
them, its gradient and curvature are the mean and covariance of (log p, log u) (Hazan et al., 2007).
It is told scores and tokens, and never sees a memory or a text.

Shape suffixes: N tokens, V vocabulary, F the two features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# What the curvature begins with: as if so much had been read already and nothing had come of it.
PRIOR_CURVATURE = 10.0
# Tokens that are worked on together, which bounds the memory taken: a few times this, times V.
_ROWS = 64


class Calibration:
    """Fits itself to a stream. `weights_F` are (a, w) as they are now, float64."""

    def __init__(self, vocab_size: int) -> None:
        self._counts_V = torch.zeros(vocab_size, dtype=torch.float64)
        self._curvature_FF = PRIOR_CURVATURE * torch.eye(2, dtype=torch.float64)
        self.weights_F = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def read(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        """Nats of each target, (N,) float32, by what was read before; then learns from them."""
        log_u_V = self._log_frequencies().to(logits_NV.device)
        gradient_F = torch.zeros(2, dtype=torch.float64)
        nats = []
        for at in range(0, len(targets_N), _ROWS):
            targets = targets_N[at : at + _ROWS]
            log_p_NV = logits_NV[at : at + _ROWS].float().log_softmax(-1)
            a, w = self.weights_F.tolist()
            scaled_NV = a * log_p_NV + w * log_u_V
            nats.append(cross_entropy(scaled_NV, targets, reduction="none"))
            chance_NV = scaled_NV.softmax(-1)
            features_FNV = torch.stack([log_p_NV, log_u_V.expand_as(log_p_NV)])
            mean_FN = (features_FNV * chance_NV).sum(-1)
            apart_FNV = features_FNV - mean_FN[..., None]
            covariance_FF = torch.einsum("fnv,gnv->fg", apart_FNV * chance_NV, apart_FNV)
            seen_FN = features_FNV.gather(-1, targets.expand(2, -1)[..., None])[..., 0]
            gradient_F += (mean_FN - seen_FN).sum(-1).double().cpu()
            self._curvature_FF += covariance_FF.double().cpu()
        self.weights_F = self.weights_F - torch.linalg.solve(self._curvature_FF, gradient_F)
        self._counts_V += torch.bincount(targets_N.cpu(), minlength=len(self._counts_V))
        return torch.cat(nats).cpu()

    def _log_frequencies(self) -> Tensor:
        """Log of the frequencies so far, (V,) float32, every token counted once beforehand."""
        return ((self._counts_V + 1) / (self._counts_V.sum() + len(self._counts_V))).log().float()
