"""Text to token ids and back, and the chat template that turns messages into text.

Knows the `tokenizers` library and the model's template. Leaves where both come from to
checkpoints/, and which of the tokens may be learnt to whoever calls.

Two ways to encode exist because of prompt injection: what people write never becomes a special
token, however it is spelled; only the template's own text does.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from hope_runtime.errors import CorruptModelError, InvalidRequestError
from hope_runtime.token_spelling import byte_alphabet, byte_level_bytes, sentencepiece_bytes

Message = Mapping[str, str]
"""One message of a conversation: `role` and `content`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation, either the template's or a message's own.

    Encode the text with `Tokenizer.encode` where `is_content`, else with `encode_template`.
    `message_index` is the message that the piece belongs to: its content, or the template text
    that leads to it; for what follows the last content it is the number of messages.
    """

    text: str
    is_content: bool
    message_index: int


class Tokenizer:
    """A tokenizer with its chat template; immutable and safe to share between threads.

    `tokenizer_json` is the text of a tokenizer.json. `eos_tokens` end a text or a turn.
    `chat_template` is Jinja source, or None for a model that has no conversations.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        eos_tokens: Iterable[str],
        bos_token: str | None = None,
        add_bos: bool = False,
        chat_template: str | None = None,
    ) -> None:
        try:
            # Two instances, because whether special tokens are encoded is a state of one.
            self._plain = tokenizers.Tokenizer.from_str(tokenizer_json)
            self._template = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises bare Exception
            raise CorruptModelError(f"the tokenizer cannot be loaded: {error}") from error
        for instance in (self._plain, self._template):
            # A checkpoint may ask for cutting and padding, which is the window's decision.
            instance.no_truncation()
            instance.no_padding()
        self._plain.encode_special_tokens = True
        self._json = tokenizer_json
        self._eos_tokens = tuple(dict.fromkeys(eos_tokens))
        self._bos_token = bos_token
        self._chat_template = chat_template
        ends: set[int] = set()
        for token in self._eos_tokens:
            index = self._plain.token_to_id(token)
            if index is None:
                raise CorruptModelError(f"the tokenizer does not contain the end token {token!r}")
            ends.add(index)
        self.eos_ids: frozenset[int] = frozenset(ends)
        """Tokens that end a text or a turn."""
        self.bos_id: int | None = None if bos_token is None else self._plain.token_to_id(bos_token)
        """The token that begins a text, where the model has one."""
        self.add_bos: bool = add_bos and self.bos_id is not None
        """Whether the model expects `bos_id` before plain text. A chat template writes its own."""
        self.vocab_size: int = self._plain.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; a special token spelled out in it is encoded letter by letter."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_template(self, text: str) -> list[int]:
        """Ids of trusted text, in which the names of special tokens stand for those tokens."""
        return list(self._template.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens spelled out; invalid UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Exactly the bytes that a token stands for; a character may span several tokens.

        Ids of a padded vocabulary that name no token are empty. Raises ValueError if negative.
        """
        if token_id < 0:
            raise ValueError(f"token id {token_id} is negative")
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    @cached_property
    def _bytes(self) -> list[bytes]:
        added = {
            index: token.content for index, token in self._plain.get_added_tokens_decoder().items()
        }
        byte_level = '"ByteLevel"' in json.dumps(json.loads(self._json).get("decoder"))
        spell = byte_level_bytes if byte_level else sentencepiece_bytes
        table: list[bytes] = [b""] * (1 + max(self._plain.get_vocab().values(), default=-1))
        for token, index in self._plain.get_vocab().items():
            table[index] = token.encode() if index in added else spell(token)
        return table

    @property
    def has_chat_template(self) -> bool:
        return self._chat_template is not None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a whole conversation, as the template writes it.

        Raises InvalidRequestError (field `messages`) when the template refuses the messages or
        there is no template.
        """
        if self._chat_template is None:
            raise InvalidRequestError(
                "the model has no chat template, so it cannot read messages", field="messages"
            )
        try:
            text: str = self._compiled.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos_token or "",
                eos_token=self._eos_tokens[0] if self._eos_tokens else "",
            )
        except jinja2.TemplateError as error:
            raise InvalidRequestError(
                f"the chat template rejects these messages: {error}", field="messages"
            ) from error
        return text

    def turn_pieces(
        self,
        messages: Sequence[Message],
        *,
        first: bool,
        add_generation_prompt: bool = True,
    ) -> list[Piece]:
        """Text that the template adds for new messages, cut into its own text and their contents.

        With `first`, the conversation begins here, with the template's default system prompt if it
        has one. Otherwise the window holds a conversation whose last reply ended with its end
        token, and the pieces begin with what the template writes after that token.

        Raises InvalidRequestError (field `messages`) as `render` does, and when the template
        leaves a message out: what somebody said must not vanish.
        """
        # The template runs on stand-ins, so no content can be taken for template text or be
        # changed by it. Spaces around them tell whether the template strips what it is given.
        nonce = secrets.token_hex(8)
        marks = [f"HOPE{nonce}N{index}E" for index in range(len(messages))]
        stand_ins: list[Message] = [
            {**message, "content": f" {mark} "}
            for message, mark in zip(messages, marks, strict=True)
        ]
        if first:
            text = self.render(stand_ins, add_generation_prompt)
        else:
            reply = f"HOPE{nonce}REPLY"
            history: list[Message] = [
                {"role": "user", "content": "-"},
                {"role": "assistant", "content": reply},
            ]
            text = self.render([*history, *stand_ins], add_generation_prompt)
            text = self._after_reply(text, reply)
        pieces: list[Piece] = []
        for index, (message, mark) in enumerate(zip(messages, marks, strict=True)):
            before, found, text = text.partition(mark)
            if not found:
                raise InvalidRequestError(
                    f"the chat template drops messages of role {message.get('role')!r}",
                    field="messages",
                )
            content = message["content"]
            if before.endswith(" ") and text.startswith(" "):
                before, text = before[:-1], text[1:]
            else:
                content = content.strip()
            pieces += [Piece(before, False, index), Piece(content, True, index)]
        pieces.append(Piece(text, False, len(messages)))
        return [piece for piece in pieces if piece.text]

    def _after_reply(self, text: str, reply: str) -> str:
        """Text of a rendered conversation after a reply and its end token."""
        _, found, rest = text.rpartition(reply)
        if not found:
            raise InvalidRequestError("the chat template drops replies", field="messages")
        bare = rest.lstrip()
        for token in self._eos_tokens:
            if bare.startswith(token):
                return bare[len(token) :]
        return rest

    @cached_property
    def _compiled(self) -> jinja2.Template:
        # Templates come with checkpoints and are untrusted code: sandboxed, with no way to change
        # the objects they are given. The options are those that templates are written for.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
        )
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        environment.filters["tojson"] = _tojson
        try:
            return environment.from_string(self._chat_template or "")
        except jinja2.TemplateError as error:
            raise CorruptModelError(f"the chat template cannot be compiled: {error}") from error

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Tokenizer:
        """The inverse of `to_json`, from the parsed object. Raises KeyError for a missing part."""
        return cls(
            json.dumps(stored["tokenizer"], ensure_ascii=False),
            eos_tokens=stored["eos_tokens"],
            bos_token=stored["bos_token"],
            add_bos=stored["add_bos"],
            chat_template=stored["chat_template"],
        )

    def to_json(self) -> str:
        """All of this tokenizer as canonical JSON, for storing and for fingerprints."""
        return json.dumps(
            {
                "tokenizer": json.loads(self._json),
                "eos_tokens": self._eos_tokens,
                "bos_token": self._bos_token,
                "add_bos": self.add_bos,
                "chat_template": self._chat_template,
            },
            ensure_ascii=False,
            sort_keys=True,
        )


# Of a model of plain text: a reply goes on where the user's text ends, and the next turn begins on
# a line of its own.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ message['content'] }}{% endfor %}"
)


def byte_tokenizer() -> Tokenizer:
    """Ids are the bytes of UTF-8: what a model of bytes was trained on."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    model = {"type": "BPE", "vocab": byte_alphabet(), "merges": []}
    described = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": level | {"use_regex": False},
        "decoder": level,
        "model": model,
    }
    return Tokenizer(json.dumps(described), eos_tokens=(), chat_template=PLAIN_TEMPLATE)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes HTML, which is not what a model has read.
    return json.dumps(value, ensure_ascii=False, indent=indent)
