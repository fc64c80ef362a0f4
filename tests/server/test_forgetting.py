"""Forgotten statements: gone for good, and everything else as if they had never been told."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import grpc
import pytest
from api import refused
from hope.v1 import sessions_pb2 as pb
from job_calls import Gate
from serving import Serve, Served, Spawn
from taught import BOOK, FACTS, SISTER, ids_of, knows, memory_of, same_learning, teach
from valkey_process import StoreProcess, binaries

from hope_runtime.session.effective import counted
from server.app.session_log import read_log
from server.store.base import SessionKey

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def test_a_forgotten_statement_was_never_told(served: Served) -> None:
    told, never = served.api, served.api.on("never")
    for api, facts in ((told, FACTS), (never, (FACTS[0], FACTS[2]))):
        await api.create()
        await teach(api, *facts)
        await api.ingest([BOOK.encode()])
        await api.say("My horse is called Max.")
    before = {each.id: each.text for each in await told.statements()}
    (sister,) = await ids_of(told, "sister")
    assert await knows(served, told, "Clara")
    jobs: list[pb.Job] = []
    session = await told.forget_statements(sister, on_progress=jobs.append)
    assert {tuple(job.forget_statements.ids) for job in jobs} == {(sister,)}
    assert not session.conversations  # windows begin anew
    assert same_learning(await memory_of(served, told), await memory_of(served, never))
    assert not await knows(served, told, "Clara")
    # Every other statement is there, under its id.
    del before[sister]
    assert {each.id: each.text for each in await told.statements()} == before
    # Learning it all again from the log does not bring it back.
    again = await told.migrate()
    assert again.memory_hash == session.memory_hash
    assert not await knows(served, told, "Clara")
    # The session goes on from there like the other one.
    for api in (told, never):
        await teach(api, "My boss is called Ruth.")
    assert same_learning(await memory_of(served, told), await memory_of(served, never))


async def test_what_replies_and_messages_sent_again_repeat_is_gone_as_well(served: Served) -> None:
    api = served.api
    await api.create()
    await api.say(SISTER)
    # As a client does that sends its history again.
    await api.say(f"You said: {SISTER}", learn=False)
    await api.say("I live in Leeds.")
    await api.forget_statements(*await ids_of(api, "sister"))
    assert not await knows(served, api, "Clara")
    assert [each.text for each in await api.statements()] == ["I live in Leeds."]


async def test_one_clause_of_a_sentence_is_forgotten(served: Served) -> None:
    api = served.api
    await api.create()
    await api.say("I'm Tamsin and my dog is called Pip.")
    name, dog = await api.statements()
    await api.forget_statements(name.id)
    assert [(each.id, each.text) for each in await api.statements()] == [(dog.id, dog.text)]
    assert not await knows(served, api, "Tamsin")
    assert await knows(served, api, "Pip")
    await api.forget_statements(dog.id)
    assert await api.statements() == []
    assert (await api.get()).learnable_tokens == 0


async def test_a_sentence_of_an_open_document_is_forgotten_and_reading_goes_on(
    served: Served,
) -> None:
    api, never = served.api, served.api.on("never")
    await api.create()
    await never.create()
    half = BOOK.index("twice")
    # Cut within the sentence, so that its beginning is undecided bytes of the record before.
    await api.ingest([BOOK[:half].encode()], keep_open=True)
    await api.ingest([BOOK[half:].encode()], keep_open=True, offset_bytes=half)
    (rolf,) = await api.statements("Rolf")
    assert rolf.offset_bytes == BOOK.index(" Rolf")
    await api.forget_statements(rolf.id)
    assert not await knows(served, api, "Rolf")
    (book,) = (await api.get()).documents
    assert (book.committed_bytes, book.ended) == (len(BOOK), False)
    await api.ingest([b"The end."], offset_bytes=len(BOOK))
    await never.ingest([(BOOK.replace(" Rolf bit the postman twice.", "") + "The end.").encode()])
    assert same_learning(await memory_of(served, api), await memory_of(served, never))


async def test_an_export_without_it_goes_on_under_the_same_ids(served: Served) -> None:
    api, copy, fork = served.api, served.api.on("copy"), served.api.on("fork")
    await api.create()
    await api.say(SISTER + " I like tea.")
    await teach(api, *FACTS)
    await api.fork("fork")
    ids = await ids_of(api, "sister")
    assert len(ids) == 2
    session = await api.forget_statements(*ids)
    imported = await copy.import_(await api.export())
    assert imported.memory_hash == session.memory_hash
    assert await copy.statements() == await api.statements()
    assert (await copy.migrate()).memory_hash == session.memory_hash
    log = await read_log(served.running.sessions, SessionKey("ada", "copy"))
    assert list(counted(log).forgotten)  # the places are known, the text is not
    tea = (await ids_of(api, "tea"))[0]
    one, other = await copy.forget_statements(tea), await api.forget_statements(tea)
    assert one.memory_hash == other.memory_hash
    # Exported once more, it still holds together.
    assert (await api.on("third").import_(await copy.export())).memory_hash == one.memory_hash
    # A fork from before is a session of its own.
    assert await ids_of(fork, "sister") == ids


async def test_forgetting_documents_and_statements_in_any_order(served: Served) -> None:
    first, second = served.api, served.api.on("second")
    for api in (first, second):
        await api.create()
        await api.ingest([BOOK.encode()], document="mill")
        await teach(api, *FACTS)
    (sister,) = await ids_of(first, "sister")
    (rolf,) = await ids_of(first, "postman")
    await first.forget_statements(rolf)
    await first.forget("mill")
    await first.forget_statements(sister)
    await second.forget_statements(sister)
    await second.forget("mill")
    async with refused(NOT_FOUND, "STATEMENT_NOT_FOUND"):
        await second.forget_statements(rolf)
    assert same_learning(await memory_of(served, first), await memory_of(served, second))
    left = [[each.text for each in await api.statements()] for api in (first, second)]
    assert left == [[FACTS[0], FACTS[2]]] * 2


async def test_a_session_with_a_job_is_read_but_not_told_to_forget_more(served: Served) -> None:
    api = served.api
    await api.create()
    await teach(api, *FACTS)
    (cat,) = await ids_of(api, "cat")
    (sister,) = await ids_of(api, "sister")
    gate = Gate(served.running, allowed=1)
    request = pb.ForgetStatementsRequest(name=api.name, ids=[cat])
    call = api.sessions.ForgetStatements(request)
    while (job := (await call.read()).job).consolidations < 1:
        pass
    assert job.forget_statements.ids == [cat]
    assert (await api.get()).job.forget_statements.ids == [cat]
    assert len(await api.statements()) == 3
    for other in (api.forget_statements(sister), api.forget("book"), api.say("Hello?")):
        async with refused(grpc.StatusCode.UNAVAILABLE, "JOB_RUNNING"):
            await other
    # Asked again, it is the same job; cancelled, it changed nothing.
    joined = api.sessions.ForgetStatements(request)
    assert (await joined.read()).job.forget_statements.ids == [cat]
    await api.cancel_job()
    for each in (call, joined):
        async with refused(grpc.StatusCode.ABORTED, "JOB_CANCELLED"):
            while await each.read():
                pass
    assert len(await api.statements()) == 3
    gate.open()
    await api.forget_statements(cat)
    assert await ids_of(api, "cat") == []


async def test_a_power_cut_in_the_middle_leaves_it_to_the_next_server(
    serve: Serve, spawn: Spawn
) -> None:
    texts = [f"{FACTS[index % 3][:-1]} or so I said {index} times." for index in range(9)]
    async with serve() as served:
        await served.api.create()
        await teach(served.api, *texts)
        ids = await ids_of(served.api, "sister")
        await served.api.fork("undisturbed")
        expected = await served.api.on("undisturbed").forget_statements(*ids)
    async with spawn(job_checkpoint_seconds=0) as server:
        request = pb.ForgetStatementsRequest(name=server.api.name, ids=ids)
        call = server.api.sessions.ForgetStatements(request)
        while (await call.read()).job.consolidations < 2:
            pass
        await server.kill()
    async with spawn() as server:
        async with asyncio.timeout(30):
            while (session := await server.api.get()).HasField("job"):
                pass  # nobody asks again: it goes on by itself
        assert session.memory_hash == expected.memory_hash
        assert await ids_of(server.api, "sister") == []


@pytest.mark.parametrize("encrypted", [False, True])
async def test_it_is_the_same_on_a_shared_store(
    serve: Serve, tmp_path: Path, encrypted: bool
) -> None:
    options = {}
    if encrypted:
        (tmp_path / "master").write_text(secrets.token_hex(32))
        options = {"master_key_file": tmp_path / "master", "key_database": tmp_path / "keys.db"}
    (tmp_path / "valkey").mkdir()
    store = StoreProcess(binaries()["valkey"], tmp_path / "valkey").start()
    try:
        async with serve(store=store.url, **options) as served:
            await served.api.create()
            await teach(served.api, *FACTS)
            ids = await ids_of(served.api, "sister")
            forgotten = await served.api.forget_statements(*ids)
        async with serve(store=store.url, **options) as again:
            assert (await again.api.get()).memory_hash == forgotten.memory_hash
            assert [each.text for each in await again.api.statements()] == [FACTS[0], FACTS[2]]
            async with refused(NOT_FOUND, "STATEMENT_NOT_FOUND"):
                await again.api.forget_statements(*ids)
            assert not await knows(again, again.api, "Clara")
            assert await again.running.sessions.store.check_integrity() == []
    finally:
        store.kill()


async def test_only_what_came_since_is_learnt_again(served: Served) -> None:
    api = served.api
    await api.create()
    await teach(api, *FACTS)
    await api.say("My horse is called Max.")
    jobs: list[pb.Job] = []
    for query, learnt_again in (("horse", 0), ("Leeds", 0), ("cat", 1)):
        jobs.clear()
        await api.forget_statements(*await ids_of(api, query), on_progress=jobs.append)
        assert jobs[-1].consolidations == learnt_again
        assert jobs[-1].folded_records == jobs[-1].total_records
    assert [each.text for each in await api.statements()] == [SISTER]
    never = api.on("never")
    await never.create()
    await teach(never, SISTER)
    assert same_learning(await memory_of(served, api), await memory_of(served, never))
