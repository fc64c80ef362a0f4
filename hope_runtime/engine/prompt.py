"""Prompts: messages become the segments of tokens of a turn's record.

Message contents are encoded as plain text, span by span, so no content can smuggle in a control
token, and the tokens of a text are the same wherever it was cut.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from hope_runtime.errors import InvalidRequestError, WindowOverflowError
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.spans import iter_spans
from hope_runtime.steps import at_once
from hope_runtime.tokenizer import Tokenizer

# Tokens of a text that are encoded before other requests go on.
STEP_TOKENS = 1024
ROLES = {"system": Speaker.SYSTEM, "user": Speaker.USER, "assistant": Speaker.ASSISTANT}


@dataclass(frozen=True, slots=True)
class Message:
    """A message of one speaker. `role` is "system", "user" or "assistant"; `learn` says whether a
    user's message may teach in a turn that may."""

    role: str
    content: str
    learn: bool = True


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidRequestError unless the messages can open a turn."""
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
    most_tokens: int | None = None,
) -> Record:
    """Result of `turn_record_in_steps`, at once."""
    return at_once(
        turn_record_in_steps(
            tokenizer,
            memory,
            conversation,
            messages,
            learn=learn,
            fresh=fresh,
            most_tokens=most_tokens,
        )
    )


def turn_record_in_steps(
    tokenizer: Tokenizer,
    memory: SessionMemory,
    conversation: str,
    messages: Sequence[Message],
    *,
    learn: bool,
    fresh: bool = False,
    most_tokens: int | None = None,
) -> Generator[None, None, Record]:
    """The record of a turn up to where the model answers; yields every STEP_TOKENS tokens.

    Only what users said is learnable. The tokens up to the end of the system prompt are pinned
    on a conversation's first turn, and on a `fresh` one, which begins its window anew. Raises
    WindowOverflowError as soon as there are more than `most_tokens`, so that no text is encoded for
    nothing.
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
        before = sum(len(segment.tokens) for segment in segments)
        spans = yield from _content_in_steps(tokenizer, piece.text, before, most_tokens)
        segments.append(Segment(speaker, spans, learnable))
    kept = known is not None and fresh  # a window that there is
    return Record(RecordKind.TURN, conversation, tuple(segments), pinned=pinned, fresh=kept)


def text_record_in_steps(
    tokenizer: Tokenizer,
    memory: SessionMemory,
    conversation: str,
    text: str,
    *,
    learn: bool,
    fresh: bool,
    most_tokens: int | None = None,
) -> Generator[None, None, Record]:
    """The record of a turn that goes on with a text as it stands, without the chat template;
    otherwise as `turn_record_in_steps`."""
    kept = fresh and conversation in memory.conversations  # a window that there is
    segments: list[Segment] = []
    if fresh or conversation not in memory.conversations:
        text = tokenizer.opening(text)
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            segments.append(Segment(Speaker.TEMPLATE, ((tokenizer.bos_id,),)))
    spans = yield from _content_in_steps(tokenizer, text, len(segments), most_tokens)
    segments.append(Segment(Speaker.USER, spans, learn))
    return Record(RecordKind.TURN, conversation, tuple(segments), fresh=kept)


def _content_in_steps(
    tokenizer: Tokenizer, text: str, before: int, most_tokens: int | None
) -> Generator[None, None, tuple[tuple[int, ...], ...]]:
    """Token ids of each span of a message's text, which has `before` tokens before it."""
    spans: list[tuple[int, ...]] = []
    for tokens in encode_in_steps(tokenizer, text, spans):
        if most_tokens is not None and before + tokens > most_tokens:
            raise WindowOverflowError(
                f"the prompt exceeds the window of {most_tokens} tokens; send less, or ingest it "
                "as a document",
                field="messages",
            )
        yield
    return tuple(spans)


def encode_spans(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], ...]:
    """Token ids of each span of a finished text."""
    return tuple(tokenizer.encode_spans(iter_spans(text)))


def encode_in_steps(tokenizer: Tokenizer, text: str, spans: list[tuple[int, ...]]) -> Iterator[int]:
    """Append the token ids of each span of a finished text to `spans`, and yield every STEP_TOKENS
    tokens how many there are."""
    tokens = told = 0
    for span in tokenizer.encode_spans(iter_spans(text)):
        spans.append(span)
        tokens += len(span)
        if tokens - told >= STEP_TOKENS:
            told = tokens
            yield tokens


def turn_end(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token with which the template closes a reply; none where a model has no such token, or
    no template."""
    if not tokenizer.has_chat_template:
        return ()
    history = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    ids = tokenizer.encode_template(tokenizer.render(history, add_generation_prompt=False))
    ends = [token for token in ids if token in tokenizer.eos_ids]
    return (ends[-1],) if ends else ()


def chat_problems(tokenizer: Tokenizer) -> list[str]:
    """Sentences about what a model's chat template cannot do: found once, before a user does."""
    if not tokenizer.has_chat_template:
        return [
            "the model has no chat template, so every turn with messages is refused; texts can be "
            "continued, ingested and scored, and --chat-template gives it one"
        ]
    user, system = {"role": "user", "content": "?"}, {"role": "system", "content": "!"}
    for said, first, refused in (
        ([user], True, "every turn with messages is refused"),
        ([user], False, "every turn but a conversation's first is refused"),
        ([system, user], True, "turns with a system prompt are refused"),
    ):
        try:
            tokenizer.turn_pieces(said, first=first)
        except InvalidRequestError as error:
            return [f"{error}; {refused}"]
    return []


def _end_of_system_prompt(
    tokenizer: Tokenizer, pinned: int, ids: tuple[int, ...], segments: Sequence[Segment]
) -> int:
    """Tokens up to and including the last end-of-turn token so far; where a template does not end a
    system prompt by one, those up to what follows it."""
    before = sum(len(segment.tokens) for segment in segments)
    ends = [index for index, token in enumerate(ids) if token in tokenizer.eos_ids]
    if ends:
        return before + ends[-1] + 1
    if any(segment.speaker is Speaker.SYSTEM for segment in segments):
        return before + len(ids)
    return pinned
