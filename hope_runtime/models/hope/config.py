"""Configuration of a HOPE model, and the models of the papers as presets of it by name.

Knows what can be chosen and what excludes what. The sizes that it has in common with a pretrained
backbone are a ModelConfig, so attention is one implementation for both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

from hope_runtime.layers.config import ModelConfig, TitansConfig


@dataclass(frozen=True, slots=True)
class HopeLevel:
    """One level of the Continuum Memory System: an MLP of every block (or of some).

    `period_tokens` is C of Eq. 71 in learnable tokens; 0 is frequency 0, a plain static MLP.
    """

    period_tokens: int
    d_ff: int
    learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.period_tokens < 0 or self.d_ff < 1 or not self.learning_rate >= 0:
            raise ValueError(
                "a level needs period_tokens of at least 0, d_ff of at least 1 and learning_rate "
                "of at least 0"
            )


@dataclass(frozen=True, slots=True)
class HopeConfig:
    """A model of pre-norm residual blocks: attention, then fast memory, then its levels.

    `backbone` holds the sizes (its d_ff is not used). Levels run fast to slow; a block without
    `layer_levels` has all of them, else layer i has only the levels that layer_levels[i] names
    (level stacking, section 7.3). `window` bounds what attention sees, in tokens, itself included.
    """

    backbone: ModelConfig
    levels: tuple[HopeLevel, ...]
    attention: bool = False
    fast: TitansConfig | None = None
    variant: Literal["sequential", "nested", "independent"] = "sequential"
    layer_levels: tuple[tuple[int, ...], ...] | None = None
    window: int = 1024
    # Learning reads the stream in segments of at most this many tokens, context included, and
    # sends its gradients no further back. 0: the fastest period.
    segment_tokens: int = field(default=0)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError("window must be at least 1")
        periods = [level.period_tokens for level in self.levels if level.period_tokens]
        if any(slow % fast or slow < fast for fast, slow in pairwise(periods)):
            raise ValueError(
                "period_tokens of each level must be a multiple of that of the level before it"
            )
        if any(
            not fast.period_tokens and slow.period_tokens for fast, slow in pairwise(self.levels)
        ):
            raise ValueError("levels must be ordered from fast to slow, with static ones last")
        if self.fast is not None and self.backbone.d_model % self.fast.n_heads:
            raise ValueError("d_model must be a multiple of the fast memory's n_heads")
        if self.layer_levels is not None:
            used = {level for row in self.layer_levels for level in row}
            if len(self.layer_levels) != self.backbone.n_layers:
                raise ValueError("layer_levels must have one entry for each layer")
            if used != set(range(len(self.levels))):
                raise ValueError(
                    "layer_levels must use every level, and no level that does not exist"
                )

    def levels_of(self, layer: int) -> tuple[int, ...]:
        """Indices of the levels that a block has, fast to slow."""
        if self.layer_levels is None:
            return tuple(range(len(self.levels)))
        return self.layer_levels[layer]

    @property
    def learning_levels(self) -> tuple[int, ...]:
        """Indices of the levels that ever change in context."""
        return tuple(i for i, level in enumerate(self.levels) if level.period_tokens)

    @property
    def segment(self) -> int:
        """Tokens of a segment; 0 when no level learns."""
        if not self.learning_levels:
            return 0
        return self.segment_tokens or self.levels[0].period_tokens

    def to_fields(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"backbone": self.backbone.to_fields()}

    @staticmethod
    def from_fields(fields: dict[str, Any]) -> HopeConfig:
        """The inverse of `to_fields`, after JSON too. Raises ValueError, TypeError or KeyError."""
        values = dict(fields)
        values["backbone"] = ModelConfig.from_fields(values["backbone"])
        values["levels"] = tuple(HopeLevel(**level) for level in values["levels"])
        if values.get("fast") is not None:
            fast = dict(values["fast"])
            values["fast"] = TitansConfig(**fast | {"adaptive": tuple(fast["adaptive"])})
        if values.get("layer_levels") is not None:
            values["layer_levels"] = tuple(tuple(row) for row in values["layer_levels"])
        return HopeConfig(**values)


PRESETS = ("hope", "hope_attention", "titans", "transformer", "linear_attention", "gated_deltanet")
DEFAULT_PERIODS = (64, 512, 4096)


def preset(
    name: str,
    *,
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    d_ff: int = 0,
    periods: tuple[int, ...] = DEFAULT_PERIODS,
    learning_rate: float = 1e-3,
    window: int = 1024,
    tie_embeddings: bool = True,
    fast: dict[str, Any] | None = None,
) -> HopeConfig:
    """A model of the papers by its name (PRESETS).

    All have the same MLP parameters: `d_ff` (8/3 of the width when 0) is shared out evenly among
    the levels. `fast` overrides fields of the preset's TitansConfig. Raises ValueError.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} does not exist; available presets: {', '.join(PRESETS)}")
    d_ff = d_ff or -(-8 * d_model // 3)
    learns = name in ("hope", "hope_attention")
    count = len(periods) if learns else 1
    levels = (
        tuple(HopeLevel(period, -(-d_ff // count), learning_rate) for period in periods)
        if learns
        else (HopeLevel(0, d_ff),)
    )
    attention = name in ("hope_attention", "transformer")
    memory = None if attention else _fast_preset(name, n_heads, d_model // n_heads)
    if fast:
        if memory is None:
            raise ValueError(f"preset {name} has no fast memory to configure")
        if fast.get("depth") == 1:
            memory = replace(memory, depth=1, hidden=0)
        memory = replace(memory, **fast)
    backbone = ModelConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=d_ff,
        norm_eps=1e-5,
        rope_theta=10_000.0,
        max_positions=window,
        tie_embeddings=tie_embeddings,
    )
    return HopeConfig(backbone, levels=levels, attention=attention, fast=memory, window=window)


def _fast_preset(name: str, n_heads: int, width: int) -> TitansConfig:
    if name == "hope":
        return TitansConfig(n_heads, hidden=width)
    static = TitansConfig(n_heads, adaptive=(), self_targets=False, hidden=width, activation=True)
    if name == "titans":
        return replace(static, rule="gd", momentum=0.9)
    exact = replace(static, depth=1, hidden=0, chunk_mem=1, read_after_write=True)
    if name == "linear_attention":
        return replace(exact, rule="hebbian", eta_gate=False, alpha_gate=False)
    return replace(exact, rule="delta", eta_max=1.0)
