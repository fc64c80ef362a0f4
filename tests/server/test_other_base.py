"""Sessions and the base model they were learnt on: what still fits, and what is said if not."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from api import refused
from serving import Serve

from hope_runtime.models.decoder.weights import BaseModel, first_fingerprint_of
from hope_runtime.tokenizer import Tokenizer
from server.app.base_models import ServedBase

STATEMENTS = "My name is Ada. I live in Aldmoor. My dog is called Rolf. " * 8


def as_before(model: BaseModel) -> BaseModel:
    """The model as programs knew it that had the first fingerprint only."""
    first = first_fingerprint_of(model.config, model.weights, model.tokenizer)
    return replace(model, fingerprint=first, former=frozenset())


def retemplated(model: BaseModel, template: str) -> BaseModel:
    stored = model.tokenizer
    again = Tokenizer(
        stored._json,
        eos_tokens=stored._eos_tokens,
        bos_token=stored._bos_token,
        chat_template=template,
    )
    return replace(model, tokenizer=again)


@pytest.fixture
def learnt_before(serve: Serve, chat_model: BaseModel) -> object:
    """Starts the present model on a store with a session of before that has learnt."""

    @asynccontextmanager
    async def start(model: BaseModel = chat_model) -> AsyncIterator[object]:
        async with serve(model=as_before(chat_model)) as first:
            await first.api.create()
            await first.api.say(STATEMENTS)
            before = await first.api.learnt()
            assert before.memory_version == 1
        async with serve(model=model) as second:
            yield before, second

    return start


async def test_a_session_of_before_goes_on_as_it_was(learnt_before: object) -> None:
    async with learnt_before() as (before, second):  # type: ignore[operator]
        now = await second.api.get()
        assert now == before
        assert not now.other_base
        await second.api.say("My cat is called Tom. I live in Aldmoor.")
        await second.api.consolidate()
        after = await second.api.get()
        assert after.memory_version > before.memory_version
        assert after.base_fingerprint == before.base_fingerprint


async def test_forks_rollbacks_exports_and_jobs_of_it_work(learnt_before: object) -> None:
    async with learnt_before() as (before, second):  # type: ignore[operator]
        api = second.api
        assert (await api.fork("copy")).memory_hash == before.memory_hash
        exported = await api.export()
        other = api.on("imported")
        assert (await other.import_(exported)).memory_hash == before.memory_hash
        await other.say("Hello.")
        migrated = await api.migrate()
        assert migrated.base_fingerprint != before.base_fingerprint
        assert not migrated.other_base
        assert [each.updates for each in migrated.levels] == [e.updates for e in before.levels]
        await api.say("Hello.")


@pytest.mark.parametrize(
    "template",
    [
        "{{# a comment #}}{template}",
        "{% set unused = 1 %}{template}",
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}",
    ],
)
async def test_another_template_is_the_same_base(
    serve: Serve, chat_model: BaseModel, template: str
) -> None:
    source = chat_model.tokenizer._chat_template
    assert source is not None
    async with serve() as first:
        await first.api.create()
        await first.api.say(STATEMENTS)
        before = await first.api.learnt()
    model = retemplated(chat_model, template.replace("{template}", source).replace("{{#", "{#", 1))
    async with serve(model=model) as second:
        assert await second.api.get() == before
        await second.api.say("Hello.")


async def test_a_refusal_names_both_models(
    serve: Serve, chat_model: BaseModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(model=replace(chat_model, fingerprint="c0ffee" * 10)) as first:
        await first.api.create()
        exported = await first.api.export()
    with caplog.at_level(logging.WARNING, "server.app.base_models"):
        async with serve() as second:
            mine = chat_model.fingerprint[:12]
            for call in (second.api.say("Hello."), second.api.migrate(), second.api.score("x")):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                said = caught.value.details() or ""
                assert "c0ffeec0ffee" in said
                assert f"'{chat_model.name}' ({mine})" in said
            async with refused(grpc.StatusCode.FAILED_PRECONDITION, "OTHER_BASE_MODEL"):
                await second.api.on("imported").import_(exported)
            assert (await second.api.get()).other_base
            await second.api.on("own").create()
    assert "1 of 1 sessions belong to another base model" in caplog.text
    assert "c0ffeec0ffee" in caplog.text


def test_what_is_said_of_others(chat_model: BaseModel) -> None:
    base = ServedBase(chat_model, {"b" * 64: "TinyLlama"}.get)
    counts = {chat_model.fingerprint: 2, next(iter(chat_model.former)): 1}
    assert base.others({}) == base.others(counts) == ""
    said = base.others(counts | {"a" * 64: 3, "b" * 64: 4})
    assert said.startswith("7 of 10 sessions belong to another base model")
    assert "3 of an unknown model (aaaaaaaaaaaa)" in said
    assert "4 of 'TinyLlama' (bbbbbbbbbbbb)" in said
