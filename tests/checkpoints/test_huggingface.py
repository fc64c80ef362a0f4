"""Hugging Face directories: every shape of a Llama, both spellings, and what can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from hope_runtime.models.decoder.weights import BaseModel

IDS = torch.randint(3, 259, (2, 40), generator=torch.Generator().manual_seed(0))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def agrees(reference: Any, directory: Path, cache_dir: Path) -> BaseModel:
    model = load_base_model(directory, dtype="float32", cache_dir=cache_dir)
    with torch.inference_mode():
        torch.testing.assert_close(
            logits(model, forward(model, IDS)), reference(IDS).logits, rtol=0, atol=1e-4
        )
    return model


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"attention_bias": True},
        {"head_dim": 16},
        {"rope_parameters": LLAMA3},
        {"shard": "10KB"},
    ],
    ids=str,
)
def test_every_shape_agrees(tiny_llama: Any, tmp_path: Path, overrides: dict[str, Any]) -> None:
    reference, directory = tiny_llama(**overrides)
    assert (directory / "model.safetensors.index.json").exists() == ("shard" in overrides)
    model = agrees(reference, directory, tmp_path)
    tied = model.weights.lm_head is model.weights.embedding
    assert tied == overrides.get("tie_word_embeddings", True)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_old_spelling_of_rotary_settings(tiny_llama: Any, tmp_path: Path, scaled: bool) -> None:
    rope = LLAMA3 if scaled else {"rope_type": "default", "rope_theta": 500.0}
    reference, directory = tiny_llama(rope_parameters=rope)

    def respell(config: dict[str, Any]) -> None:
        parameters = config.pop("rope_parameters")
        config["rope_theta"] = parameters.pop("rope_theta")
        config["rope_scaling"] = parameters if scaled else None

    edit(directory / "config.json", respell)
    agrees(reference, directory, tmp_path)


def test_a_stored_precision_is_kept(tiny_llama: Any, tmp_path: Path) -> None:
    reference, directory = tiny_llama()
    reference.to(torch.bfloat16).save_pretrained(directory)
    model = load_base_model(directory, dtype="bfloat16", cache_dir=tmp_path)
    embedding = reference.get_input_embeddings().weight
    assert torch.equal(model.weights.embedding, embedding)
    stored = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert stored < 2.5 * sum(parameter.numel() for parameter in reference.parameters())


def test_end_and_begin_tokens_and_templates(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    settings: dict[str, Any] = {
        "eos_token": {"content": "<|im_end|>"},
        "bos_token": "<|endoftext|>",
        "chat_template": [
            {"name": "tools", "template": "wrong"},
            {"name": "default", "template": "{{ messages[0].content }}"},
        ],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 258]}))
    tokenizer = load_base_model(directory, cache_dir=tmp_path).tokenizer
    assert tokenizer.eos_ids == {0, 1, 258}
    assert (tokenizer.bos_id, tokenizer.add_bos) == (0, False)
    message = {"role": "user", "content": "hello"}
    assert tokenizer.render([message]) == "hello"
    # A change of any of the files is a different model, not the one in the cache.
    (directory / "chat_template.jinja").write_text("newer: {{ messages[0].content }}")
    tokenizer = load_base_model(directory, cache_dir=tmp_path).tokenizer
    assert tokenizer.render([message]) == "newer: hello"


def set_config(key: str, value: Any) -> Callable[[Path], None]:
    return lambda path: edit(path / "config.json", lambda config: config.update({key: value}))


def pointer(name: str) -> Callable[[Path], None]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    return lambda path: (path / name).write_text(text) and None


def cut_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (set_config("model_type", "gpt2"), UnsupportedModelError, "type 'gpt2'"),
        (set_config("hidden_act", "gelu"), UnsupportedModelError, "'gelu'"),
        (set_config("hidden_act", []), UnsupportedModelError, "activation function"),
        (set_config("num_hidden_layers", 2**31), UnsupportedModelError, "2147483648 layers"),
        (set_config("head_dim", 2**31), UnsupportedModelError, "heads of 2147483648"),
        (set_config("mlp_bias", True), UnsupportedModelError, "biases"),
        (set_config("quantization_config", {"bits": 4}), UnsupportedModelError, "quantised"),
        (set_config("rope_parameters", {"rope_type": "ntk"}), UnsupportedModelError, "'ntk'"),
        (set_config("rope_parameters", {"rope_type": "llama3"}), CorruptModelError, "factor"),
        (set_config("intermediate_size", 47), CorruptModelError, r"has shape \(48, 32\)"),
        (
            set_config("num_hidden_layers", 3),
            CorruptModelError,
            "does not contain the tensor model.layers.2",
        ),
        (
            set_config("tie_word_embeddings", False),
            CorruptModelError,
            "does not contain .* lm_head",
        ),
        (set_config("vocab_size", "many"), UnsupportedModelError, "unsupported"),
        (
            lambda p: edit(p / "config.json", lambda c: c.pop("hidden_size")),
            CorruptModelError,
            "does not contain hidden_size",
        ),
        (lambda p: (p / "config.json").write_text("{"), CorruptModelError, "not valid JSON"),
        (
            lambda p: (p / "config.json").unlink(),
            ModelNotFoundError,
            "does not contain config.json",
        ),
        (lambda p: (p / "model.safetensors").unlink(), ModelNotFoundError, "model.safetensors"),
        (lambda p: (p / "tokenizer.json").unlink(), TokenizerMissingError, "tokenizer.json"),
        (lambda p: (p / "tokenizer.json").write_text("["), CorruptModelError, "cannot be read"),
        (cut_weights, CorruptModelError, "model.safetensors cannot be read"),
        (pointer("model.safetensors"), CorruptModelError, "model.safetensors is a pointer of Git"),
        (pointer("tokenizer.json"), CorruptModelError, r"tokenizer.json is .* `git lfs pull`"),
        (pointer("config.json"), CorruptModelError, "config.json is a pointer of Git LFS"),
        (pointer("tokenizer_config.json"), CorruptModelError, "tokenizer_config.json is a pointer"),
        (set_config("rope_parameters", {"factor": 4.0}), UnsupportedModelError, "its type"),
    ],
)
def test_what_is_wrong_is_said(
    tiny_llama: Any,
    tmp_path: Path,
    change: Callable[[Path], None],
    error: type[ModelError],
    message: str,
) -> None:
    _, directory = tiny_llama()
    change(directory)
    with pytest.raises(error, match=message) as caught:
        load_base_model(directory, cache_dir=tmp_path)
    assert str(directory) in str(caught.value)


def test_a_folder_of_gguf_files_names_them(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(
        ModelNotFoundError, match=r"does not contain config.json; .*: a\.gguf, b\.gguf"
    ):
        load_base_model(tmp_path, cache_dir=tmp_path / "cache")
