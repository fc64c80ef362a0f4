"""The tokenizer inside a GGUF file: vocabulary and merges -> a Tokenizer.

Knows byte-level BPE (`gpt2` in GGUF's words) and how the pre-tokenizers it names cut text, and
SentencePiece's byte-pair vocabularies (`llama`), whose merges follow from the scores of the pieces,
as `transformers` derives them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hope_runtime.errors import CorruptModelError, TokenizerMissingError, UnsupportedModelError
from hope_runtime.tokenizer import Tokenizer
from hope_runtime.tokenizer_backend import SPACE

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5

END_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end|>",
)
"""Names by which models end a turn or a text, beside the one a checkpoint declares."""

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(words: str, digits: str, marks: str = r"[\r\n]*") -> str:
    """A pattern whose matches are words, runs of digits, of other marks, and of white space."""
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+{marks}|{_REST}"


_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
_LLAMA3_SPLIT = _split(_WORDS, r"\p{N}{1,3}")
# How the pre-tokenizers that files name cut text; llama.cpp's names.
_SPLITS = {
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "smaug-bpe": _LLAMA3_SPLIT,
    "dbrx": _LLAMA3_SPLIT,
    "qwen2": _split(_WORDS, r"\p{N}"),
    "deepseek-r1-qwen": _split(_WORDS, r"\p{N}"),
    "gpt-4o": _split(_CASED % (f"{_ENDINGS}?", f"{_ENDINGS}?"), r"\p{N}{1,3}", r"[\r\n/]*"),
    "tekken": _split(_CASED % ("", ""), r"\p{N}", r"[\r\n/]*"),
}
# Each digit by itself, then GPT-2's words.
_SINGLE_DIGITS = ("smollm", "refact", "starcoder", "command-r")


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
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    pieces = kind == "llama"
    if pieces:
        # Gemma's runs of spaces are stored as such.
        tokens = [SPACE * len(token) if _is_run(token) else token for token in tokens]
        backend = _sentencepiece(path, metadata, tokens, types)
    elif kind == "gpt2":
        backend = _byte_level(path, metadata, tokens)
    else:
        raise UnsupportedModelError(
            f"{path} has a tokenizer of type {kind!r}, but only byte-level BPE ('gpt2') and "
            "SentencePiece ('llama') are supported; load the model from its Hugging Face directory"
        )
    typed = list(zip(tokens, types, strict=False))
    special = (_CONTROL, _UNKNOWN) if pieces else (_CONTROL,)
    control = [token for token, kind in typed if kind in special]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    others = (_USER_DEFINED, _UNUSED) if pieces else (_USER_DEFINED,)
    backend.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in typed
            if kind in others and not (pieces and _is_space(token))
        ]
    )

    def named(key: str) -> str | None:
        default = {"bos": 1, "eos": 2}.get(key) if pieces else None
        index = metadata.get(f"tokenizer.ggml.{key}_token_id", default)
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
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", pieces)),
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def _byte_level(path: Path, metadata: dict[str, Any], tokens: list[str]) -> Backend:
    """Byte-level BPE, without its added tokens."""
    merges = metadata.get("tokenizer.ggml.merges")
    if merges is None:
        raise TokenizerMissingError(
            f"{path} contains a vocabulary without merges; load the model from its Hugging Face "
            "directory"
        )
    name = metadata.get("tokenizer.ggml.pre", "default")
    pairs = [_pair(path, merge) for merge in merges]
    # Llama 3 was trained with whole words of the vocabulary taken as they are.
    whole = name in ("llama-bpe", "llama3", "tekken")
    backend = _bpe(path, tokens, pairs, ignore_merges=whole)
    backend.pre_tokenizer = _pre_tokenizer(path, name)
    if name == "qwen2":
        # Not in the file; the model was trained behind it.
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(
    path: Path, metadata: dict[str, Any], tokens: list[str], types: list[int]
) -> Backend:
    """SentencePiece's byte-pair model, without its added tokens."""
    scores = metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise TokenizerMissingError(
            f"{path} contains a vocabulary without scores; load the model from its Hugging Face "
            "directory"
        )
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    if str(metadata.get("general.architecture")).startswith("gemma"):
        # Whose scores do not follow the order of its merges; that of the pieces does.
        scores = [-float(index) for index in range(len(tokens))]
    pairs = _merges_of(tokens, scores, types)
    backend = _bpe(
        path, tokens, pairs, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True
    )
    spaces = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = spaces
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges_of(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Merges that lead to the pieces of a vocabulary, those to the highest score first.

    Runs of white space that a vocabulary defines are found before all other pieces.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind != _NORMAL:
            if not _is_space(token):
                continue
            score = math.inf
        mine = [
            (token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in ids and token[cut:] in ids
        ]
        mine.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, len(left), len(right), left, right) for left, right in mine]
    found.sort(key=lambda each: each[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def _is_run(token: str) -> bool:
    return len(token) > 1 and not token.strip(" ")


def _is_space(token: str) -> bool:
    """Whether a piece spells white space only: a word like any other, whatever its type."""
    return not token.replace(SPACE, " ").strip()


def _bpe(path: Path, tokens: list[str], pairs: list[tuple[str, str]], **options: Any) -> Backend:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        return Backend(models.BPE(vocab=vocabulary, merges=pairs, **options))
    except Exception as error:  # the library raises bare Exception
        raise CorruptModelError(f"the tokenizer of {path} cannot be built: {error}") from error


def _pre_tokenizer(path: Path, name: str) -> pre_tokenizers.PreTokenizer:
    if name in ("gpt-2", "gpt2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _SINGLE_DIGITS:
        first = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if name in _SPLITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated"),
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
