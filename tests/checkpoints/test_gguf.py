"""GGUF files made to order: every shape of a Llama, and everything that can be wrong with one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hope_runtime.checkpoints import load_base_model
from hope_runtime.errors import (
    CorruptModelError,
    ModelError,
    ModelNotFoundError,
    TokenizerMissingError,
    UnsupportedModelError,
)
from hope_runtime.models.decoder.forward import forward, logits

IDS = torch.randint(3, 259, (2, 40), generator=torch.Generator().manual_seed(0))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def check(reference: Any, path: Path, cache_dir: Path, atol: float = 1e-4) -> None:
    model = load_base_model(path, dtype="float32", cache_dir=cache_dir)
    with torch.inference_mode():
        torch.testing.assert_close(
            logits(model, forward(model, IDS)), reference(IDS).logits, rtol=0, atol=atol
        )


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"attention_bias": True},
    ],
    ids=str,
)
def test_every_shape_agrees(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path, overrides: dict[str, Any]
) -> None:
    reference, _ = tiny_llama(**overrides)
    check(reference, gguf_spec(reference).write(tmp_path / "tiny.gguf"), tmp_path)


def test_llama3_scaling_comes_as_divisors(tiny_llama: Any, gguf_spec: Any, tmp_path: Path) -> None:
    reference, _ = tiny_llama(rope_parameters=LLAMA3)
    spec = gguf_spec(reference)
    scaled = reference.model.rotary_emb.inv_freq.numpy()
    plain = 1.0 / 10_000.0 ** (np.arange(0, 8, 2, dtype=np.float32) / 8)
    assert not np.allclose(plain, scaled)
    spec.tensors["rope_freqs.weight"] = (plain / scaled).astype(np.float32)
    check(reference, spec.write(tmp_path / "tiny.gguf"), tmp_path)


def test_a_head_width_of_its_own(tiny_llama: Any, gguf_spec: Any, tmp_path: Path) -> None:
    reference, _ = tiny_llama(head_dim=16)
    spec = gguf_spec(reference)
    spec.metadata["llama.attention.key_length"] = 16
    check(reference, spec.write(tmp_path / "tiny.gguf"), tmp_path)


@pytest.mark.parametrize(
    "neutral",
    [
        {"rope.scaling.type": "none", "rope.scaling.factor": 1.0, "rope.scale_linear": 1.0},
        {"rope.scaling.original_context_length": 128, "rope.scaling.finetuned": False},
        {"attention.clamp_kqv": 0.0, "attention.causal": True, "attention.scale": 8**-0.5},
        {"attention.key_length": 8, "attention.value_length": 8, "attention.max_alibi_bias": 0.0},
        {"attn_logit_softcapping": 0.0, "logit_scale": 1.0, "residual_scale": 1.0},
        {"expert_count": 0, "expert_used_count": 0, "vocab_size": 264, "tensor_data_layout": "x"},
        {"split.count": 1},
    ],
    ids=str,
)
def test_keys_that_change_nothing(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path, neutral: dict[str, Any]
) -> None:
    reference, _ = tiny_llama()
    spec = gguf_spec(reference)
    for key, value in neutral.items():
        spec.metadata[key if key.startswith("split") else f"llama.{key}"] = value
    check(reference, spec.write(tmp_path / "tiny.gguf"), tmp_path)


def test_a_sliding_window_bounds_the_positions(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path
) -> None:
    spec = gguf_spec(tiny_llama()[0])
    spec.metadata["llama.attention.sliding_window"] = 64
    model = load_base_model(spec.write(tmp_path / "tiny.gguf"), cache_dir=tmp_path)
    assert model.config.max_positions == 64


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_quantised_tensors_are_read(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path, kind: str
) -> None:
    reference, _ = tiny_llama()
    spec = gguf_spec(reference)
    # The reference gets what is left of the matrix, so that the comparison is exact.
    chosen = gguf.GGMLQuantizationType[kind]
    spec.quantised["blk.0.ffn_gate.weight"] = chosen
    gate = spec.tensors["blk.0.ffn_gate.weight"]
    left = gguf.quants.dequantize(gguf.quants.quantize(gate, chosen), chosen)
    reference.model.layers[0].mlp.gate_proj.weight.data = torch.from_numpy(left.copy())
    check(reference, spec.write(tmp_path / "tiny.gguf"), tmp_path)


def test_special_and_user_tokens(tiny_llama: Any, gguf_spec: Any, tmp_path: Path) -> None:
    reference, _ = tiny_llama()
    spec = gguf_spec(reference)
    spec.metadata["tokenizer.ggml.pre"] = "llama-bpe"
    spec.metadata["tokenizer.ggml.add_bos_token"] = True
    path = spec.write(tmp_path / "tiny.gguf")
    tokenizer = load_base_model(path, dtype="float32", cache_dir=tmp_path).tokenizer
    assert tokenizer.eos_ids == {0, 1}
    assert (tokenizer.bos_id, tokenizer.add_bos) == (0, True)
    assert tokenizer.encode_template("hell<|im_end|>") == [261, 1]
    assert 1 not in tokenizer.encode("hell<|im_end|>")
    assert not tokenizer.has_chat_template


def drop(name: str) -> Callable[[Any], None]:
    return lambda spec: spec.tensors.pop(name)


def put(key: str, value: Any) -> Callable[[Any], None]:
    return lambda spec: spec.metadata.__setitem__(key, value)


def forget(key: str) -> Callable[[Any], None]:
    return lambda spec: spec.metadata.pop(key)


def misshape(spec: Any) -> None:
    spec.tensors["blk.1.ffn_down.weight"] = spec.tensors["blk.1.ffn_down.weight"][:-1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: setattr(s, "architecture", "rwkv"), UnsupportedModelError, "only llama"),
        (put("llama.expert_count", 8), UnsupportedModelError, "mixture of experts"),
        (put("llama.rope.scaling.type", "linear"), UnsupportedModelError, "linear"),
        # Scaling without a type is linear to llama.cpp, and so is its older name.
        (put("llama.rope.scaling.factor", 4.0), UnsupportedModelError, r"rope.scaling.factor = 4"),
        (put("llama.rope.scale_linear", 2.0), UnsupportedModelError, r"rope.scale_linear = 2"),
        (put("llama.rope.scaling.type", "yarn"), UnsupportedModelError, "'yarn'"),
        (put("llama.rope.scaling.attn_factor", 1.2), UnsupportedModelError, "attn_factor"),
        (put("llama.rope.freq_base", 0.0), UnsupportedModelError, "rope_theta"),
        (put("llama.rope.freq_base", math.nan), UnsupportedModelError, "rope_theta"),
        (put("llama.attention.layer_norm_rms_epsilon", math.inf), UnsupportedModelError, "norm"),
        (put("llama.attention.clamp_kqv", 8.0), UnsupportedModelError, "attention.clamp_kqv"),
        (put("llama.attention.max_alibi_bias", 8.0), UnsupportedModelError, "max_alibi_bias"),
        (put("llama.attention.causal", False), UnsupportedModelError, "attention.causal"),
        (put("llama.attention.scale", 0.5), UnsupportedModelError, "attention.scale"),
        (put("llama.attention.value_length", 4), UnsupportedModelError, "value_length"),
        (
            put("llama.attn_logit_softcapping", 50.0),
            UnsupportedModelError,
            "attn_logit_softcapping",
        ),
        (put("llama.final_logit_softcapping", 30.0), UnsupportedModelError, "capped logits"),
        (put("llama.logit_scale", 0.0625), UnsupportedModelError, "llama.logit_scale"),
        (put("llama.residual_scale", 0.22), UnsupportedModelError, "llama.residual_scale"),
        (put("llama.embedding_scale", 12.0), UnsupportedModelError, "llama.embedding_scale"),
        (put("llama.use_parallel_residual", True), UnsupportedModelError, "parallel"),
        (put("llama.from_next_year", 1), UnsupportedModelError, "asks for something by llama.from"),
        (put("general.type", "adapter"), UnsupportedModelError, "'adapter'"),
        (put("split.count", 2), UnsupportedModelError, "llama-gguf-split --merge"),
        (put("llama.block_count", "two"), ModelError, "unsupported model"),
        (put("llama.block_count", [2, 2]), ModelError, "unsupported model"),
        (put("llama.rope.dimension_count", 4), UnsupportedModelError, "a part of each head"),
        (put("llama.attention.head_count_kv", 3), UnsupportedModelError, "multiple"),
        (
            forget("llama.block_count"),
            CorruptModelError,
            "does not contain the metadata llama.block_count",
        ),
        (
            drop("token_embd.weight"),
            CorruptModelError,
            "does not contain the tensor token_embd.weight",
        ),
        (
            drop("blk.1.attn_k.weight"),
            CorruptModelError,
            "does not contain the tensor blk.1.attn_k.weight",
        ),
        (misshape, CorruptModelError, r"blk.1.ffn_down.weight .* \(31, 48\)"),
        (forget("tokenizer.ggml.tokens"), TokenizerMissingError, "does not contain a tokenizer"),
        (forget("tokenizer.ggml.merges"), TokenizerMissingError, "without merges"),
        (put("tokenizer.ggml.model", "bert"), UnsupportedModelError, "type 'bert'"),
        (put("tokenizer.ggml.pre", "chameleon"), UnsupportedModelError, "'chameleon'"),
        (put("tokenizer.ggml.merges", ["he"]), CorruptModelError, "malformed merge"),
        (put("tokenizer.ggml.merges", ["h zz"]), CorruptModelError, "cannot be built"),
    ],
)
def test_what_is_wrong_is_said(
    tiny_llama: Any,
    gguf_spec: Any,
    tmp_path: Path,
    change: Callable[[Any], None],
    error: type[ModelError],
    message: str,
) -> None:
    reference, _ = tiny_llama()
    spec = gguf_spec(reference)
    change(spec)
    path = spec.write(tmp_path / "tiny.gguf")
    with pytest.raises(error, match=message) as caught:
        load_base_model(path, cache_dir=tmp_path / "cache")
    assert "tiny.gguf" in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(("number", "named"), [(24, "I8"), (99, "99")])
def test_unknown_quantisation(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path, number: int, named: str
) -> None:
    reference, _ = tiny_llama()
    path = gguf_spec(reference).write(tmp_path / "tiny.gguf")
    # The entry is: name, number of axes (4 bytes), the two axes (8 each), the kind (4).
    content, name = bytearray(path.read_bytes()), b"blk.1.ffn_up.weight"
    kind = content.index(name) + len(name) + 4 + 2 * 8
    content[kind : kind + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=f"ffn_up.weight .* quantised as {named}"):
        load_base_model(path, cache_dir=tmp_path)


@pytest.mark.parametrize("version", [1, 3 << 24])
def test_unknown_versions(tiny_llama: Any, gguf_spec: Any, tmp_path: Path, version: int) -> None:
    reference, _ = tiny_llama()
    path = gguf_spec(reference).write(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(content[:4] + version.to_bytes(4, "little") + content[8:])
    with pytest.raises(UnsupportedModelError, match="only little-endian versions 2 and 3"):
        load_base_model(path, cache_dir=tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 20, 300, 0.5, 0.98])
def test_a_truncated_file(tiny_llama: Any, gguf_spec: Any, tmp_path: Path, kept: float) -> None:
    reference, _ = tiny_llama()
    path = gguf_spec(reference).write(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CorruptModelError, match=r"tiny\.gguf is not a valid GGUF file"):
        load_base_model(path, cache_dir=tmp_path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        load_base_model(tmp_path / "missing.gguf", cache_dir=tmp_path)
    text = tmp_path / "text.gguf"
    text.write_text("this is no model at all, but long enough to be looked at")
    with pytest.raises(CorruptModelError, match="not a valid GGUF file"):
        load_base_model(text, cache_dir=tmp_path)
    text.write_text(POINTER)
    with pytest.raises(CorruptModelError, match=r"text\.gguf is a pointer of Git LFS .* lfs pull"):
        load_base_model(text, cache_dir=tmp_path)
