"""The default model against transformers, which reads the same file by its own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers

from hope_runtime.checkpoints import load_base_model
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "Il était une fois, en 1789, 3 amis: 日本語 🙂",
]

# transformers does not know the pre-tokenizer that this file names and takes GPT-2's, which differs
# from the model's training where digits follow blanks; one test gives it the right one.
TEXTS = [
    *PROMPTS,
    "In 1969, 3.14159 and 1,000,000 people; x=42, 2nd, a1b2",
    "  spaces   everywhere  \t\tand\n\n\nlines\r\n  ",
    "it's we'll they'RE o'clock don't",
    "naïve ﬁ e\u0301 \u200b 👩‍👩‍👧 🇫🇷",
    '{"a": [true, null], "b": "\\u00e9"}  // ok\n\n\tfor (;;) { i += 1; }',
    "ALLCAPS camelCase snake_case kebab-case http://a.b/c?d=e&f#g",
    "Ελληνικά русский עברית العربية हिन्दी ไทย",
    "\x00\x01\x7f control",
]
DIGITS_AFTER_BLANKS = ["½ ² ٣ Ⅷ", "x  12", "a\n\n 7", "\t\t3  4   5", "   2024-01-02   03:04"]


def ours(model: BaseModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return logits(model, forward(model, ids))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_agree(base_model: BaseModel, reference: Any, prompt: str) -> None:
    ids = torch.tensor([base_model.tokenizer.encode_template(prompt)])
    with torch.inference_mode():
        theirs = reference(ids).logits
    torch.testing.assert_close(ours(base_model, ids), theirs, rtol=0, atol=1e-3)


def test_the_same_64_greedy_tokens(base_model: BaseModel, reference: Any) -> None:
    ids = torch.tensor([base_model.tokenizer.encode("Once upon a time, in a small village,")])
    theirs = reference.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=64,
        min_new_tokens=64,
        pad_token_id=2,
    )[0, ids.shape[1] :]
    cache = KVCache(base_model.config, capacity=128)
    chosen: list[int] = []
    with torch.inference_mode():
        hidden = forward(base_model, ids, cache=cache)
        for _ in range(64):
            scores = logits(base_model, hidden[:, -1:])
            scores[..., 2] = float("-inf")  # as min_new_tokens does
            token = scores.argmax(-1)
            chosen.append(int(token))
            hidden = forward(base_model, token, cache=cache)
    assert chosen == theirs.tolist()


def test_a_directory_saved_by_transformers_is_the_same_model(
    base_model: BaseModel, reference: Any, tmp_path: Path
) -> None:
    from transformers import LlamaForCausalLM

    directory = tmp_path / "saved"
    # What came from GGUF counts as quantised and cannot be saved; its plain copy can.
    config = reference.config.to_dict()
    config.pop("quantization_config", None)
    plain = LlamaForCausalLM(type(reference.config)(**config))
    plain.load_state_dict(reference.state_dict())
    plain.save_pretrained(directory)
    stored = json.loads(base_model.tokenizer.to_json())["tokenizer"]
    (directory / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    model = load_base_model(directory, dtype="float32", cache_dir=tmp_path / "cache")
    for (name, tensor), (_, expected) in zip(
        model.weights.named(), base_model.weights.named(), strict=True
    ):
        assert torch.equal(tensor, expected), name
    assert model.tokenizer.eos_ids == base_model.tokenizer.eos_ids
    ids = torch.tensor([base_model.tokenizer.encode(PROMPTS[0])])
    # The norm's epsilon goes through GGUF as float32 and through JSON as text.
    torch.testing.assert_close(ours(model, ids), ours(base_model, ids), rtol=0, atol=1e-3)


def test_bfloat16_is_no_less_exact_than_theirs(base_model: BaseModel, reference: Any) -> None:
    ids = torch.tensor([base_model.tokenizer.encode(PROMPTS[1])])
    exact = ours(base_model, ids)
    error = (ours(base_model.to(torch.bfloat16, "cpu"), ids).float() - exact).abs().mean()
    reference.to(torch.bfloat16)
    try:
        with torch.inference_mode():
            theirs = (reference(ids).logits.float() - exact).abs().mean()
    finally:
        reference.to(torch.float32)
    assert error < 1.5 * theirs


def test_ids_equal_theirs(base_model: BaseModel, reference_tokenizer: Any) -> None:
    for text in TEXTS:
        theirs = reference_tokenizer(text, add_special_tokens=False).input_ids
        assert base_model.tokenizer.encode_template(text) == theirs, text


def test_ids_equal_theirs_once_they_cut_digits_as_the_file_says(
    base_model: BaseModel, reference_tokenizer: Any
) -> None:
    backend = reference_tokenizer.backend_tokenizer
    found = backend.pre_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    try:
        for text in [*TEXTS, *DIGITS_AFTER_BLANKS]:
            theirs = reference_tokenizer(text, add_special_tokens=False).input_ids
            assert base_model.tokenizer.encode_template(text) == theirs, text
    finally:
        backend.pre_tokenizer = found


def test_the_chat_template_renders_as_theirs(
    base_model: BaseModel, reference_tokenizer: Any
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi\n"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "{{ 1 }}"},
    ]
    for start in (0, 1):
        for prompt in (True, False):
            theirs = reference_tokenizer.apply_chat_template(
                messages[start:], tokenize=False, add_generation_prompt=prompt
            )
            assert base_model.tokenizer.render(messages[start:], prompt) == theirs
