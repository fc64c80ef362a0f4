"""Small models for the papers' synthetic tasks: each preset with the parts that a task needs.

Knows which choices let HOPE keep a state (see `STATE`); sizes are arguments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from hope_runtime.layers.config import Rule
from hope_runtime.models.hope.config import HopeConfig, preset

# Counting and state tracking need transitions with an eigenvalue below zero, and each symbol read
# after the one before it was written: a linear memory that changes at every token, under a delta
# rule whose eta reaches 2 (spec 2.3: |alpha - eta| <= 1 stays bounded). The memories that generate
# keys, values and gates change far more rarely: where they changed within strings, parity was
# learnt as well but held less far beyond the lengths of training.
STATE: dict[str, Any] = {"depth": 1, "chunk_mem": 1, "chunk_other": 4096, "eta_max": 2.0}


def small_model(
    name: str,
    vocab_size: int,
    *,
    d_model: int = 64,
    n_layers: int = 1,
    n_heads: int = 4,
    fast: dict[str, Any] | None = None,
    **overrides: Any,
) -> HopeConfig:
    """A preset by its name, with HOPE's memories as STATE says; `fast` overrides them.

    `overrides` are further arguments of `preset`, or fields of HopeConfig such as `variant`.
    Raises ValueError or TypeError for what makes no sense.
    """
    sizes = ("d_ff", "periods", "learning_rate", "window", "tie_embeddings")
    given = {key: _tuples(overrides.pop(key)) for key in sizes if key in overrides}
    if name == "hope":
        given = {"periods": (64, 512)} | given
        fast = STATE | (fast or {})
    elif name == "hope_attention":
        given = {"periods": (64, 512)} | given
    if fast is not None:
        fast = {key: _tuples(value) for key, value in fast.items()}
        # A dataclass does not look at its literals, and this comes from a command line.
        if fast.get("rule", "delta") not in get_args(Rule):
            raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}")
    config = preset(
        name,
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        fast=fast,
        **given,
    )
    return replace(config, **overrides) if overrides else config


def _tuples(value: Any) -> Any:
    """Lists, as JSON has them, become tuples."""
    return tuple(value) if isinstance(value, list) else value
