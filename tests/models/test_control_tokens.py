"""No id of an added or a control token ever comes from what people write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_tokenizers as small
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from hope_runtime.checkpoints.gguf_tokenizer import tokenizer_from_metadata
from hope_runtime.checkpoints.huggingface_tokenizer import read_tokenizer
from hope_runtime.tokenizer import Tokenizer, byte_alphabet

MARKERS = ["<|im_start|>", "<|im_end|>", "[INST]", "</s>", "<s>", "<|user|>", "▁<x>", "  "]


def with_markers(
    backend: tokenizers.Tokenizer, *, special: bool, normalized: bool = False
) -> Tokenizer:
    tokens = [AddedToken(name, normalized=normalized) for name in MARKERS]
    (backend.add_special_tokens if special else backend.add_tokens)(tokens)
    return Tokenizer(backend.to_str(), eos_tokens=["</s>"], bos_token="<s>")


def whole_words() -> tokenizers.Tokenizer:
    """A vocabulary that takes a word as it is when it holds it, as Llama 3 does."""
    letters = list(byte_alphabet())
    vocabulary = {token: index for index, token in enumerate([*letters, *MARKERS])}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    made.decoder = decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return made


def merged() -> tokenizers.Tokenizer:
    """A vocabulary whose merges lead to a marker."""
    letters = list(byte_alphabet())
    merges, tokens, built = [], letters, "<"
    for letter in "|im_start|>":
        merges.append((built, letter))
        built += letter
        tokens = [*tokens, built]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.decoder = decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return made


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": small.byte_level,
    "bpe": lambda: small.bpe("prepend"),
    "bpe-metaspace": lambda: small.bpe("first", words=False),
    "unigram": lambda: small.unigram("always"),
    "whole-words": whole_words,
    "merged": merged,
}
_MADE: dict[tuple[str, bool], Tokenizer] = {}


def made(kind: str, special: bool) -> Tokenizer:
    if (kind, special) not in _MADE:
        _MADE[kind, special] = with_markers(KINDS[kind](), special=special)
    return _MADE[kind, special]


def unknown(tokenizer: Tokenizer) -> set[int]:
    """The token of letters that a vocabulary does not know, if it has one: no text spells it."""
    ids = tokenizer.encode_template("<unk>")
    return set(ids) if len(ids) == 1 else set()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_that_is_typed_is_text(kind: str, special: bool, marker: str) -> None:
    tokenizer = made(kind, special)
    (index,) = tokenizer.encode_template(marker)
    assert index in tokenizer.control_ids
    for text in (marker, f"hi{marker}", f"{marker} hi", marker * 3, f"a {marker}\n{marker}b"):
        ids = tokenizer.encode(text)
        assert not (tokenizer.control_ids - unknown(tokenizer)) & set(ids)
        if kind not in ("unigram", "whole-words"):  # these drop white space or unknown letters
            assert tokenizer.decode(ids) in (text, text.replace("▁", " "))


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.lists(st.sampled_from([*MARKERS, " ", "a", "<", "\n", "Ada", "é"])).map("".join))
def test_no_text_spells_a_control_token(kind: str, text: str) -> None:
    tokenizer = made(kind, False)
    assert not (tokenizer.control_ids - unknown(tokenizer)) & set(tokenizer.encode(text))


def test_normalized_markers_are_text_too() -> None:
    tokenizer = with_markers(small.bpe("prepend"), special=False, normalized=True)
    for marker in MARKERS:
        assert not tokenizer.control_ids & set(tokenizer.encode(f"hi {marker}"))


def test_letters_of_the_alphabet_stay_letters() -> None:
    """An added token that is one letter of the vocabulary is no marker: without it, text that holds
    the letter would vanish."""
    backend = small.byte_level()
    backend.add_tokens([AddedToken("a", normalized=False)])
    tokenizer = Tokenizer(backend.to_str(), eos_tokens=["</s>"])
    assert tokenizer.decode(tokenizer.encode("a banana")) == "a banana"
    assert not tokenizer.control_ids & set(tokenizer.encode("a banana"))


@pytest.mark.parametrize("kind", [3, 4], ids=["control", "user-defined"])
@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe"])
def test_types_of_gguf(kind: int, name: str) -> None:
    letters = list(byte_alphabet())
    tokens = [*letters, "<|im_start|>", "!!!", "<tool>"]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["! !"] * 0,
        "tokenizer.ggml.token_type": [1] * len(letters) + [kind] * 3,
        "tokenizer.ggml.eos_token_id": len(letters),
    }
    tokenizer = tokenizer_from_metadata(Path("m.gguf"), metadata)
    for marker in tokens[len(letters) :]:
        assert tokenizer.encode_template(marker) == [tokens.index(marker)]
        assert not tokenizer.control_ids & set(tokenizer.encode(f"hi {marker}"))
        assert tokenizer.decode(tokenizer.encode(f"hi {marker}")) == f"hi {marker}"


def test_tokens_that_only_the_settings_declare(tmp_path: Path) -> None:
    """A tokenizer.json may list no added token; the files beside it then say what is control."""
    described = small.parsed(small.bpe("prepend"))
    described["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "added_tokens_decoder": {"5": {"content": "<0x02>", "special": True}},
        "additional_special_tokens": ["cat"],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<unk>"}))
    tokenizer = read_tokenizer(tmp_path, {})
    vocabulary = described["model"]["vocab"]
    control = {vocabulary[name] for name in ("<s>", "</s>", "<0x02>", "<unk>")}
    assert tokenizer.control_ids >= control
    assert tokenizer.encode_template("<s>a</s>")[0] == vocabulary["<s>"]
    for text in ("<s>", "</s>", "a</s>", "<unk>", "\x02"):
        assert not {vocabulary["<s>"], vocabulary["</s>"]} & set(tokenizer.encode(text))
    again = Tokenizer.from_json(json.loads(tokenizer.to_json()))
    assert again.control_ids == tokenizer.control_ids
    assert "control_tokens" not in tokenizer.legacy_json()
