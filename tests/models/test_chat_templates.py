"""Templates written for transformers render as there; what cannot work is said at once."""

from __future__ import annotations

import datetime

import pytest
import small_tokenizers as small

from hope_runtime.chat_template import ChatTemplate
from hope_runtime.engine.prompt import chat_problems
from hope_runtime.errors import CorruptModelError, InvalidRequestError
from hope_runtime.tokenizer import Tokenizer

CHAT = [
    {"role": "user", "content": 'Hi "you" <é> & co.'},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye."},
]
TEMPLATES = {
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}|{% endfor %}"
    ),
    "generation-trimmed": (
        "{%- for m in messages -%}\n  {%- generation -%}\n {{ m.content }}\n {%- endgeneration -%}"
        "\n{%- endfor -%}"
    ),
    "generation-with-scope": (
        "{% for m in messages %}{% set x = loop.index %}{% generation %}{% set y = x * 2 %}"
        "{{ y }}{{ loop.last }}{% if y > 2 %}{{ m.content }}{% endif %}{% endgeneration %}"
        "{{ y is defined }}{% endfor %}"
    ),
    "loop-controls": (
        "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}"
    ),
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "tojson-options": (
        "{{ {'b': 'é', 'a': 1}"
        " | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=true) }}"
    ),
    "tools": "{% if tools is not none %}tools{% endif %}{{ documents is none }}{{ nothing }}",
    "namespace": (
        "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}"
        "{{ n.x }}{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}"
    ),
    "blocks": (
        "{% for m in messages %}\n    {% if true %}\n    {{ m.content }}\n    {% endif %}\n"
        "{% endfor %}"
    ),
    "date": "{{ strftime_now('%Y') }}{{ strftime_now(format='%d') | length }}",
}


def tokenizer(template: str | None) -> Tokenizer:
    return Tokenizer(
        small.byte_level().to_str(), eos_tokens=["</s>"], bos_token="<s>", chat_template=template
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=small.byte_level(), eos_token="</s>", bos_token="<s>"
    )
    for prompt in (True, False):
        expected = theirs.apply_chat_template(
            CHAT, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False
        )
        assert tokenizer(TEMPLATES[name]).render(CHAT, prompt) == expected


def test_the_date_is_todays() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render([]) in {
        str(datetime.date.today().year + offset) for offset in (-1, 0)
    }


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ messages",
        "{% if true %}",
        "{% generation %}never closed",
        "{{ messages | no_such_filter }}",
        "{% no_such_tag %}",
        "{% break %}",
        "{{ '" + "(" * 300 + "' }}" + "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    ],
)
def test_what_is_no_template_is_refused_when_it_is_read(source: str) -> None:
    with pytest.raises(CorruptModelError, match="the chat template cannot be read"):
        tokenizer(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages.nothing.more }}",
        "{{ raise_exception('never') }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ strftime_now(1) }}",
        "{{ namespace() | tojson }}",
    ],
)
def test_what_fails_while_it_renders_is_the_callers_error(source: str) -> None:
    made = tokenizer(source)
    with pytest.raises(InvalidRequestError, match="rejects these messages") as e:
        made.render(CHAT)
    assert e.value.field == "messages"
    (problem,) = chat_problems(made)
    assert "every turn with messages is refused" in problem


def test_what_a_template_cannot_do_is_found_at_start() -> None:
    whole = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    assert chat_problems(tokenizer(whole)) == []
    (problem,) = chat_problems(tokenizer(None))
    assert problem.startswith("the model has no chat template")
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no!') }}{% endif %}" + whole
    )
    # Then the system prompt stands in the user's message.
    assert chat_problems(tokenizer(refusing)) == []
    deaf = refusing.replace("m.content", "m.content.split('\n\n')[-1]")
    (problem,) = chat_problems(tokenizer(deaf))
    assert problem.endswith("turns with a system prompt are refused")
    one_turn = "{{ messages[-1].content }}"
    (problem,) = chat_problems(tokenizer(one_turn))
    assert "every turn but a conversation's first is refused" in problem


def test_white_space_that_a_template_strips_is_told_from_its_own() -> None:
    said = [{"role": "user", "content": "  Hi  "}]
    for source, content in (
        ("a {{ messages[0].content }} b", "   Hi  "),
        ("a {{ messages[0].content.strip() }} b", " Hi"),
        ("a {{ messages[0].content.lstrip() }} b", " Hi  "),
        ("a {{ messages[0].content.rstrip() }} b", "   Hi"),
        ("a\n{{ messages[0].content | trim }}\nb", "Hi"),
    ):
        made = tokenizer(source)
        pieces = made.turn_pieces(said, first=True)
        assert [piece.text for piece in pieces if piece.is_content] == [content]
        assert "".join(piece.text for piece in pieces) == made.render(said)
