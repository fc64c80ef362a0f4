"""Spaces of SentencePiece tokenizers: the ids are those that `transformers` gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import small_tokenizers as small
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.engine.prompt import Message, encode_spans, turn_record
from hope_runtime.engine.turn import GenerateTurn, prompt_in_steps
from hope_runtime.session.fold import observe
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY
from hope_runtime.session.spans import SpanReader, split_spans
from hope_runtime.steps import at_once
from hope_runtime.tokenizer import Tokenizer

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = LLAMA2.replace("' ' + m['content'] + eos_token", "m['content'] + eos_token + ' '")
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'].strip() }}"
    "{{ eos_token if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
BARE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
TEMPLATES = {"llama2": LLAMA2, "mistral": MISTRAL, "zephyr": ZEPHYR, "vicuna": VICUNA, "bare": BARE}
BACKENDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    **{f"bpe-{opening}": lambda o=opening: small.bpe(o) for opening in small.OPENINGS},
    **{f"unigram-{opening}": lambda o=opening: small.unigram(o) for opening in small.OPENINGS},
    "byte-level": small.byte_level,
}
CHATS = [
    ["My cat is called Ada. What is my name?"],
    ["Hi", "Good morning.", "What colour is the sea?"],
    ["  two spaces before", "It is blue.", "a\n\n  b. Über — 日本語 👩‍👩‍👧"],
    ["U.S. sales rose 3.5%.\nThe dog, e.g. Rex, sleeps. " * 30],
]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> tokenizers.Tokenizer:
    return BACKENDS[request.param]()


def ours(backend: tokenizers.Tokenizer, template: str | None = None) -> Tokenizer:
    return Tokenizer(backend.to_str(), eos_tokens=["</s>"], bos_token="<s>", chat_template=template)


def said(texts: list[str]) -> list[dict[str, str]]:
    return [
        {"role": "assistant" if index % 2 else "user", "content": text}
        for index, text in enumerate(texts)
    ]


def reference(
    backend: tokenizers.Tokenizer, template: str, texts: list[str], *, prompt: bool = True
) -> list[int]:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    ids = theirs.apply_chat_template(
        said(texts), chat_template=template, add_generation_prompt=prompt, return_dict=False
    )
    return list(ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_first_turn_has_the_ids_of_transformers(backend: tokenizers.Tokenizer, name: str) -> None:
    tokenizer = ours(backend, TEMPLATES[name])
    for texts in CHATS:
        memory = SessionMemory.fresh("base", DEFAULT_POLICY)
        messages = [Message(each["role"], each["content"]) for each in said(texts)]
        record = turn_record(tokenizer, memory, "chat", messages, learn=True)
        assert list(record.tokens) == reference(backend, TEMPLATES[name], texts)
        assert tokenizer.encode_conversation(said(texts)) == list(record.tokens)


# Which "</s>" ends the first reply: the templates close only replies by it, or every message.
@pytest.mark.parametrize(
    ("name", "end"), [("llama2", 0), ("mistral", 0), ("zephyr", 1), ("bare", 1)]
)
def test_a_later_turn_goes_on_as_transformers_would(
    backend: tokenizers.Tokenizer, name: str, end: int
) -> None:
    tokenizer = ours(backend, TEMPLATES[name])
    # The template of the second turn is rendered behind an exchange that ends with "</s>".
    texts = ["-", "Good morning.", "My cat is called Ada. What is my name?"]
    whole = reference(backend, TEMPLATES[name], texts)
    later: list[int] = []
    for piece in tokenizer.turn_pieces(said(texts)[2:], first=False):
        if piece.is_content:
            later += [token for span in encode_spans(tokenizer, piece.text) for token in span]
        else:
            later += tokenizer.encode_template(piece.text)
    ends = [index for index, token in enumerate(whole) if token in tokenizer.eos_ids]
    assert later == whole[ends[end] + 1 :]


def test_a_text_without_a_template_begins_like_a_document(backend: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(backend.to_str(), eos_tokens=["</s>"], bos_token="<s>", add_bos=True)
    memory = SessionMemory.fresh("base", DEFAULT_POLICY)
    turn = GenerateTurn("c", (Message("user", "Once upon a time"),), fresh=True, plain=True)
    record = at_once(prompt_in_steps(tokenizer, memory, turn))
    whole = backend.encode("Once upon a time", add_special_tokens=False).ids
    assert record.tokens == (tokenizer.bos_id, *whole)
    # A window that there is goes on with the text as it stands.
    memory = observe(memory, record, window_tokens=64)
    again = at_once(prompt_in_steps(tokenizer, memory, replace(turn, fresh=False)))
    assert list(again.tokens) == tokenizer.encode("Once upon a time")
    assert at_once(prompt_in_steps(tokenizer, memory, turn)) == replace(record, fresh=True)


def test_a_document_has_one_space_at_its_beginning(backend: tokenizers.Tokenizer) -> None:
    tokenizer = ours(backend)
    text = "My cat is called Ada. What is my name? The quick brown fox jumps.\n\nHello world."
    whole = backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(tokenizer.opening(text)) == whole
    if not tokenizer._crosses_words:
        spans = SpanReader().feed(text.encode(), final=True)
        spans[0] = tokenizer.opening(spans[0])
        assert [token for span in spans for token in tokenizer.encode(span)] == whole
    if backend.token_to_id("<unk>") not in whole:
        assert tokenizer.decode(whole).removeprefix(" ") == text


WORDS = st.text(alphabet="ab .?!\nÜ日", min_size=1, max_size=60).filter(str.strip)


@given(text=WORDS)
def test_any_content_between_line_ends_has_the_ids_of_transformers(text: str) -> None:
    for backend in (small_bpe("prepend"), small_bpe("first")):
        ids = ours(backend, ZEPHYR).encode_conversation(said([text]))
        assert ids == reference(backend, ZEPHYR, [text])


@given(text=st.text(alphabet="abc. \né日", max_size=3000))
def test_spans_are_the_whole_text(text: str) -> None:
    for words in (True, False):
        tokenizer = ours(small_bpe("prepend", words))
        spans = [*tokenizer.encode_spans(split_spans(text))]
        assert [token for span in spans for token in span] == tokenizer.encode(text)
        assert all(spans)


def test_a_prefix_space_of_byte_level_tokenizers_stands_once() -> None:
    backend = small.byte_level(add_prefix_space=True)
    for template in (ZEPHYR, LLAMA2.replace("[INST] ", "[INST]\n")):
        for texts in CHATS:
            found = ours(backend, template).encode_conversation(said(texts))
            assert found == reference(backend, template, texts)


def test_what_is_learnt_practises_what_is_read() -> None:
    """A user's first word has the same token in a replay as in the prompt."""
    tokenizer = ours(small.bpe("prepend"), LLAMA2)
    user, assistant = tokenizer.fields("user"), tokenizer.fields("assistant")
    assert (user.before, user.lead, user.after) == ("<s> [INST]", " ", " [/INST]")
    assert (assistant.lead, assistant.after) == (" ", "</s>")
    ids = tokenizer.encode_template(user.before) + tokenizer.encode(user.lead + "Hi")
    assert tokenizer.encode_conversation(said(["Hi"]))[: len(ids)] == ids


_MADE: dict[tuple[str, bool], tokenizers.Tokenizer] = {}


def small_bpe(opening: str, words: bool = True) -> tokenizers.Tokenizer:
    key = (opening, words)
    if key not in _MADE:
        _MADE[key] = small.bpe(opening, words=words)
    return _MADE[key]
