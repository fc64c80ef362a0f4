"""`hope chat`: from a pipe, at a terminal, its commands, and Ctrl-C."""

from __future__ import annotations

import asyncio
import signal

import grpc
from hope.v1 import inference_pb2 as pb
from processes import soon
from scripted_server import Failure, Hang, delta, status

DIARY = "users/local/sessions/diary"


async def test_chat_from_a_pipe(server, hope):
    code, out, err = await hope("chat", "fresh", "--system", "Be brief.", stdin="Hi\n\n//path\n")
    assert (code, out) == (0, "You said: Hi\nYou said: /path\n")
    assert err == "New session users/local/sessions/fresh; type /help for commands.\n"
    first, second = server.requests["Generate"]
    assert [message.content for message in first.messages] == ["Be brief.", "Hi"]
    assert [message.content for message in second.messages] == ["/path"]
    assert first.conversation == "default"


async def test_chat_commands(server, hope, tmp_path):
    path = tmp_path / "novel.txt"
    path.write_text("Once upon a time")
    server.add("users/local/sessions/d2")
    lines = [
        "/new",
        "Hi",
        "/new evening",
        "/read-only",
        "Psst",
        "/read-only",
        f"/ingest {path}",
        "/drift",
        "/rollback 3",
        "/rollback x",
        "/fork twin",
        "Hello",
        "/fork",
        "/drift x",
        "/nonsense",
        "/help",
        "/quit",
        "never said",
    ]
    code, out, err = await hope("chat", "diary", stdin="\n".join(lines))
    assert code == 0
    assert "30 spans, surprise 4.1 -> 0.3" in out
    assert "Read novel.txt: 16 B" in out
    assert "Rolled back to version 3; the session is now at version 5." in out
    assert "Forked at version 5; this chat continues in users/local/sessions/twin." in out
    assert "/rollback [VERSION]" in out
    assert "Nothing was said yet" in err
    assert "VERSION must be a number" in err
    assert err.count("Usage: /fork NAME") == err.count("Usage: /drift") == 1
    assert "Unknown command /nonsense" in err
    said = [
        (turn.session.rsplit("/")[-1], turn.conversation, turn.learn_options.HasField("learn"))
        for turn in server.requests["Generate"]
    ]
    assert said == [
        ("diary", "default", False),
        ("diary", "evening", True),
        ("twin", "evening", False),
    ]
    [ended] = server.requests["EndConversation"]
    assert (ended.name, ended.conversation) == (DIARY, "default")


async def test_a_failed_turn_fails_a_piped_chat(server, hope):
    busy = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too busy", retry_after_seconds=0.9)
    server.turns.append([busy])
    code, out, err = await hope("chat", "diary", stdin="Hi\nnever said\n")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "hope: Too busy; retry in 1 s"


async def test_ctrl_c_cancels_a_turn(server, spawn):
    server.turns.append([delta("half"), Hang()])
    process = await spawn("chat", "diary")
    process.stdin.write(b"Hi\n")
    assert await soon(process.stdout.readexactly(4)) == b"half"
    process.send_signal(signal.SIGINT)
    await soon(server.cancelled.wait())
    err = await soon(process.stderr.read())
    assert await soon(process.wait()) == 130
    assert err.decode().splitlines()[-1] == "Cancelled; this turn was discarded."


async def test_chat_at_a_terminal(server, at_terminal):
    """Ctrl-C during a reply keeps the chat; at the prompt the second one leaves."""
    server.turns.append([status(pb.STATUS_LEARNING), delta("half\x1b[2J"), Hang()])
    chat = await at_terminal("chat", "diary")
    await chat.until(b"you> ")
    chat.type(b"Hi\n")
    await chat.until(b"hope> half[2J")
    chat.type(b"\x03")
    await chat.until(b"was discarded")
    await chat.until(b"you> ")
    chat.type(b"Again\n")
    await chat.until(b"hope> You said: Again")
    await chat.until(b"you> ")
    chat.type(b"/read-only\n")
    await chat.until(b"you (read-only)> ")
    # The prompt is shown just before the line editor takes over; nobody is faster than that.
    await asyncio.sleep(1)
    chat.type(b"\x03")
    await chat.until(b"Ctrl-C again")
    await chat.until(b"> ")
    chat.type(b"\x03")
    assert await soon(chat.process.wait()) == 130


async def test_a_window_that_began_anew_is_said(server, hope):
    def turn(**fields: object) -> list[pb.GenerateResponse]:
        result = pb.GenerateResult(text="Yes.", **fields)
        return [pb.GenerateResponse(result=result)]

    server.sessions[DIARY].conversations.append("default")
    server.turns.extend(
        [
            turn(),
            turn(window_began=True),
            turn(window_began=True, replayed=True),
            turn(dropped_conversation="evening"),
        ]
    )
    code, out, err = await hope("chat", "diary", stdin="1\n2\n3\n4\n")
    assert code == 0
    assert out == "Yes.\n" * 4
    assert err.count("the window of conversation default began anew") == 1
    assert err.count("conversation evening lost its window") == 1


async def test_a_window_that_begins_is_no_news(server, hope):
    result = pb.GenerateResult(text="Yes.", window_began=True)
    server.turns.append([pb.GenerateResponse(result=result)])
    _, _, err = await hope("chat", "diary", stdin="1\n")
    assert "began anew" not in err
