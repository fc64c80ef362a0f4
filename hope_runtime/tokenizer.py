"""Text to token ids and back, and the chat template that turns messages into text.

Leaves the `tokenizers` library to tokenizer_backend.py, Jinja to chat_template.py, telling the
template's text from what somebody wrote to conversation.py, where a tokenizer comes from to
checkpoints/, and which of the tokens may be learnt to whoever calls.

Two ways to encode exist because of prompt injection: what people write never becomes a control
token, however it is spelled; only the template's own text does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from hope_runtime.chat_template import PLAIN_TEMPLATE, ChatTemplate
from hope_runtime.conversation import (
    Fields,
    Message,
    Piece,
    cut_out_contents,
    fields_of,
    with_leading_spaces,
    with_openings,
)
from hope_runtime.errors import CorruptModelError, InvalidRequestError
from hope_runtime.token_bytes import byte_alphabet, byte_level_json, byte_table
from hope_runtime.tokenizer_backend import encode_joined, make_backends, tokenisation_of

__all__ = [
    "PLAIN_TEMPLATE",
    "Fields",
    "Message",
    "Piece",
    "Tokenizer",
    "byte_alphabet",
    "byte_tokenizer",
]

# Where tokens may cross the cuts of a text, so many characters are encoded together.
_JOINT_CHARS = 16_384
_CROSSING = re.compile(r"\S\s")


class Tokenizer:
    """A tokenizer with its chat template; immutable and safe to share between threads.

    `tokenizer_json` is the text of a tokenizer.json. `eos_tokens` end a text or a turn.
    `control_tokens` are further names that only a template may write. `chat_template` is Jinja
    source, or None for a model that has no conversations. Raises CorruptModelError.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        eos_tokens: Iterable[str],
        bos_token: str | None = None,
        add_bos: bool = False,
        chat_template: str | None = None,
        control_tokens: Iterable[str] = (),
    ) -> None:
        self._eos_tokens = tuple(dict.fromkeys(eos_tokens))
        self._bos_token = bos_token
        self._control_tokens = tuple(sorted(set(control_tokens)))
        self._json = tokenizer_json
        begin = () if bos_token is None else (bos_token,)
        made = make_backends(
            tokenizer_json, ends=self._eos_tokens, control=(*begin, *self._control_tokens)
        )
        self._plain, self._template, self._opening = made.plain, made.template, made.opening
        self.control_ids: frozenset[int] = made.control
        """Tokens that only a template writes: added ones, control ones, and `eos_ids`."""
        self._chat_template = chat_template
        self._compiled = None if chat_template is None else ChatTemplate(chat_template)
        ends: set[int] = set()
        for token in self._eos_tokens:
            index = self._template.token_to_id(token)
            if index is None:
                raise CorruptModelError(f"the tokenizer does not contain the end token {token!r}")
            ends.add(index)
        self.eos_ids: frozenset[int] = frozenset(ends)
        """Tokens that end a text or a turn."""
        self.bos_id: int | None = (
            None if bos_token is None else self._template.token_to_id(bos_token)
        )
        """The token that begins a text, where the model has one."""
        self.add_bos: bool = add_bos and self.bos_id is not None
        """Whether the model expects `bos_id` before plain text. A chat template writes its own."""
        self.vocab_size: int = self._template.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text that goes on where another one ended.

        A control token spelled out in it is encoded letter by letter. For a text that stands at the
        beginning of a document, encode `opening(text)`.
        """
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_spans(self, spans: Iterable[str]) -> Iterator[tuple[int, ...]]:
        """Ids of the spans of a text, one tuple for each, without those that have no token.

        The ids together are those of the whole text, also in vocabularies with tokens that reach
        beyond the end of a word; such a token belongs to the span in which it begins. The spans
        are taken as they are needed, so whoever stops early has not encoded the rest.
        """
        joined: list[str] = []
        for span in spans:
            joined.append(span)
            if not self._crosses_words or sum(map(len, joined)) >= _JOINT_CHARS:
                yield from self._encode_joined(joined)
                joined = []
        yield from self._encode_joined(joined)

    def _encode_joined(self, spans: Sequence[str]) -> Iterator[tuple[int, ...]]:
        if len(spans) < 2:
            found = [self.encode(span) for span in spans]
        else:
            found = encode_joined(self._plain, spans)
        return (tuple(ids) for ids in found if ids)

    @cached_property
    def _crosses_words(self) -> bool:
        """Whether a token reaches beyond a word, so that cutting a text before a space may cut it.
        No tokenizer that keeps words apart has one."""
        return any(
            _CROSSING.search(spelled.decode("utf-8", errors="replace"))
            for index, spelled in self._bytes.items()
            if index not in self.control_ids
        )

    def opening(self, text: str) -> str:
        """A text as it reads at the beginning of a document: SentencePiece models put a space
        there."""
        return text if self._opening is None else self._opening.before(text) + text

    def encode_template(self, text: str) -> list[int]:
        """Ids of trusted text, in which the names of control tokens stand for those tokens."""
        return list(self._template.encode(text, add_special_tokens=False).ids)

    def encode_conversation(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Ids of a whole conversation. Raises as `turn_pieces` does."""
        ids: list[int] = []
        pieces = self.turn_pieces(messages, first=True, add_generation_prompt=add_generation_prompt)
        for piece in pieces:
            ids += (self.encode if piece.is_content else self.encode_template)(piece.text)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens spelled out; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Exactly the bytes that a token stands for; a character may span several tokens.

        Ids of a padded vocabulary that name no token are empty. Raises ValueError if negative.
        """
        if token_id < 0:
            raise ValueError(f"token id {token_id} is negative")
        return self._bytes.get(token_id, b"")

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        vocabulary = self._template.get_vocab()
        return byte_table(vocabulary, json.loads(self._json), self.control_ids)

    @property
    def highest_id(self) -> int:
        """The highest id that a text can have; -1 of an empty vocabulary."""
        return max(self._template.get_vocab().values(), default=-1)

    @property
    def has_chat_template(self) -> bool:
        return self._compiled is not None

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        *,
        timeless: bool = False,
    ) -> str:
        """A whole conversation as the template writes it; a `timeless` one on no certain date.

        Raises InvalidRequestError (field `messages`) when the template refuses the messages or
        there is no template.
        """
        if self._compiled is None:
            raise InvalidRequestError("this model has no chat template", field="messages")
        return self._compiled.render(
            messages,
            timeless=timeless,
            add_generation_prompt=add_generation_prompt,
            bos_token=self._bos_token or "",
            eos_token=self._eos_tokens[0] if self._eos_tokens else "",
        )

    def turn_pieces(
        self,
        messages: Sequence[Message],
        *,
        first: bool,
        add_generation_prompt: bool = True,
        timeless: bool = False,
    ) -> list[Piece]:
        """Text that the template adds for new messages, cut into its own text and their contents.

        With `first`, the conversation begins here, with the template's default system prompt if it
        has one. Otherwise the window holds a conversation whose last reply ended with its end
        token, and the pieces begin with what the template writes after that token.

        Raises InvalidRequestError (field `messages`) as `render` does, and when the template
        leaves a message out: what somebody said must not vanish.
        """
        pieces, begins = cut_out_contents(
            lambda said: self.render(said, add_generation_prompt, timeless=timeless),
            messages,
            first=first,
            ends=self._eos_tokens,
        )
        if self._opening is not None:
            begins = begins and (first or self._opening.everywhere)
            pieces = with_openings(pieces, self._opening, begins=begins, parts=self._parts)
        return with_leading_spaces(pieces)

    def fields(self, role: str) -> Fields:
        """Place of the content of `role` in a conversation's first exchange, whatever the day; see
        conversation.fields_of. Raises as `turn_pieces` does."""
        return fields_of(role, partial(self.turn_pieces, first=True, timeless=True))

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """A template's text cut around the control tokens in it, and whether each part is one."""
        end = 0
        encoded = self._template.encode(text, add_special_tokens=False)
        for token, (start, stop) in zip(encoded.ids, encoded.offsets, strict=True):
            if token in self._added_ids:
                if start > end:
                    yield text[end:start], False
                yield text[start:stop], True
                end = stop
        if end < len(text):
            yield text[end:], False

    @cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._template.get_added_tokens_decoder())

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Tokenizer:
        """The inverse of `to_json`, from the parsed object. Raises KeyError for a missing part."""
        return cls(
            json.dumps(stored["tokenizer"], ensure_ascii=False),
            eos_tokens=stored["eos_tokens"],
            bos_token=stored["bos_token"],
            add_bos=stored["add_bos"],
            chat_template=stored["chat_template"],
            control_tokens=stored.get("control_tokens", ()),
        )

    def to_json(self) -> str:
        """All of this tokenizer as canonical JSON, for storing."""
        parts = self._parts_of_legacy_json()
        if self._control_tokens:
            parts["control_tokens"] = self._control_tokens
        return json.dumps(parts, ensure_ascii=False, sort_keys=True)

    def legacy_json(self) -> str:
        """The JSON over which fingerprints of the first kind were taken: as `to_json`, without what
        was not known then."""
        return json.dumps(self._parts_of_legacy_json(), ensure_ascii=False, sort_keys=True)

    def _parts_of_legacy_json(self) -> dict[str, Any]:
        return {
            "tokenizer": json.loads(self._json),
            "eos_tokens": self._eos_tokens,
            "bos_token": self._bos_token,
            "add_bos": self.add_bos,
            "chat_template": self._chat_template,
        }

    def tokenisation_json(self) -> str:
        """Everything that decides a text's ids and their meaning, as canonical JSON."""
        return tokenisation_of(self._json)

    @property
    def template_digest(self) -> str:
        """SHA-256 of the chat template's source, in hex; empty without one."""
        source = self._chat_template
        return "" if source is None else hashlib.sha256(source.encode()).hexdigest()


def byte_tokenizer() -> Tokenizer:
    """Ids are the bytes of UTF-8: what a model of bytes was trained on."""
    return Tokenizer(byte_level_json(), eos_tokens=(), chat_template=PLAIN_TEMPLATE)
