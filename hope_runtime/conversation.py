"""A rendered conversation, cut into the template's own text and what people wrote.

Knows where spaces belong that SentencePiece tokenizers attach to words. Knows no token ids.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hope_runtime.errors import InvalidRequestError
from hope_runtime.tokenizer_backend import Opening

Message = Mapping[str, str]
"""One message of a conversation: `role` and `content`."""

_MARGIN = "\x1f"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a conversation as the model reads it, the template's or a message's own.

    Encode the text with `Tokenizer.encode_spans` where `is_content`, else with `encode_template`.
    `message_index` is the message that the piece belongs to: its content, or the template text
    that leads to it; for what follows the last content it is the number of messages.

    Joined, pieces are the rendered conversation, but for the spaces that SentencePiece tokenizers
    put where a text begins, which are written out. Spaces that the template has right before a
    content belong to the content, because they are part of its first word.
    """

    text: str
    is_content: bool
    message_index: int


@dataclass(frozen=True, slots=True)
class Fields:
    """Place of a message's content in a template: text before it, spaces that belong to it,
    and text behind it."""

    before: str
    lead: str
    after: str


def cut_out_contents(
    render: Callable[[Sequence[Message]], str],
    messages: Sequence[Message],
    *,
    first: bool,
    ends: Sequence[str],
) -> tuple[list[Piece], bool]:
    """Text that a template adds for new messages, in pieces, and whether a text begins with them,
    which it does not behind a reply without an end token.  `render` applies the template and `ends`
    are the names of end tokens. See `Tokenizer.turn_pieces` for `first` and the errors.

    Where the template refuses the messages, neighbours of one role are joined by an empty line, and
    then system messages to the user's message behind them. Each stays a piece of its own, under its
    own index, so what the system said is never taken for the user's.
    """
    # The template runs on stand-ins, so no content can be taken for template text or be
    # changed by it. White space around them, of a kind that no template writes itself, tells
    # whether the template strips what it is given.
    nonce = secrets.token_hex(8)
    marks = [f"HOPE{nonce}N{index}E" for index in range(len(messages))]
    stand_ins: list[Message] = [
        {**message, "content": f"{_MARGIN}{mark}{_MARGIN}"}
        for message, mark in zip(messages, marks, strict=True)
    ]
    reply = f"HOPE{nonce}REPLY"

    def cut(said: Sequence[Message]) -> tuple[list[Piece], bool]:
        if first:
            return _cut(render(said), messages, marks), True
        history: list[Message] = [
            {"role": "user", "content": "-"},
            {"role": "assistant", "content": reply},
        ]
        text, begins = _after_reply(render([*history, *said]), reply, ends)
        return _cut(text, messages, marks), begins

    try:
        return cut(stand_ins)
    except InvalidRequestError as refusal:
        # Templates without a system role, or for roles that take turns, say the same otherwise.
        joined = _roles_joined(stand_ins)
        for said in (joined, _roles_joined(_system_in_user(stand_ins))):
            if said != stand_ins:
                with contextlib.suppress(InvalidRequestError):
                    return cut(said)
        raise refusal


def _roles_joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring messages of one role as one."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            found[-1] = _joined(found[-1], message)
        else:
            found.append(message)
    return found


def _system_in_user(messages: Sequence[Message]) -> list[Message]:
    """System messages as the beginning of the user's message behind them."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == "system" and message["role"] in ("system", "user"):
            message = {**_joined(found.pop(), message), "role": message["role"]}
        found.append(message)
    return found


def _joined(one: Message, other: Message) -> Message:
    return {**other, "content": f"{one['content']}\n\n{other['content']}"}


def _cut(text: str, messages: Sequence[Message], marks: Sequence[str]) -> list[Piece]:
    """A rendered text, cut at the marks that stand for the messages' contents."""
    pieces: list[Piece] = []
    for index, (message, mark) in enumerate(zip(messages, marks, strict=True)):
        before, found, text = text.partition(mark)
        if not found:
            raise InvalidRequestError(
                f"the chat template drops messages of role {message.get('role')!r}",
                field="messages",
            )
        content = message["content"]
        if not before.endswith(_MARGIN):
            content = content.lstrip()
        if not text.startswith(_MARGIN):
            content = content.rstrip()
        before, text = before.removesuffix(_MARGIN), text.removeprefix(_MARGIN)
        pieces += [Piece(before, False, index), Piece(content, True, index)]
    pieces.append(Piece(text, False, len(messages)))
    return _not_empty(pieces)


def with_openings(
    pieces: Sequence[Piece],
    opening: Opening,
    *,
    begins: bool,
    parts: Callable[[str], Iterable[tuple[str, bool]]],
) -> list[Piece]:
    """The pieces with what the tokenizer puts where a text begins.

    `parts` cuts a template's text around the control tokens in it.
    """
    found: list[Piece] = []
    for piece in pieces:
        text = ""
        for part, is_marker in [(piece.text, False)] if piece.is_content else parts(piece.text):
            text += opening.before(part) + part if begins and not is_marker else part
            begins = is_marker and opening.everywhere
        found.append(replace(piece, text=text))
    return found


def with_leading_spaces(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with the spaces before a content as part of it, since they open its first word."""
    found = list(pieces)
    for index, (before, content) in enumerate(pairwise(pieces)):
        if content.is_content and not before.is_content:
            bare = before.text.rstrip(" ")
            found[index] = replace(before, text=bare)
            found[index + 1] = replace(content, text=before.text[len(bare) :] + content.text)
    return _not_empty(found)


def fields_of(role: str, turn_pieces: Callable[..., list[Piece]]) -> Fields:
    """Place of the content of `role`, "user" or "assistant", in the first exchange of a
    conversation. `turn_pieces` is the tokenizer's, for a conversation that begins."""
    exchange = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    said = exchange[:1] if role == "user" else exchange
    pieces = turn_pieces(said, add_generation_prompt=role == "user")
    last = len(said) - 1
    at = next(
        index
        for index, piece in enumerate(pieces)
        if piece.is_content and piece.message_index == last
    )
    before, after = pieces[:at], pieces[at + 1 :]
    return Fields(
        "".join(piece.text for piece in before),
        pieces[at].text.removesuffix(said[last]["content"]),
        "".join(piece.text for piece in after),
    )


def _after_reply(text: str, reply: str, ends: Sequence[str]) -> tuple[str, bool]:
    """Text of a rendered conversation after a reply and its end token, and whether there was
    such a token."""
    _, found, rest = text.rpartition(reply)
    if not found:
        raise InvalidRequestError("the chat template leaves out replies", field="messages")
    bare = rest.lstrip()
    for token in ends:
        if bare.startswith(token):
            return bare[len(token) :], True
    return rest, False


def _not_empty(pieces: Iterable[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.text]
