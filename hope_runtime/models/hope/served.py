"""A HOPE model as it is served: frozen weights that all sessions start from, and a tokenizer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.weights import HopeWeights
from hope_runtime.session.levels import FullRank
from hope_runtime.session.policy import LearningPolicy, LevelConfig
from hope_runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class HopeModel:
    """A HOPE model as a server holds it: the part that all its sessions have in common.

    `fingerprint` identifies configuration, weights and tokenizer (`fingerprint_of`); a memory that
    was learnt on one model is refused on another.
    """

    config: HopeConfig
    weights: HopeWeights
    tokenizer: Tokenizer
    fingerprint: str
    former: frozenset[str] = frozenset()
    name: str = ""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the model computes in."""
        return self.weights.dtype

    @property
    def device(self) -> torch.device:
        """Device that the model computes on."""
        return self.weights.device

    @cached_property
    def initial(self) -> tuple[FullRank, ...]:
        """theta_0 of each level that learns."""
        return tuple(
            FullRank(self.weights.theta(self.config, level))
            for level in self.config.learning_levels
        )

    @cached_property
    def policy(self) -> LearningPolicy:
        """The one policy of its sessions: how a HOPE model learns is part of the model.

        The rank of a level is that of its whole matrices. Raises UnsupportedModelError for a level
        whose learning rate no policy may have.
        """
        levels = [self.config.levels[index] for index in self.config.learning_levels]
        width = self.config.backbone.d_model
        try:
            return LearningPolicy(
                name="default",
                levels=tuple(
                    LevelConfig(level.period_tokens, min(width, level.d_ff), level.learning_rate)
                    for level in levels
                ),
                recipe="streamed",
            )
        except ValueError as error:
            raise UnsupportedModelError(
                f"the levels of the model cannot be served: {error}"
            ) from error


def fingerprint_of(config: HopeConfig, weights: HopeWeights, tokenizer: Tokenizer) -> str:
    """SHA-256, in hex, over the configuration, every byte of the weights and the tokenizer."""
    digest = hashlib.sha256()
    digest.update(json.dumps(config.to_fields(), sort_keys=True).encode())
    for name, tensor in weights.named():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    digest.update(tokenizer.to_json().encode())
    return digest.hexdigest()
