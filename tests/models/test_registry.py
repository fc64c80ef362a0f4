"""Families of decoders by the names of their architectures."""

from __future__ import annotations

from pathlib import Path

import pytest

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.models.registry import FAMILIES, family_of_gguf, family_of_model_type

PATH = Path("model")


def test_an_architecture_belongs_to_one_family() -> None:
    for names in (
        [name for family in FAMILIES for name in family.model_types],
        [name for family in FAMILIES for name in family.gguf_architectures],
    ):
        assert len(set(names)) == len(names) > 0


def test_a_family_is_found_by_each_of_its_names() -> None:
    for family in FAMILIES:
        assert all(family_of_model_type(PATH, name) is family for name in family.model_types)
        assert all(family_of_gguf(PATH, name) is family for name in family.gguf_architectures)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"type 'rwkv'; only llama, .* olmo3 are"):
        family_of_model_type(PATH, "rwkv")
    with pytest.raises(UnsupportedModelError, match=r"'rwkv'; only llama, .* and olmo2 are"):
        family_of_gguf(PATH, "rwkv")


def test_the_readme_lists_every_family_and_what_others_are_told() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for family in FAMILIES:
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {family.title} |")]
        assert all(f"`{name}`" in row for name in family.model_types)
        assert all(f"`{name}`" in row for name in family.gguf_architectures)
    for find, name in ((family_of_model_type, "gpt2"), (family_of_gguf, "rwkv")):
        with pytest.raises(UnsupportedModelError) as refused:
            find(Path("models/other"), name)
        assert str(refused.value) in readme
