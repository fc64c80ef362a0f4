"""Text that is not Unicode is refused with a typed error, whichever method it is given to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import hope_client as hope
import pytest
from hope_client import HopeClient

HALF = "a\ud83db"


async def items(stream):
    return [item async for item in stream]


CALLS: dict[str, Callable[[HopeClient], Awaitable[object]]] = {
    "say": lambda client: client.say("diary", HALF),
    "generate": lambda client: items(client.generate("diary", "Hi", conversation=HALF)),
    "a request id": lambda client: client.say("diary", "Hi", request_id=HALF),
    "a session": lambda client: client.say(HALF, "Hi"),
    "score": lambda client: client.score("diary", HALF),
    "a document's text": lambda client: client.ingest("diary", HALF, document="d"),
    "a document's name": lambda client: client.ingest("diary", b"x", document=HALF),
    "create": lambda client: client.sessions.create(HALF),
    "list": lambda client: items(client.sessions.list(HALF)),
    "rename": lambda client: client.sessions.rename("diary", HALF),
    "forget": lambda client: client.sessions.forget_document("diary", HALF),
}


@pytest.mark.parametrize("name", CALLS)
async def test_half_a_surrogate_pair(server, client, name: str) -> None:
    with pytest.raises(hope.InvalidRequestError, match="U\\+D83D, half of a surrogate pair"):
        await CALLS[name](client)
    assert not server.requests["Generate"]
    assert not server.documents


async def test_whole_pairs_and_rare_characters_pass(server, client) -> None:
    for text in ("\U0001f63a", "a\ufffdb", "\ue000", "\x00\x7f"):
        assert (await client.say("diary", text)).text == f"You said: {text}"


async def test_a_command_line_that_is_not_utf8(spawn) -> None:
    for words in (
        ["generate", "diary", b"caf\xe9"],
        ["score", "diary", "-", "--context", b"\xff"],
        ["sessions", "rename", "diary", b"\xc3("],
        ["sessions", "show", b"\xff"],
    ):
        process = await spawn(*words)
        out, err = await process.communicate(b"Hi")
        assert process.returncode == 1, (words, err)
        assert out == b""
        assert err.startswith(b"hope: ")
        assert err.count(b"\n") == 1
