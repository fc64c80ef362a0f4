"""GGUF files of every family: the same model as its Hugging Face directory.

Tensors are named by the `gguf` package, and rows and norms stored as llama.cpp's converters do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from family_variants import GEMMA, LONG, SCALED, WINDOW, Variant
from gguf_files import GGUFSpec, interleaved, metadata_of

from hope_runtime.checkpoints import load_base_model
from hope_runtime.errors import UnsupportedModelError
from hope_runtime.models.decoder.forward import forward, logits

IDS = torch.randint(3, 259, (2, 24), generator=torch.Generator().manual_seed(0))
NEIGHBOURS = ("llama", "smollm3", "granite")
GRANITE = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.0,
}
EIGHT = {"num_hidden_layers": 8}
FILES: list[tuple[str, Variant, dict[str, Any]]] = [
    ("qwen2", Variant("Qwen2", {"tie_word_embeddings": True}), {}),
    ("qwen3", Variant("Qwen3", {"head_dim": 24}), {"attention.key_length": 24}),
    ("smollm3", Variant("SmolLM3", {"num_hidden_layers": 4}), {}),
    (
        "granite",
        Variant("Granite", GRANITE),
        {
            "embedding_scale": 12.0,
            "attention.scale": 0.2,
            "residual_scale": 0.6,
            "logit_scale": 2.0,
        },
    ),
    (
        "gemma2",
        Variant(
            "Gemma2",
            GEMMA
            | {
                "query_pre_attn_scalar": 12,
                "attn_logit_softcapping": 3.0,
                "final_logit_softcapping": 5.0,
            },
        ),
        {
            "attention.key_length": 12,
            "attention.value_length": 12,
            "attention.sliding_window": WINDOW,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    (
        "gemma3",
        Variant("Gemma3", GEMMA | EIGHT | {"query_pre_attn_scalar": 12}),
        {
            "attention.key_length": 12,
            "attention.value_length": 12,
            "attention.sliding_window": WINDOW,
            "rope.freq_base": 1_000_000.0,
        },
    ),
    (
        "gemma3",
        Variant("Gemma3", GEMMA | {"query_pre_attn_scalar": 12, "rope_parameters": SCALED}),
        {
            "attention.key_length": 12,
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": [True, True],
            "rope.freq_base": 100_000.0,
            "rope.freq_base_swa": 1_000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    (
        "phi3",
        Variant("Phi3", {"sliding_window": WINDOW}),
        {"attention.sliding_window": WINDOW, "rope.dimension_count": 8},
    ),
    (
        "phi3",
        Variant("Phi3", LONG),
        {
            "attention.sliding_window": 0,
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": 128,
            "rope.scaling.attn_factor": 1.0690449676496976,
        },
    ),
    ("olmo2", Variant("Olmo2", {"num_key_value_heads": 2}), {}),
]


def spec_of(reference: Any, architecture: str, extra: dict[str, Any]) -> GGUFSpec:
    """The GGUF file that holds the same model."""
    config = reference.config
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    H, G = config.num_attention_heads, config.num_key_value_heads
    tensors = {}
    for name, tensor in reference.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "norm" in name and architecture in ("gemma2", "gemma3"):
            tensor = tensor + 1
        heads = H if "q_proj" in name else G if "k_proj" in name else 0
        if heads and architecture in NEIGHBOURS:
            tensor = interleaved(tensor, heads)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        tensors[found] = tensor.numpy().copy()
    rope = config.rope_parameters
    if "short_factor" in rope:
        for length in ("short", "long"):
            factors = torch.tensor(rope[f"{length}_factor"], dtype=torch.float32)
            tensors[f"rope_factors_{length}.weight"] = factors.numpy()
    metadata = metadata_of(config, architecture)
    if "rope_theta" in rope:
        metadata[f"{architecture}.rope.freq_base"] = float(rope["rope_theta"])
    metadata |= {f"{architecture}.{key}": value for key, value in extra.items()}
    return GGUFSpec(tensors, metadata, architecture)


@pytest.mark.parametrize(
    ("architecture", "variant", "extra"), FILES, ids=[f"{a}-{v}" for a, v, _ in FILES]
)
def test_a_gguf_file_is_the_same_model(
    architecture: str, variant: Variant, extra: dict[str, Any], tmp_path: Path
) -> None:
    overrides = dict(variant.overrides)
    if "attention.sliding_window_pattern" in extra:
        overrides["layer_types"] = ["sliding_attention"] * 2
    reference = Variant(variant.kind, overrides).make()
    path = spec_of(reference, architecture, extra).write(tmp_path / "tiny.gguf")
    model = load_base_model(path, dtype="float32", cache_dir=tmp_path)
    with torch.no_grad():
        found = logits(model, forward(model, IDS))
        torch.testing.assert_close(found, reference(IDS).logits, rtol=1e-4, atol=1e-4)


def test_a_key_of_another_family_is_refused(tmp_path: Path) -> None:
    spec = spec_of(Variant("Qwen3").make(), "qwen3", {"attn_logit_softcapping": 3.0})
    with pytest.raises(UnsupportedModelError, match=r"capped .* qwen3.attn_logit_softcapping = 3"):
        load_base_model(spec.write(tmp_path / "tiny.gguf"), cache_dir=tmp_path)
