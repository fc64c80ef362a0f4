"""What of a document is practised, and what is only read."""

from __future__ import annotations

from dataclasses import replace

from hope_runtime.learning.recipe import Resources, Stretch
from hope_runtime.learning.recipes.specific.price import Candidate, pay, step_tokens
from hope_runtime.learning.recipes.specific.selection import Selection
from hope_runtime.learning.spans import SpanReader
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.parser import EnglishParser
from hope_runtime.learning.workers import Workers
from hope_runtime.session.budget import Allowance
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span
from hope_runtime.session.policy import DEFAULT_POLICY, SpecificConfig
from hope_runtime.steps import at_once


def selection(model):
    names, reader = Names(model.tokenizer), SpanReader(model.tokenizer)
    return Selection(Resources(model, Workers(1)), EnglishParser(), names, reader)


def test_a_document_pays_for_names_and_values_alone(chat_model):
    model = chat_model
    choose = selection(model)

    def selected(*texts, nats=9.0, **changes):
        policy = replace(DEFAULT_POLICY, specific=SpecificConfig(**changes))
        spans = [
            Span(tuple(model.tokenizer.encode(text)), Speaker.DOCUMENT, 1000 * place, nats)
            for place, text in enumerate(texts)
        ]
        found = at_once(choose.of(spans, Stretch(spans, (), policy, 0.0, 0)))
        return [item.text for item in found.statements], found.texts

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


def test_a_budget_leaves_out_what_surprises_least(chat_model):
    """Fails when a document's statements are practised beyond what it grants."""
    model = chat_model
    choose = selection(model)
    texts = [f"The code of shelf {n} is QX-{n}71." for n in range(6)]
    spans = [
        Span(tuple(model.tokenizer.encode(text)), Speaker.DOCUMENT, 1000 * place, 3.0 + place)
        for place, text in enumerate(texts)
    ]
    told = Span(tuple(model.tokenizer.encode("My cat is called Pim.")), Speaker.USER, 9000, 4.0)

    def selected(passes, *, more=(), may_wait=True, final=False):
        allowance = Allowance(passes, passes, final)
        stretch = Stretch(spans, (), DEFAULT_POLICY, 0.0, 0, allowance=allowance, may_wait=may_wait)
        found = at_once(choose.of([*spans, *more], stretch))
        return [item.text for item in found.statements], len(found.waiting), found

    for passes in (0, 5000):  # too little for all of them, so all wait
        assert selected(passes)[:2] == ([], 6)
    now, waiting, found = selected(1_000_000)
    assert (now, waiting, found.document_share) == (texts, 0, 1.0)
    now, waiting, found = selected(8000, final=True)
    assert now == texts[-len(now) :]
    assert 0 < len(now) < 6
    assert not waiting
    assert found.tokens == 8000
    assert found.steps <= 8000 // step_tokens(len(now))
    # A slower level does not see again what it leaves out.
    assert selected(100, may_wait=False)[:2] == ([], 0)
    # What a user says is not the document's to pay for.
    now, waiting, found = selected(0, more=[told])
    assert (now, waiting, found.tokens) == (["My cat is called Pim."], 6, None)
    assert found.document_share == 0.0


def test_an_odd_statement_is_cut_from_what_goes_on_behind_it():
    parser = EnglishParser()

    def parts(text):
        starts = parser.odd_starts(text)
        return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]

    odd = "The number for razaiko is 7076202."
    assert parts(f"{odd} he is before all things") == [odd, " he is before all things"]
    for whole in (odd, "It cost 3.50 in 1998, he said.", "He came. and went"):
        assert parts(whole) == [whole]


def test_ordinary_statements_wait_for_each_other():
    few = [Candidate(place, 5.2, odd=False) for place in range(3)]
    rich = Allowance(100_000, 100_000, final=False)
    config = DEFAULT_POLICY.specific

    def now(candidates, allowance=rich):
        return len(pay(candidates, allowance, config, may_wait=True).now)

    assert (now(few), now(few, replace(rich, final=True))) == (0, 3)
    assert now([*few, Candidate(3, 5.2, odd=False)]) == 4
    assert now([*few, Candidate(3, 3.0, odd=True)]) == 4


def test_of_one_key_with_several_values_the_last_is_practised(chat_model):
    model = chat_model
    choose = selection(model)
    texts = [f"The magic number for {key} is {n}." for key, n in
             (("zorb", 4812231), ("plim", 7710024), ("zorb", 9120045))]  # fmt: skip
    spans = [
        Span(tuple(model.tokenizer.encode(text)), Speaker.DOCUMENT, 1000 * place, 6.0)
        for place, text in enumerate(texts)
    ]
    allowance = Allowance(1_000_000, 1_000_000, True)
    found = at_once(
        choose.of(spans, Stretch(spans, (), DEFAULT_POLICY, 0.0, 0, allowance=allowance))
    )
    assert [item.text for item in found.statements] == texts[1:]
