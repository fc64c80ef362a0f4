"""Statements that a session was taught: listed, found, and named for good."""

from __future__ import annotations

import time

import grpc
from api import Api, refused
from hope.v1 import sessions_pb2 as pb
from serving import Served
from taught import BOOK, FACTS, SISTER, ids_of, teach

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_statements_are_listed_with_their_source_and_what_became_of_them(api: Api) -> None:
    before = int(time.time())
    await teach(api, *FACTS)
    await api.say("I'm Tamsin and my dog is called Pip.", conversation="now")
    await api.say("My car is blue.", conversation="now", learn=False)
    await api.say("My boat is red.", conversation="now", ephemeral=True)
    await api.ingest([BOOK.encode()], document="mill", keep_open=True)
    found = await api.statements()
    assert [each.text for each in found[:5]] == [
        *FACTS,
        "I'm Tamsin",
        "and my dog is called Pip.",
    ]
    assert [each.text for each in found[5:]] == [
        "The river Tern runs past the mill.",
        "Rolf bit the postman twice.",
        # The last sentence of an open document may go on.
    ]
    assert [each.conversation for each in found[:4]] == ["talk0", "talk1", "talk2", "now"]
    assert {each.speaker for each in found[:5]} == {pb.SPEAKER_USER}
    assert {each.speaker for each in found[5:]} == {pb.SPEAKER_DOCUMENT}
    assert [(each.document, each.offset_bytes) for each in found[5:]] == [
        ("mill", 0),
        ("mill", BOOK.index(" Rolf")),
    ]
    assert all(before <= each.create_time.seconds <= time.time() for each in found)
    assert len({each.id for each in found}) == len(found)
    session = await api.learnt()
    found = await api.statements()
    assert sum(each.learnable_tokens for each in found) == session.learnable_tokens
    assert [0 in each.levels for each in found[:3]] == [True] * 3
    assert [each.memory_version for each in found[:3]] == [1, 2, 3]
    waiting = [each for each in found if not each.levels]
    assert sum(each.learnable_tokens for each in waiting) == session.pending_tokens
    assert {each.memory_version for each in waiting} == {0}


async def test_a_listing_is_paged_and_searched(api: Api) -> None:
    await teach(api, *FACTS, SISTER)
    whole = await api.statements()
    assert len(whole) == 4
    for size in (1, 2, 3, 4):
        assert await api.statements(page_size=size) == whole
    assert [each.text for each in await api.statements("sister CLARA")] == [SISTER] * 2
    assert [each.text for each in await api.statements("call", page_size=1)] == [
        FACTS[0],
        SISTER,
        SISTER,
    ]
    assert await api.statements("sister Bruno") == []
    assert len(await api.statements(".")) == 4
    request = pb.ListStatementsRequest(parent=api.name, page_token="next")
    async with refused(INVALID, "INVALID_REQUEST", "page_token"):
        await api.sessions.ListStatements(request)
    async with refused(INVALID, "INVALID_REQUEST", "page_size"):
        await api.statements(page_size=1001)
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await api.on("nowhere").statements()


async def test_unknown_and_forgotten_ids_are_told_by_name(api: Api) -> None:
    await teach(api, *FACTS)
    version = (await api.get()).memory_version
    (sister,) = await ids_of(api, "sister")
    record, _, start = sister.partition(".")
    for wrong in (f"{record}.{int(start) + 1}", "999.0", "2.0"):
        async with refused(NOT_FOUND, "STATEMENT_NOT_FOUND"):
            await api.forget_statements(sister, wrong)
    for broken in ("", "Clara", "0.0", "1", "01.0", "1.-1", "9" * 40 + ".0"):
        async with refused(INVALID, "INVALID_REQUEST", "ids"):
            await api.forget_statements(broken)
    for many in ((), [f"{index}.0" for index in range(1, 1002)]):
        async with refused(INVALID, "INVALID_REQUEST", "ids"):
            await api.forget_statements(*many)
    async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
        await api.on("nowhere").forget_statements(sister)
    assert (await api.get()).memory_version == version
    await api.forget_statements(sister, sister)
    async with refused(NOT_FOUND, "STATEMENT_NOT_FOUND"):
        await api.forget_statements(sister)
    # Told again, it is another statement.
    await api.say(SISTER)
    (again,) = await ids_of(api, "sister")
    assert again != sister
    await api.forget_statements(again)
    assert await ids_of(api, "sister") == []


async def test_a_rollback_undoes_it_and_forgetting_again_has_the_same_id(served: Served) -> None:
    api = served.api
    await api.create()
    await teach(api, *FACTS)
    before = await api.get()
    statements = await api.statements()
    (sister,) = await ids_of(api, "sister")
    forgotten = await api.forget_statements(sister)
    diff = await api.sessions.DiffVersions(
        pb.DiffVersionsRequest(
            name=api.name,
            from_version=before.memory_version,
            to_version=forgotten.memory_version,
        )
    )
    assert [(each.taken_back, each.excerpt) for each in diff.taught] == [(True, SISTER)]
    back = await api.rollback(version=before.memory_version)
    assert back.levels == before.levels
    assert await api.statements() == statements
    assert (await api.forget_statements(sister)).levels == forgotten.levels
    # What was taken back is no statement.
    await teach(api, "My boss is called Ruth.")
    (boss,) = await ids_of(api, "boss")
    await api.rollback(version=forgotten.memory_version)
    assert await ids_of(api, "boss") == []
    async with refused(NOT_FOUND, "STATEMENT_NOT_FOUND"):
        await api.forget_statements(boss)


async def test_a_correction_is_named_and_without_it_the_first_word_holds(api: Api) -> None:
    await api.on("cats").create(policy="default")
    api = api.on("cats")
    await teach(api, "My cat is called Bruno.", "My cat is now called Max.")
    first, correction = await api.statements()
    assert first.superseded_by == correction.id
    assert (first.rehearsed, correction.rehearsed) == (False, True)
    session = await api.forget_statements(correction.id)
    (left,) = await api.statements()
    assert (left.id, left.superseded_by, left.rehearsed) == (first.id, "", True)
    # Bit for bit as if nothing had been corrected.
    never = api.on("never")
    await never.create(policy="default")
    await teach(never, "My cat is called Bruno.")
    assert (await never.get()).levels == session.levels


async def test_of_a_document_what_was_practised_is_told_from_what_was_read(api: Api) -> None:
    await api.on("reads").create(policy="default")
    api = api.on("reads")
    await api.ingest([BOOK.encode()], document="mill")
    await api.ingest([b"Ines has a boat called Seefalke. "], document="boats")
    assert len(await api.statements()) == 4
    whole = await api.statements(document="mill", page_size=2)
    assert [each.document for each in whole] == ["mill"] * 3
    assert await api.statements(document="nothing") == []
    practised = await api.statements(document="mill", rehearsed_only=True)
    assert practised == [each for each in whole if each.rehearsed]
    assert [each.text for each in practised] == ["The river Tern runs past the mill."]
    assert all(each.surprise_nats > 0 for each in practised)
    # Nobody is named in it.
    assert (whole[-1].rehearsed, whole[-1].surprise_nats) == (False, 0)
