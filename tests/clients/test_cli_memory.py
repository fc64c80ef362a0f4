"""`hope memory` and the chat's /forget, against a real server."""

from __future__ import annotations

import json
import os

import processes
import pytest
from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2
from hope_client import HopeClient, NotFoundError, SyncHopeClient
from hope_client.cli.memory import asks_to_forget
from real_server import COMMAND

FACTS = ("My cat is called Bruno.", "My sister is called Clara.", "I live in Leeds.")
SAMPLING = pb.Sampling(max_tokens=2, temperature=0)


async def teach(target: str, session: str, *facts: str) -> list[str]:
    """Ids of the facts."""
    async with HopeClient(target) as client:
        await client.sessions.create(session, policy="quick")
        for fact in facts:
            await client.say(session, fact, sampling=SAMPLING)
        if facts:
            await client.sessions.end_conversation(session)
        return [each.id async for each in client.sessions.statements(session, page_size=1)]


async def texts(target: str, session: str) -> list[str]:
    async with HopeClient(target) as client:
        return [each.text async for each in client.sessions.statements(session)]


async def test_a_document_is_left_to_the_server(real_server, hope_real, tmp_path):
    await teach(real_server.target, "reader")
    book = tmp_path / "book.txt"
    book.write_text("Rolf bit the postman twice. " * 200)
    code, out, _err = await hope_real("ingest", str(book), "--session", "reader", "--detach")
    assert (code, out) == (
        0,
        "book.txt is read by the server; `hope ingest --status` shows how far it is.\n",
    )
    code, out, _err = await hope_real("ingest", "--session", "reader", "--status", "--json")
    assert code == 0
    assert len(json.loads(out)["documents"]) <= 1
    code, out, _err = await hope_real("ingest", "--session", "reader", "--cancel")
    assert code == 0
    assert "reads nothing in the background" in out
    # The same command goes on where it was stopped, here to the end.
    await hope_real("ingest", str(book), "--session", "reader")
    code, out, _err = await hope_real("ingest", str(book), "--session", "reader", "--detach")
    assert (code, out) == (0, "book.txt was already read completely (5,600 bytes).\n")
    assert (await hope_real("ingest", "--session", "reader"))[0] == 2


async def test_what_was_taught_is_listed_and_forgotten(real_server, hope_real):
    code, out, err = await hope_real("memory", "list", "listed")
    assert (code, out) == (1, "")
    assert "does not exist" in err
    cat, sister, home = await teach(real_server.target, "listed", *FACTS)
    code, out, err = await hope_real("memory", "list", "listed")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(maxsplit=1) for line in lines[::2]] == [
        [cat, FACTS[0]],
        [sister, FACTS[1]],
        [home, FACTS[2]],
    ]
    assert all("conversation default, learnt in version 1 (level" in line for line in lines[1::2])
    code, out, _ = await hope_real("memory", "list", "listed", "--query", "clara", "--json")
    (found,) = json.loads(out)["statements"]
    assert (found["id"], found["text"], found["speaker"]) == (sister, FACTS[1], "SPEAKER_USER")
    code, out, err = await hope_real("memory", "list", "listed", "--query", "dog")
    assert (code, out, err) == (0, "", "No statement matches.\n")
    code, out, _ = await hope_real("memory", "forget", "listed", sister)
    assert (code, out) == (0, "Forgot 1 statement; the session is now at version 2.\n")
    code, out, _ = await hope_real("memory", "forget", "listed", cat, home, "--json")
    assert (code, json.loads(out)["learnable_tokens"]) == (0, 0)
    code, out, err = await hope_real("memory", "forget", "listed", sister)
    assert (code, out) == (1, "")
    assert f"has no statement {sister}" in err
    code, out, err = await hope_real("memory", "list", "listed")
    assert (code, out, err) == (0, "", "The session was not taught anything yet.\n")


async def test_a_document_is_named_with_the_place(real_server, hope_real, tmp_path):
    await teach(real_server.target, "reads")
    (tmp_path / "mill.txt").write_text("The mill stands on the Tern. Rolf bit the postman. ")
    code, _, err = await hope_real("ingest", str(tmp_path / "mill.txt"), "--session", "reads")
    assert code == 0, err
    code, out, _ = await hope_real("memory", "list", "reads", "--query", "Rolf")
    assert code == 0
    assert "document mill.txt, byte 28," in out


async def test_a_document_that_was_read_tells_what_was_practised(real_server, hope_real, tmp_path):
    async with HopeClient(real_server.target) as client:
        await client.sessions.create("learns", policy="default")
    file = tmp_path / "boats.txt"
    file.write_text("Nobody saw it happen. Ines has a boat called Falke. ")
    code, out, err = await hope_real("ingest", str(file), "--session", "learns")
    assert code == 0, err
    _, heading, shown = out.splitlines()
    assert heading == "Practised 1 statement of it, most surprising first:"
    assert shown.endswith(" nats, byte 21: Ines has a boat called Falke.")
    code, out, _ = await hope_real(
        "memory", "list", "learns", "--document", "boats.txt", "--rehearsed"
    )
    assert code == 0
    assert "Nobody" not in out
    assert "Ines has a boat called Falke." in out


async def test_of_a_folder_what_was_practised_is_told_once(real_server, hope_real, tmp_path):
    async with HopeClient(real_server.target) as client:
        await client.sessions.create("told-folder", policy="default")
    (tmp_path / "boats.txt").write_text("Ines has a boat called Falke. ")
    (tmp_path / "calm.txt").write_text("Nobody saw it happen. ")
    code, out, err = await hope_real("ingest", str(tmp_path), "--session", "told-folder")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[-3] == "Practised 1 statement of them, most surprising first:"
    assert lines[-2].endswith(" nats, boats.txt, byte 0: Ines has a boat called Falke.")
    assert lines[-1] == "2 documents: 2 read."


async def test_a_chat_asks_before_it_forgets(real_server):
    ids = await teach(real_server.target, "asked", *FACTS)
    environment = {**os.environ, "HOPE_SERVER": real_server.target, "TERM": "dumb"}
    chat = await processes.AtTerminal.start(*COMMAND, "chat", "asked", env=environment)
    try:
        await chat.until(b"you> ")
        chat.type(b"/forget sister\n")
        await chat.until(b"My sister is called Clara.")
        await chat.until(b"Forget this statement?")
        chat.type(b"\n")
        await chat.until(b"Nothing was forgotten.")
        await chat.until(b"you> ")
        assert await texts(real_server.target, "asked") == list(FACTS)
        chat.type(b"/forget called\n")
        await chat.until(b"Forget all 2 statements")
        chat.type(ids[0].encode() + b"\n")
        await chat.until(b"Forgot 1 statement;")
        await chat.until(b"you> ")
        assert await texts(real_server.target, "asked") == list(FACTS[1:])
        chat.type(b"/forget called\n")
        await chat.until(b"Forget this statement")
        chat.type(b"y\n")
        await chat.until(b"Forgot 1 statement;")
        await chat.until(b"you> ")
        assert await texts(real_server.target, "asked") == [FACTS[2]]
        chat.type(b"/quit\n")
        assert await processes.soon(chat.process.wait()) == 0
    finally:
        await chat.end()


async def test_a_piped_chat_forgets_nothing_and_says_so(real_server, hope_real):
    _, sister, _ = await teach(real_server.target, "piped", *FACTS)
    lines = ["/forget dog", "/forget sister", "/forget", "/quit"]
    code, out, err = await hope_real("chat", "piped", stdin="\n".join(lines))
    assert code == 0
    assert out.splitlines()[0].split(maxsplit=1) == [sister, FACTS[1]]
    assert "no statement has all of these words" in err
    assert f"hope memory forget users/local/sessions/piped {sister}" in err
    assert "Usage: /forget TEXT" in err
    assert await texts(real_server.target, "piped") == list(FACTS)


async def test_a_message_that_asks_to_forget_is_sent_and_told_apart(real_server, hope_real):
    await teach(real_server.target, "line", *FACTS)
    line = "Forget that my sister is called Clara."
    code, _, err = await hope_real("chat", "line", "--max-tokens", "2", stdin=f"{line}\nHi\n")
    assert code == 0, err
    assert err.count("nothing was forgotten") == 1
    assert "/forget TEXT" in err
    assert await texts(real_server.target, "line") == [*FACTS, line, "Hi"]


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("forget that my cat is called Bruno", True),
        ("Please forget what I said about Leeds.", True),
        ("Could you forget my name?", True),
        ("Don't forget that we meet at eight.", False),
        ("I forget that word again and again.", False),
        ("Forgetting is human.", False),
    ],
)
def test_only_a_request_to_forget_is_one(text: str, asks: bool) -> None:
    assert asks_to_forget(text) is asks


async def test_both_clients_forget(real_server):
    _, sister, _ = await teach(real_server.target, "both", *FACTS)

    def forget() -> None:
        with SyncHopeClient(real_server.target) as client:
            jobs: list[sessions_pb2.Job] = []
            found = list(client.sessions.statements("both", "sister"))
            assert [each.id for each in found] == [sister]
            client.sessions.forget_statements("both", sister, on_progress=jobs.append)
            assert jobs[-1].forget_statements.ids == [sister]
            with pytest.raises(NotFoundError) as caught:
                client.sessions.forget_statements("both", sister)
            assert caught.value.reason == "STATEMENT_NOT_FOUND"

    await processes.in_a_thread(forget)
    assert await texts(real_server.target, "both") == [FACTS[0], FACTS[2]]
