"""Registry of decoder families by the architecture names of their checkpoints.

A new family is one module beside decoder/llama.py and one entry in FAMILIES. Fields that it needs
in ModelConfig get a default that means today's models, so that fingerprints stay what they are
(see ModelConfig.to_fields).
"""

from __future__ import annotations

from pathlib import Path

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.models.decoder.family import Family
from hope_runtime.models.decoder.llama import LLAMA

FAMILIES: tuple[Family, ...] = (LLAMA,)


def family_of_model_type(path: Path, model_type: object) -> Family:
    """Family of a directory whose config.json has this "model_type".

    Raises UnsupportedModelError, which names the known ones.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = _listed([name for family in FAMILIES for name in family.model_types])
    raise UnsupportedModelError(f"{path} is a model of type {model_type!r}; only {known} supported")


def family_of_gguf(path: Path, architecture: object) -> Family:
    """Family of a GGUF file with this "general.architecture".

    Raises UnsupportedModelError, which names the known ones.
    """
    for family in FAMILIES:
        if architecture in family.gguf_architectures:
            return family
    known = _listed([name for family in FAMILIES for name in family.gguf_architectures])
    raise UnsupportedModelError(
        f"{path} has the architecture {architecture!r}; only {known} supported"
    )


def _listed(names: list[str]) -> str:
    """ "a is", "a and b are", "a, b and c are"."""
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{', '.join(names[:-1])} and {names[-1]} are"
