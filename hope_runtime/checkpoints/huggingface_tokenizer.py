"""The tokenizer of a directory in Hugging Face's layout, with its chat template.

Knows the files beside tokenizer.json that say which tokens begin and end texts, and which are no
ordinary text; needs no transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hope_runtime.checkpoints.files import read_json, refuse_pointer
from hope_runtime.checkpoints.gguf_tokenizer import END_TOKENS
from hope_runtime.errors import CorruptModelError, TokenizerMissingError
from hope_runtime.tokenizer import Tokenizer
from hope_runtime.tokenizer_backend import SPACE

# Keys of tokenizer_config.json and special_tokens_map.json under which tokens are named.
_SPECIAL_TOKENS = tuple(
    f"{kind}_token" for kind in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
)


def read_tokenizer(path: Path, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer of the directory `path`; `config` is its config.json.

    Raises TokenizerMissingError, CorruptModelError.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise TokenizerMissingError(f"{path} does not contain tokenizer.json")
    refuse_pointer(file)
    try:
        return _read(path, file.read_text(encoding="utf-8"), config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptModelError(f"the tokenizer of {path} cannot be read: {error}") from error


def _read(path: Path, text: str, config: dict[str, Any]) -> Tokenizer:
    described = json.loads(text)
    if config.get("model_type") not in ("llama", "mistral"):  # whose fingerprints have them
        described, text = _with_words_of_space(described, text)
    added_tokens = described.get("added_tokens") or ()
    added = {token["id"]: token["content"] for token in added_tokens if token.get("special")}
    model_vocabulary = described.get("model", {}).get("vocab", {})
    settings = read_json(path / "tokenizer_config.json") or {}
    generation = read_json(path / "generation_config.json") or {}
    by_id = dict(added)
    if isinstance(model_vocabulary, dict):
        by_id |= {index: token for token, index in model_vocabulary.items()}
    ids = [*_as_list(generation.get("eos_token_id")), *_as_list(config.get("eos_token_id"))]
    special = set(added.values())
    ends = [_token_text(settings.get("eos_token")), *(by_id.get(index) for index in ids)]
    bos = _token_text(settings.get("bos_token"))
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    if (path / "chat_template.jinja").is_file():
        template = (path / "chat_template.jinja").read_text(encoding="utf-8")
    return Tokenizer(
        text,
        eos_tokens=[
            *(token for token in ends if token is not None),
            *(token for token in END_TOKENS if token in special),
        ],
        bos_token=bos,
        # Declared, or done by the tokenizer's own post-processing, which names the token.
        add_bos=bool(settings.get("add_bos_token", bos is not None and _adds(described, bos))),
        chat_template=template,
        control_tokens=_declared_tokens(path, settings).difference(
            token["content"] for token in added_tokens
        ),
    )


def _with_words_of_space(described: dict[str, Any], text: str) -> tuple[dict[str, Any], str]:
    """The tokenizer with its runs of white space as words, where merges spell them.

    Gemma's are added tokens, which nobody could write; but they mean nothing special.
    """
    spelled = {"".join(_pair(merge)) for merge in described.get("model", {}).get("merges") or ()}

    def is_word(token: dict[str, Any]) -> bool:
        content = token["content"]
        is_space = not content.replace(SPACE, " ").strip()
        return is_space and not token.get("special") and content in spelled

    tokens = described.get("added_tokens") or ()
    kept = [token for token in tokens if not is_word(token)]
    if len(kept) == len(tokens):
        return described, text
    described = {**described, "added_tokens": kept}
    return described, json.dumps(described, ensure_ascii=False)


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _declared_tokens(path: Path, settings: dict[str, Any]) -> set[str]:
    """Tokens that the files beside tokenizer.json declare as special or added."""
    found: list[Any] = list((settings.get("added_tokens_decoder") or {}).values())
    for declared in (settings, read_json(path / "special_tokens_map.json") or {}):
        for key, value in declared.items():
            if key in ("additional_special_tokens", "extra_special_tokens"):
                found += value.values() if isinstance(value, dict) else value or ()
            elif key in _SPECIAL_TOKENS:
                found.append(value)
    return {text for value in found if (text := _token_text(value))}


def _adds(described: dict[str, Any], token: str) -> bool:
    return json.dumps(token) in json.dumps(described.get("post_processor"))


def _as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _token_text(value: str | dict[str, Any] | None) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
