"""SyncHopeClient: the same as HopeClient, from ordinary code and other threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
import time
import typing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import hope_client as hope
import pytest
from hope_client import HopeClient, Sessions, SyncHopeClient, SyncSessions
from processes import PATIENCE_SECONDS, soon
from real_server import QUICK
from scripted_server import UNAVAILABLE, Hang, ScriptedServer, delta, reply, start

TEXT = bytes(32 + number % 95 for number in range(20_500))


class ThreadedServer:
    """The scripted server on a loop of its own thread, for tests without one."""

    def __init__(self) -> None:
        self.scripted = ScriptedServer()
        self.scripted.add("users/local/sessions/diary", memory_version=4)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running = self.run(start(self.scripted))

    def run(self, work: typing.Coroutine[typing.Any, typing.Any, typing.Any]) -> typing.Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def until_cancelled(self) -> None:
        """Waits until a hanging turn is cancelled."""
        self.run(soon(self.scripted.cancelled.wait()))

    def stop(self) -> None:
        self.run(self._running.stop(None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self._loop.close()


@pytest.fixture
def threaded() -> Iterator[ThreadedServer]:
    server = ThreadedServer()
    yield server
    server.stop()


@pytest.fixture
def scripted(threaded: ThreadedServer) -> ScriptedServer:
    return threaded.scripted


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[SyncHopeClient]:
    with SyncHopeClient(scripted.target, retry=QUICK, resume=QUICK) as client:
        yield client


def public(kind: type) -> dict[str, typing.Any]:
    return {name: each for name, each in inspect.getmembers(kind) if not name.startswith("_")}


@pytest.mark.parametrize(("kind", "twin"), [(HopeClient, SyncHopeClient), (Sessions, SyncSessions)])
def test_every_method_has_its_twin(kind, twin):
    methods, twins = public(kind), public(twin)
    assert methods.keys() == twins.keys()
    for name, method in methods.items():
        theirs, ours = inspect.signature(method), inspect.signature(twins[name])
        assert ours.parameters == theirs.parameters, name
        returned = theirs.return_annotation.replace("AsyncGenerator[", "Generator[")
        if returned != theirs.return_annotation:
            returned = returned.removesuffix("]") + ", None]"
        assert ours.return_annotation == returned, name
        assert not inspect.iscoroutinefunction(twins[name]), name
        assert twins[name].__doc__, name
    theirs, ours = inspect.signature(kind), inspect.signature(twin)
    if kind is HopeClient:
        assert ours.parameters == theirs.parameters


def test_a_turn_is_an_ordinary_loop(scripted, client):
    scripted.turns.append(reply("Hel", "lo"))
    events = list(client.generate("diary", "Hi"))
    assert [type(event) for event in events] == [
        hope.TextDelta,
        hope.TextDelta,
        hope.GenerateResult,
    ]
    assert client.say("diary", "Hi", learn=False).text == "You said: Hi"
    assert scripted.requests["Generate"][1].learn_options.learn is False
    assert client.score("diary", "text").tokens == 10
    assert client.server_info().model == "tiny"


def test_sessions(scripted, client):
    for number in range(7):
        client.sessions.create(f"users/ada/sessions/s{number}")
    names = [each.name for each in client.sessions.list("ada", page_size=3)]
    assert names == [f"users/ada/sessions/s{number}" for number in range(7)]
    assert client.sessions.name("diary") == "users/local/sessions/diary"
    twin = client.sessions.import_("twin", client.sessions.export("diary"))
    assert twin.memory_version == 4
    with pytest.raises(hope.NotFoundError):
        client.sessions.get("nobody")


@pytest.mark.parametrize("kind", ["text", "path", "iterator"])
def test_an_ingest_survives_broken_streams(scripted, client, tmp_path, kind):
    scripted.ingest_breaks.extend([(3_000, UNAVAILABLE), (7_000, UNAVAILABLE)])
    path = tmp_path / "novel.txt"
    path.write_bytes(TEXT)
    source = {
        "text": TEXT.decode(),
        "path": path,
        "iterator": (TEXT[begin : begin + 700] for begin in range(0, len(TEXT), 700)),
    }[kind]
    seen: list[hope.IngestEvent] = []
    threads: set[int] = set()

    def on_progress(event: hope.IngestEvent) -> None:
        seen.append(event)
        threads.add(threading.get_ident())
        client.sessions.get("diary")  # A callback may use the client.

    result = client.ingest("diary", source, document="d", on_progress=on_progress)
    assert bytes(scripted.documents["d"]) == TEXT
    assert result.ended
    assert sum(isinstance(event, hope.Resuming) for event in seen) == 2
    assert threads == {threading.get_ident()}


def test_leaving_a_stream_cancels_the_turn(threaded, scripted, client):
    scripted.turns.append([delta("first"), Hang()])
    with contextlib.closing(client.generate("diary", "Hi")) as events:
        assert next(events).text == "first"
    threaded.until_cancelled()
    scripted.cancelled.clear()
    scripted.turns.append([delta("first"), Hang()])
    for _ in client.generate("diary", "Hi"):
        break  # Nobody holds the generator any more.
    gc.collect()
    threaded.until_cancelled()


def closed_while_streaming(threaded):
    """The events of a client that was closed behind the first one, once the server knows."""
    threaded.scripted.turns.append([delta("first"), Hang()])
    client = SyncHopeClient(threaded.scripted.target)
    events = client.generate("diary", "Hi")
    next(events)
    client.close()
    threaded.until_cancelled()
    return events


def test_closing_ends_a_stream_of_the_same_thread(threaded):
    events = closed_while_streaming(threaded)
    with pytest.raises(hope.ClientClosedError, match="create a new one"):
        next(events)


def test_closing_disturbs_no_other_client_of_the_process(threaded, scripted, caplog):
    """What ends after its client did is dropped: an error would lose other clients' replies."""
    for _ in range(20):
        closed_while_streaming(threaded)
        scripted.cancelled.clear()
    assert caplog.records == []


def test_closing_ends_what_other_threads_wait_for(threaded, scripted):
    scripted.turns.extend([[delta("first"), Hang()], [Hang()]])
    client = SyncHopeClient(scripted.target)
    events = client.generate("diary", "Hi")
    next(events)
    with ThreadPoolExecutor() as pool:
        streaming = pool.submit(next, events)
        saying = pool.submit(client.say, "diary", "Hi")
        while len(scripted.requests["Generate"]) < 2:
            time.sleep(0.01)
        client.close()
        for waiting in (streaming, saying):
            with pytest.raises(hope.ClientClosedError):
                waiting.result(PATIENCE_SECONDS)
    threaded.until_cancelled()


def test_a_closed_client_says_so(scripted, client):
    events = client.generate("diary", "Hi")  # begun too late
    client.close()
    client.close()
    with pytest.raises(hope.ClientClosedError):
        client.say("diary", "Hi")
    with pytest.raises(hope.ClientClosedError):
        client.sessions.list()
    with pytest.raises(hope.ClientClosedError):
        next(events)
    assert scripted.requests == {}


async def test_so_does_an_async_one(server):
    async with HopeClient(server.target) as client:
        server.turns.append([delta("first"), Hang()])
        events = client.generate("diary", "Hi")
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        ingesting = asyncio.create_task(client.ingest("diary", forever(), document="d"))
        await soon(server.until_committed("d", 1_000))
    for each in (waiting, ingesting):
        with pytest.raises(hope.ClientClosedError):
            await soon(each)
    with pytest.raises(hope.ClientClosedError):
        await client.sessions.get("diary")
    with pytest.raises(hope.ClientClosedError):
        await client.ingest("diary", b"x", document="d")


async def forever() -> typing.AsyncIterator[bytes]:
    while True:
        yield bytes(500)
        await asyncio.sleep(0.01)


def test_many_threads(scripted, client):
    def talk(number: int) -> list[str]:
        name = client.sessions.create(f"s{number}").name
        return [client.say(name, f"{number}.{turn}").text for turn in range(5)]

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(talk, range(8)))
    assert replies == [[f"You said: {n}.{turn}" for turn in range(5)] for n in range(8)]


async def test_within_somebody_elses_event_loop(threaded):
    """As in a notebook: the caller's loop stands still, the client's does not."""
    with SyncHopeClient(threaded.scripted.target) as client:
        assert client.say("diary", "Hi").text == "You said: Hi"


def test_an_iterator_of_the_client_cannot_wait_for_it(client):
    async def pieces() -> typing.AsyncIterator[bytes]:
        yield client.say("diary", "Hi").text.encode()

    with pytest.raises(RuntimeError, match="cannot wait for that client"):
        client.ingest("diary", pieces(), document="d")


def test_what_the_constructor_raises_reaches_the_caller():
    with pytest.raises(AttributeError):
        SyncHopeClient(3)
    assert not [each for each in threading.enumerate() if each.name == "hope-client"]


def test_a_client_that_nobody_holds_ends_its_thread(scripted):
    before = threading.active_count()
    client = SyncHopeClient(scripted.target)
    client.say("diary", "Hi")
    assert threading.active_count() > before
    del client
    gc.collect()
    assert not [each for each in threading.enumerate() if each.name == "hope-client"]
