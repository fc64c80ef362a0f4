"""The two `tokenizers` instances behind a Tokenizer, made from one tokenizer.json.

One reads what people write: it holds no added token, and no text spells a control token. The
other reads a chat template's own text, in which the names of such tokens stand for them. Neither
puts a space of its own before a text, as SentencePiece models do at the beginning of one; where
that space belongs says `Opening`, and the caller writes it out. Knows the layout of tokenizer.json
and nothing of chat templates.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import tokenizers

from hope_runtime.errors import CorruptModelError

SPACE = "\u2581"
"""The character by which SentencePiece spells a space."""


_ADDED_FIELDS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, slots=True)
class Opening:
    """Text that a tokenizer puts before the beginning of a text.

    `everywhere` is true when it also stands behind every added token, and `unless_space` when a
    text that begins with a space gets none.
    """

    text: str
    everywhere: bool
    unless_space: bool

    def before(self, text: str) -> str:
        """Text that belongs before this one, where a text begins."""
        return "" if not text or (self.unless_space and text.startswith(" ")) else self.text


@dataclass(frozen=True, slots=True)
class Backends:
    """See the module. `control` are ids that never come from what people write."""

    plain: tokenizers.Tokenizer
    template: tokenizers.Tokenizer
    opening: Opening | None
    control: frozenset[int]


def encode_joined(plain: tokenizers.Tokenizer, spans: Sequence[str]) -> list[list[int]]:
    """Ids of consecutive spans, at least one, that are encoded as one text; a token belongs to the
    span in which it begins."""
    found: list[list[int]] = [[] for _ in spans]
    whole = plain.encode("".join(spans), add_special_tokens=False)
    index, end = 0, len(spans[0])
    for token, (start, _) in zip(whole.ids, whole.offsets, strict=True):
        while start >= end and index + 1 < len(spans):
            index += 1
            end += len(spans[index])
        found[index].append(token)
    return found


def make_backends(
    tokenizer_json: str, *, ends: Collection[str], control: Collection[str]
) -> Backends:
    """Both instances. Besides the added tokens of the file, `ends` and `control` are kept out of
    what people write; the template reads `control` as such where the file does not say so.

    Raises CorruptModelError.
    """
    try:
        described: dict[str, Any] = json.loads(tokenizer_json)
        continuing, opening = _without_opening(described)
        template = _instance(continuing)
        added = {token["content"]: token for token in described.get("added_tokens") or ()}
        letters = _alphabet(described["model"])
        hidden = {
            name
            for name in {*added, *ends, *control}
            if name not in letters or (name in added and added[name]["special"])
        }
        template.add_special_tokens(
            [
                tokenizers.AddedToken(name, normalized=False)
                for name in control
                if name in hidden and name not in added and template.token_to_id(name) is not None
            ]
        )
        plain = _instance(_without_markers(continuing, hidden))
        ids = (template.token_to_id(name) for name in hidden)
    except CorruptModelError:
        raise
    except BaseException as error:
        # The library raises bare Exception, and what its own code did not expect comes as a
        # BaseException of its own.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise CorruptModelError(f"the tokenizer cannot be loaded: {error}") from error
    return Backends(plain, template, opening, frozenset(each for each in ids if each is not None))


def tokenisation_of(tokenizer_json: str) -> str:
    """The parts of a tokenizer.json that decide which ids a text has, as canonical JSON.

    How ids are turned back into text, and which tokens are called special, are no part of it.
    """
    described = json.loads(tokenizer_json)
    added = [
        [token.get(key) for key in _ADDED_FIELDS] for token in described.get("added_tokens") or ()
    ]
    parts = {key: described.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
    return json.dumps(parts | {"added_tokens": sorted(added, key=str)}, sort_keys=True)


def _instance(described: Mapping[str, Any]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_str(json.dumps(described, ensure_ascii=False))
    # A checkpoint may ask for cutting and padding, which is the window's decision.
    made.no_truncation()
    made.no_padding()
    return made


def _alphabet(model: Mapping[str, Any]) -> frozenset[str]:
    """The vocabulary's single characters: text that holds one could not be spelled without it."""
    vocabulary = model["vocab"]
    tokens = vocabulary if isinstance(vocabulary, dict) else (token for token, *_ in vocabulary)
    return frozenset(token for token in tokens if len(token) == 1)


def _without_markers(described: Mapping[str, Any], hidden: AbstractSet[str]) -> dict[str, Any]:
    """The tokenizer without added tokens, and with no way to spell those of `hidden`.

    They keep their ids under names that nobody can write, since a vocabulary has no gaps and an
    unknown character needs its token. A merge that leads to one would spell it all the same.
    """
    nonce = secrets.token_hex(16)

    def renamed(token: str) -> str:
        return f"\ufdd0{nonce}{token}" if token in hidden else token

    model = dict(described["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed(token): index for token, index in vocabulary.items()}
    else:
        model["vocab"] = [[renamed(token), *rest] for token, *rest in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = renamed(model["unk_token"])
    if hidden and isinstance(model.get("merges"), list):
        prefix = model.get("continuing_subword_prefix") or ""

        def spells(merge: str | list[str]) -> bool:
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            return not hidden.isdisjoint((left, right, left + right.removeprefix(prefix)))

        model["merges"] = [merge for merge in model["merges"] if not spells(merge)]
    return {**described, "added_tokens": [], "post_processor": None, "model": model}


def _without_opening(described: Mapping[str, Any]) -> tuple[dict[str, Any], Opening | None]:
    """The tokenizer without the space that it puts before texts, and where it would put one."""
    opening = None
    cutting, rest = _split(described.get("pre_tokenizer"), "pretokenizers")
    if cutting and cutting[0].get("type") in ("Metaspace", "ByteLevel"):
        first = dict(cutting[0])
        asked = first.pop("add_prefix_space", True)
        if first["type"] == "ByteLevel":
            scheme, first["add_prefix_space"] = "always" if asked else "never", False
        else:
            scheme = first.get("prepend_scheme", "always" if asked else "never")
            first["prepend_scheme"] = "never"
        if scheme != "never":
            opening = Opening(" ", everywhere=scheme == "always", unless_space=True)
        cutting = [first, *cutting[1:]]
    normal, outer = _split(described.get("normalizer"), "normalizers")
    for step in normal:
        if step.get("type") == "Prepend":
            # Written as a space where the other steps make of it what they make of any space.
            others = [other for other in (*normal, *cutting) if other is not step]
            spelled = json.dumps(SPACE)[1:-1] in json.dumps(others)
            text = step["prepend"].replace(SPACE, " ") if spelled else step["prepend"]
            opening = Opening(text, everywhere=True, unless_space=False)
    normal = [step for step in normal if step.get("type") != "Prepend"]
    changed = {"pre_tokenizer": rest(cutting), "normalizer": outer(normal)}
    return {**described, **changed}, opening


def _split(part: Any, key: str) -> tuple[list[dict[str, Any]], Any]:
    """The steps of a part of a tokenizer.json, and how to put changed ones together again."""
    if part is None:
        return [], lambda steps: None
    if part.get("type") == "Sequence":
        return list(part[key]), lambda steps: {**part, key: steps}
    return [part], lambda steps: steps[0] if steps else None
