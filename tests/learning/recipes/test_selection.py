"""What of a document is practised, and what is only read."""

from __future__ import annotations

from hope_runtime.learning.recipe import Resources
from hope_runtime.learning.recipes.specific.selection import Selection
from hope_runtime.learning.spans import SpanReader
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.parser import EnglishParser
from hope_runtime.learning.workers import Workers
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span
from hope_runtime.session.policy import (
    SpecificConfig,
)
from hope_runtime.steps import at_once


def test_a_document_pays_for_names_and_values_alone(chat_model):
    model = chat_model
    names = Names(model.tokenizer)
    reader = SpanReader(model.tokenizer)
    choose = Selection(Resources(model, Workers(1)), EnglishParser(), names, reader)

    def selected(*texts, nats=9.0, **changes):
        config = SpecificConfig(**changes)
        spans = [
            Span(tuple(model.tokenizer.encode(text)), Speaker.DOCUMENT, 1000 * place, nats)
            for place, text in enumerate(texts)
        ]
        statements, plain = at_once(choose.of(spans, config))
        return [item.text for item in statements], plain

    odd = "The pass key is 83921."
    named = "Brisa has a ferret called Pim."
    prose = "The tide came in slowly and the boats were lifted from the mud."
    assert selected(odd, named, prose) == ([odd, named], [prose])
    # What a base could have said is only read.
    assert selected(odd, named, prose, nats=4.0) == ([odd], [])
    assert selected(odd, named, prose, nats=2.0) == ([], [])
    many = [f"The code of shelf {n} is QX-{n}71." for n in range(20)]
    assert len(selected(*many, document_statements=5)[0]) == 5
    assert selected(prose, text_tokens=3) == ([], [])
