"""What tests of statements share: facts, teaching them, and all that a session keeps of them."""

from __future__ import annotations

from api import Api
from serving import Served

from hope_runtime.session.memory import SessionMemory
from server.app.session_log import read_log
from server.store.base import SessionKey

SISTER = "My sister is called Clara."
FACTS = ("My cat is called Bruno.", SISTER, "I live in Leeds.")
BOOK = "The river Tern runs past the mill. Rolf bit the postman twice. Nobody saw it happen. "


async def teach(api: Api, *texts: str) -> None:
    """Each text in a conversation of its own, whose end is when it is learnt."""
    for index, text in enumerate(texts):
        await api.say(text, conversation=f"talk{index}", max_tokens=2)
        await api.end_conversation(conversation=f"talk{index}")


async def ids_of(api: Api, query: str) -> list[str]:
    return [each.id for each in await api.statements(query)]


async def memory_of(served: Served, api: Api) -> SessionMemory:
    """What the store holds of the session."""
    sessions = served.running.sessions
    key = SessionKey("ada", api.name.rpartition("/")[2])
    return sessions.decode(await sessions.store.read_blobs(key))


def same_learning(one: SessionMemory, other: SessionMemory) -> bool:
    """Whether all that learning made is the same to the bit."""
    return one.levels_digest() == other.levels_digest() and (
        one.observed_tokens,
        one.pending,
        one.buffer,
        one.flushes,
    ) == (other.observed_tokens, other.pending, other.buffer, other.flushes)


async def knows(served: Served, api: Api, text: str) -> bool:
    """Whether a text is anywhere in what the session keeps or an export of it."""
    tokenizer = served.running.sessions.tokenizer
    memory = await memory_of(served, api)
    texts = [tokenizer.decode(span.ids) for span in (*memory.pending, *memory.buffer)]
    texts += [tokenizer.decode(each.window.tokens) for each in memory.conversations.values()]
    copy = api.on("searched")
    await copy.import_(await api.export())
    log = await read_log(served.running.sessions, SessionKey("ada", "searched"))
    await copy.delete()
    texts += [tokenizer.decode(record.tokens) for record in log]
    tails = [record.tail for record in log] + [item.tail for item in memory.documents.values()]
    return any(text in each for each in texts) or any(text.encode() in tail for tail in tails)
