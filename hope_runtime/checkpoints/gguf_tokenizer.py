"""The tokenizer inside a GGUF file: vocabulary and merges -> a Tokenizer.

Knows byte-level BPE (`gpt2` in GGUF's words) and how the pre-tokenizers it names cut text.
Sentencepiece vocabularies are refused: their files do not say enough to give the same ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hope_runtime.errors import CorruptModelError, TokenizerMissingError, UnsupportedModelError
from hope_runtime.tokenizer import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4

END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>")
"""Names by which Llama-family models end a turn or a text, beside the one a checkpoint declares."""

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_from_metadata(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer that the metadata of a GGUF file describes.

    Raises TokenizerMissingError, CorruptModelError, or UnsupportedModelError for kinds of
    tokenizers whose ids could not be reproduced exactly.
    """
    try:
        return _build(path, metadata)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptModelError(f"the tokenizer of {path} cannot be read: {error}") from error


def _build(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    tokens: list[str] | None = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise TokenizerMissingError(f"{path} does not contain a tokenizer")
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UnsupportedModelError(
            f"{path} has a tokenizer of type {kind!r}, but only byte-level BPE ('gpt2') is "
            "supported; load the model from its Hugging Face directory"
        )
    merges = metadata.get("tokenizer.ggml.merges")
    if merges is None:
        raise TokenizerMissingError(
            f"{path} contains a vocabulary without merges; load the model from its Hugging Face "
            "directory"
        )
    name = metadata.get("tokenizer.ggml.pre", "default")
    pairs = [_pair(path, merge) for merge in merges]
    try:
        model = models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=pairs,
            # Llama 3 was trained with whole words of the vocabulary taken as they are.
            ignore_merges=name == "llama-bpe",
        )
    except Exception as error:  # the library raises bare Exception
        raise CorruptModelError(f"the tokenizer of {path} cannot be built: {error}") from error
    backend = Backend(model)
    backend.pre_tokenizer = _pre_tokenizer(path, name)
    backend.decoder = decoders.ByteLevel()
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    typed = list(zip(tokens, types, strict=False))
    control = [token for token, kind in typed if kind == _CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    backend.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in typed if kind == _USER_DEFINED]
    )

    def named(key: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        return None if index is None or not 0 <= index < len(tokens) else tokens[index]

    declared = [named(key) for key in ("eos", "eot", "eom")]
    known = set(control)
    return Tokenizer(
        backend.to_str(),
        eos_tokens=[
            *(token for token in declared if token is not None),
            *(token for token in END_TOKENS if token in known),
        ],
        bos_token=named("bos"),
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _pre_tokenizer(path: Path, name: str) -> pre_tokenizers.PreTokenizer:
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if name in ("gpt-2", "gpt2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name == "llama-bpe":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    raise UnsupportedModelError(
        f"{path} uses the pre-tokenizer {name!r}, which is not supported; load the model from "
        "its Hugging Face directory"
    )


def _pair(path: Path, merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise CorruptModelError(
            f"{path} contains the malformed merge {merge!r}; a merge is two tokens"
        )
    return left, right
