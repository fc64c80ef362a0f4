"""Base weights in the layout that vLLM reads are those of the checkpoint they came from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family_variants import VARIANTS, Variant, saved

from hope_runtime.checkpoints import load_base_model
from hope_runtime.engine.vllm.export import exported
from hope_runtime.errors import ModelError, UnsupportedModelError
from hope_runtime.models.registry import FAMILIES, family_of_model_type

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_word_embeddings": False, "attention_bias": True},
        {"rope_parameters": LLAMA3},
        {"head_dim": 16},
    ],
)
@torch.no_grad()
def test_a_model_that_was_written_is_the_one_that_was_read(
    tiny_llama: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    from transformers import LlamaForCausalLM

    reference, source = tiny_llama(**options)
    model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
    directory = exported(model, tmp_path)
    again = LlamaForCausalLM.from_pretrained(directory).eval()
    ids = torch.arange(100)[None] % 260
    assert torch.equal(again(ids).logits, reference(ids).logits)
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert exported(model, tmp_path) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == written, "written once"
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Mistral", {"sliding_window": 7}),
        ("Qwen2", {"tie_word_embeddings": True}),
        ("Qwen3", {"head_dim": 24}),
        ("Granite", {"embedding_multiplier": 12.0, "logits_scaling": 2.0}),
        ("Granite", {"attention_multiplier": 0.2, "residual_multiplier": 0.6}),
    ],
)
@torch.no_grad()
def test_other_families_are_written_in_their_own_layout(
    tiny_tokenizer_json: str, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM

    reference = Variant(kind, options).make()
    source = saved(reference, tmp_path / "model", tiny_tokenizer_json)
    directory = exported(load_base_model(source, dtype="float32", cache_dir=tmp_path), tmp_path)
    again = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    assert type(again) is type(reference)
    ids = torch.arange(100)[None] % 260
    assert torch.equal(again(ids).logits, reference(ids).logits)


def test_the_readme_says_which_families_vllm_is_given(
    tiny_tokenizer_json: str, tmp_path: Path
) -> None:
    """Of a family that it lists as served, variants are; of the others every one is refused."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    served: dict[str, set[str]] = {family.title: set() for family in FAMILIES}
    for number, variant in enumerate([Variant("Llama"), *VARIANTS]):
        source = saved(variant.make(), tmp_path / str(number), tiny_tokenizer_json)
        stated = json.loads((source / "config.json").read_text(encoding="utf-8"))
        family = family_of_model_type(source, stated["model_type"])
        model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
        try:
            exported(model, tmp_path)
        except UnsupportedModelError as error:
            refused = str(error)
            assert refused.startswith("vLLM") or refused.startswith("the vLLM engine serves"), (
                refused
            )
            assert refused.endswith("use --engine torch")
            served[family.title].add("no")
        else:
            served[family.title].add("yes")
    for title, found in served.items():
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {title} |")]
        told = row.split("|")[4].strip()
        if told == "no":
            assert found == {"no"}, title
        else:
            assert "yes" in found, title


def test_a_block_that_vllm_is_not_given_is_refused(
    tiny_tokenizer_json: str, tmp_path: Path
) -> None:
    for kind, options, named in (
        ("SmolLM3", {"no_rope_layer_interval": 2}, "unrotated_layers"),
        ("Gemma2", {}, "activation, .*norms"),
        ("Gemma3", {}, "activation, .*norms"),
        ("Olmo2", {}, "norms, qk_norm"),
    ):
        source = saved(Variant(kind, options).make(), tmp_path / kind, tiny_tokenizer_json)
        model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
        sentence = rf"Llama, Mistral, .* models only, and this one has .*{named}.*--engine torch"
        with pytest.raises(UnsupportedModelError, match=sentence) as refused:
            exported(model, tmp_path)
    docs = Path(__file__).parents[3] / "docs" / "deployment.md"
    assert str(refused.value) in docs.read_text(encoding="utf-8")


def test_precisions_do_not_share_a_directory(tiny_llama: Any, tmp_path: Path) -> None:
    _, source = tiny_llama()
    model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
    half = model.to(torch.bfloat16, "cpu")
    assert exported(model, tmp_path) != exported(half, tmp_path)


def test_models_that_see_differently_far_do_not_share_a_directory(
    tiny_tokenizer_json: str, tmp_path: Path
) -> None:
    """Their weights are the same, and so is the fingerprint of their memories."""
    models = []
    for width in (7, 9, None):
        source = saved(
            Variant("Mistral", {"sliding_window": width}).make(),
            tmp_path / str(width),
            tiny_tokenizer_json,
        )
        models.append(load_base_model(source, dtype="float32", cache_dir=tmp_path))
    assert len({model.fingerprint for model in models}) == 1
    assert len({exported(model, tmp_path) for model in models}) == 3


def test_biases_that_vllm_drops_are_refused(tiny_tokenizer_json: str, tmp_path: Path) -> None:
    variant = Variant("Qwen3", {"attention_bias": True})
    source = saved(variant.make(), tmp_path / "model", tiny_tokenizer_json)
    model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"biases of attention's output.*--engine torch"
    ):
        exported(model, tmp_path)


def test_frequencies_that_the_layout_cannot_say_are_refused(
    tiny_llama: Any, tmp_path: Path
) -> None:
    _, source = tiny_llama()
    model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
    model = replace(model, config=replace(model.config, rope_factors=(1.0,) * 4))
    with pytest.raises(UnsupportedModelError, match="--engine torch"):
        exported(model, tmp_path)


def test_a_place_that_cannot_be_written_is_an_error(tiny_llama: Any, tmp_path: Path) -> None:
    _, source = tiny_llama()
    model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="HOPE_CACHE_DIR"):
        exported(model, tmp_path / "file")
