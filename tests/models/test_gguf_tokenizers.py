"""Tokenizers inside GGUF files have the ids of those that the models were trained with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tokenizers as small
from gguf_files import GGUFSpec

from hope_runtime.checkpoints.gguf_tokenizer import tokenizer_from_metadata
from hope_runtime.errors import TokenizerMissingError

TEXTS = [
    "My cat is called Ada. What is my name?",
    "  two spaces before, and\n\n  two lines",
    "U.S. sales rose 3.5%.\nThe dog, e.g. Rex, sleeps. " * 5,
    "Über naïve — 日本語 👩‍👩‍👧 \t12345 I'LL don't",
    "<s> </s> <unk> <start_of_turn>",
]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACES = ["▁" * count for count in (2, 3, 4, 5)]


def sentencepiece(*, prefix: bool) -> dict[str, Any]:
    """Metadata of a small vocabulary of byte pairs, as a converter writes them: with a space before
    texts, as Phi-3's, or without and with runs of white space of its own, as Gemma's."""
    described = json.loads(small.bpe("never").to_str())["model"]
    learnt = sorted(described["vocab"], key=described["vocab"].get)
    ranks = {"".join(pair): -float(rank) for rank, pair in enumerate(described["merges"])}
    own = [] if prefix else [*SPACES, "\n", "\n\n"]
    # No piece reaches beyond what such a vocabulary cuts out first.
    learnt = [token for token in learnt if prefix or "\n" not in token]
    tokens = list(dict.fromkeys([*learnt, *own, "<start_of_turn>"]))
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, "<start_of_turn>": CONTROL}
    kinds |= dict.fromkeys(own, USER_DEFINED) | dict.fromkeys(small.BYTES, BYTE)
    # Gemma's files have runs of spaces as such.
    written = [" " * len(token) if token in own and "▁" in token else token for token in tokens]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": written,
        "tokenizer.ggml.scores": [ranks.get(token, -1000.0) for token in tokens],
        "tokenizer.ggml.token_type": [kinds.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


@pytest.fixture
def theirs(tmp_path: Path) -> Callable[[str, dict[str, Any]], Any]:
    """The tokenizer that `transformers` makes of such a file."""

    def read(architecture: str, metadata: dict[str, Any]) -> Any:
        from transformers import AutoTokenizer

        sizes = {
            "block_count": 1,
            "context_length": 64,
            "embedding_length": 8,
            "feed_forward_length": 8,
            "attention.head_count": 1,
            "attention.head_count_kv": 1,
            "attention.key_length": 8,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }
        named = {f"{architecture}.{key}": value for key, value in sizes.items()}
        embedding = np.zeros((len(metadata["tokenizer.ggml.tokens"]), 8), dtype=np.float32)
        spec = GGUFSpec({"token_embd.weight": embedding}, named | metadata, architecture)
        spec.write(tmp_path / "tiny.gguf")
        return AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")

    return read


@pytest.mark.parametrize(("architecture", "prefix"), [("gemma3", False), ("phi3", True)])
def test_pieces_and_the_bytes_behind_them(
    theirs: Callable[[str, dict[str, Any]], Any], architecture: str, prefix: bool
) -> None:
    metadata = sentencepiece(prefix=prefix)
    reference = theirs(architecture, metadata)
    metadata["general.architecture"] = architecture
    tokenizer = tokenizer_from_metadata(Path("tiny.gguf"), metadata)
    for text in TEXTS[:-1]:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(tokenizer.opening(text)) == expected
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & tokenizer.control_ids
    assert tokenizer.opening("Hi") == (" Hi" if prefix else "Hi")
    assert (tokenizer.bos_id, tokenizer.add_bos, tokenizer.eos_ids) == (1, True, frozenset({2}))


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("smollm", "smollm"),
        ("refact", "refact"),
        ("llama-bpe", "llama-bpe"),
        ("smaug-bpe", "llama-bpe"),
        ("dbrx", "llama-bpe"),
        ("qwen2", "qwen2"),
        ("tekken", "tekken"),
        ("gpt-4o", "gpt-4o"),
    ],
)
def test_words_are_cut_as_the_file_says(
    theirs: Callable[[str, dict[str, Any]], Any], name: str, known_as: str
) -> None:
    described = json.loads(small.byte_level().to_str())["model"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": known_as,
        "tokenizer.ggml.tokens": sorted(described["vocab"], key=described["vocab"].get),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in described["merges"]],
    }
    metadata["tokenizer.ggml.token_type"] = [1] * len(metadata["tokenizer.ggml.tokens"])
    reference = theirs("llama", metadata)
    ours = tokenizer_from_metadata(Path("tiny.gguf"), metadata | {"tokenizer.ggml.pre": name})
    for text in TEXTS:
        assert ours.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


def test_pieces_without_scores_are_refused() -> None:
    metadata = sentencepiece(prefix=True)
    del metadata["tokenizer.ggml.scores"]
    with pytest.raises(TokenizerMissingError, match="without scores"):
        tokenizer_from_metadata(Path("tiny.gguf"), metadata)
