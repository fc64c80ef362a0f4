"""Builds the records of turns: messages and documents become segments of tokens.

Message contents are encoded as plain text, span by span, so no content can smuggle in a control
token, and the tokens of a text are the same wherever it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.spans import split_spans
from hope_runtime.tokenizer import Tokenizer

ROLES = {"system": Speaker.SYSTEM, "user": Speaker.USER, "assistant": Speaker.ASSISTANT}


@dataclass(frozen=True, slots=True)
class Message:
    """What one speaker said. `role` is "system", "user" or "assistant"; `learn` says whether a
    user's message may teach in a turn that may."""

    role: str
    content: str
    learn: bool = True


def check_messages(messages: Sequence[Message]) -> None:
    """Raises InvalidRequestError unless the messages can open a turn."""
    if not messages:
        raise InvalidRequestError("messages must contain at least one message", field="messages")
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequestError(
                f"message {index} has an unknown role; use system, user or assistant",
                field=f"messages[{index}].role",
            )
        if not message.content.strip():
            raise InvalidRequestError(
                f"message {index} is empty", field=f"messages[{index}].content"
            )
    if messages[-1].role != "user":
        raise InvalidRequestError(
            "the last message must have the role user", field=f"messages[{len(messages) - 1}].role"
        )


def turn_record(
    tokenizer: Tokenizer,
    memory: SessionMemory,
    conversation: str,
    messages: Sequence[Message],
    *,
    learn: bool,
    fresh: bool = False,
) -> Record:
    """The record of a turn up to where the model answers.

    Only what users said is learnable. The tokens up to the end of the system prompt are pinned
    on a conversation's first turn, and on a `fresh` one, which begins its window anew.
    """
    known = memory.conversations.get(conversation)
    first = fresh or known is None or known.turns == 0
    plain = [{"role": message.role, "content": message.content} for message in messages]
    segments: list[Segment] = []
    pinned = 0
    before_content = True
    for piece in tokenizer.turn_pieces(plain, first=first):
        if not piece.is_content:
            ids = tuple(tokenizer.encode_template(piece.text))
            if before_content and first:
                pinned = _end_of_system_prompt(tokenizer, pinned, ids, segments)
            segments.append(Segment(Speaker.TEMPLATE, (ids,)))
            continue
        message = messages[piece.message_index]
        speaker = ROLES[message.role]
        before_content &= speaker is Speaker.SYSTEM
        learnable = learn and message.learn and speaker is Speaker.USER
        segments.append(Segment(speaker, encode_spans(tokenizer, piece.text), learnable))
    kept = known is not None and fresh  # a window that there is
    return Record(RecordKind.TURN, conversation, tuple(segments), pinned=pinned, fresh=kept)


def text_record(
    tokenizer: Tokenizer, conversation: str, text: str, *, learn: bool, fresh: bool
) -> Record:
    """The record of a turn that goes on with a text as it stands, without the chat template."""
    segments = [Segment(Speaker.USER, encode_spans(tokenizer, text), learn)]
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        segments.insert(0, Segment(Speaker.TEMPLATE, ((tokenizer.bos_id,),)))
    return Record(RecordKind.TURN, conversation, tuple(segments), fresh=fresh)


def encode_spans(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], ...]:
    """Token ids of each span of a finished text."""
    return tuple(tuple(tokenizer.encode(span)) for span in split_spans(text))


def turn_end(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token with which the template closes a reply; none where a model has no such token."""
    history = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    ids = tokenizer.encode_template(tokenizer.render(history, add_generation_prompt=False))
    ends = [token for token in ids if token in tokenizer.eos_ids]
    return (ends[-1],) if ends else ()


def _end_of_system_prompt(
    tokenizer: Tokenizer, pinned: int, ids: tuple[int, ...], segments: Sequence[Segment]
) -> int:
    """Tokens up to and including the last end-of-turn token so far."""
    before = sum(len(segment.tokens) for segment in segments)
    ends = [index for index, token in enumerate(ids) if token in tokenizer.eos_ids]
    return before + ends[-1] + 1 if ends else pinned
