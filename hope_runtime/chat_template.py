"""Chat templates: Jinja source and messages -> the text of a conversation.

Knows what templates are written for: the extensions and the variables that `transformers` gives
them. Leaves tokens, and what of the text somebody said, to tokenizer.py.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from hope_runtime.errors import CorruptModelError, InvalidRequestError

# Of a model of plain text: a reply goes on where the user's text ends, and the next turn begins on
# a line of its own.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ message['content'] }}{% endfor %}"
)


# The date in replays: what is learnt must not depend on the day.
_SOME_DAY = datetime.datetime(2025, 1, 1)


class ChatTemplate:
    """A compiled template. Raises CorruptModelError for source that is not Jinja."""

    def __init__(self, source: str) -> None:
        try:
            self._compiled = _environment().from_string(source)
        except (jinja2.TemplateError, SyntaxError, ValueError, RecursionError) as error:
            # Python's own compiler refuses some of what Jinja's parser lets through.
            raise CorruptModelError(f"the chat template cannot be read: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, str]], *, timeless: bool = False, **variables: Any
    ) -> str:
        """The text of a conversation, with models that can think told not to. With `timeless` a
        template that tells the date tells one that is always the same.

        Raises InvalidRequestError (field `messages`) when the template refuses the messages, and
        for whatever else its code runs into.
        """
        try:
            return self._compiled.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                # What a model thought would be part of no replay, and fills windows.
                enable_thinking=False,
                strftime_now=_SOME_DAY.strftime if timeless else _strftime_now,
                **variables,
            )
        except Exception as error:  # it is code that somebody else wrote
            raise InvalidRequestError(
                f"the chat template rejects these messages: {error or type(error).__name__}",
                field="messages",
            ) from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`, by which training marks what the assistant said.

    It renders as what it encloses.
    """

    tags = {"generation"}  # noqa: RUF012 - the type is Jinja's

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A scope of its own, as `transformers` has it: what is set within ends with it.
        return [jinja2.nodes.Scope(body, lineno=line)]


def _environment() -> jinja2.Environment:
    # Templates come with checkpoints and are untrusted code: sandboxed, with no way to change
    # the objects they are given. The options are those that templates are written for.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.filters["tojson"] = _tojson
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which is not what a model has read.
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
