"""A model family: everything about an architecture that is not in its tensors.

A family is data for one decoder block, never code of its own: it says what a config.json and the
metadata of a GGUF file leave unsaid. config_json.py and config_gguf.py read those, and
read_weights.py the tensors. Decoding containers (safetensors, GGUF quantisation) and tokenizers is
left to checkpoints/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

Progress = Callable[[float, str], None]
"""Called with the fraction that is done, 0 to 1, and a text that names the present step."""

# No model comes near. What a file claims beyond would fill the memory before a tensor is missed.
MOST_LAYERS = 10_000
LARGEST_HEAD = 65_536


def check_counts(layers: int, head_dim: int) -> None:
    """Raise ValueError for counts that no model has, before anything is made for each layer or for
    each width of a head."""
    if layers > MOST_LAYERS or head_dim > LARGEST_HEAD:
        raise ValueError(
            f"{layers} layers with heads of {head_dim}; at most {MOST_LAYERS} and {LARGEST_HEAD} "
            "can be read"
        )


class TensorSource(Protocol):
    """The tensors of a checkpoint by name, on the CPU."""

    @property
    def path(self) -> Path:
        """The file or directory, for error messages."""
        ...

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None when the checkpoint has none of this name."""
        ...

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the expected shape; raises CorruptModelError when it is missing or has
        another shape, UnsupportedModelError for a dtype that cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture and its relatives that load the same way.

    `model_types` are its names in config.json ("model_type"), `gguf_architectures` those in a GGUF
    file ("general.architecture"). `title` is what people call its models.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    gguf_architectures: tuple[str, ...] = ()
    # Fields of ModelConfig that all its models have.
    traits: Mapping[str, Any] = field(default_factory=dict)
    # Keys of config.json that its models may leave out, with what they mean then.
    json_defaults: Mapping[str, Any] = field(default_factory=dict)
    # A checkpoint of Hugging Face's stores norms less this; GGUF files hold them whole.
    norm_offset: float = 0.0
    # Embeddings are multiplied by the square root of the width.
    scales_embedding: bool = False
    # Query, key and value are one tensor there, and gate and up.
    fused: bool = False
    # A part of each head may be left unrotated.
    partial_rotary: bool = False
    # Attention slides where a width is given: on all layers but every n-th; 0 is on all of them,
    # None is never.
    full_attention_every: int | None = None
    # Every n-th layer has no positions, unless config.json lists them.
    unrotated_every: int = 0
    # Number of layers of models whose scores are scaled by D / H instead of the head's width, which
    # a GGUF file does not say.
    gguf_wide_scale_layers: frozenset[int] = frozenset()
    # GGUF files pair neighbours of a head for rotation, by another order of rows.
    gguf_neighbours: bool = False
    # Metadata of a GGUF file, without the architecture, that change what is computed and are read
    # for this family; others are refused.
    gguf_reads: frozenset[str] = frozenset()
