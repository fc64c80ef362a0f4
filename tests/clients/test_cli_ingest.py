"""`hope ingest`: which document it is, and servers that are not there."""

from __future__ import annotations

import io
import json

import grpc
import hope_client
import pytest
from documents_to_read import ADA, IDA, REX, words
from processes import soon
from scripted_server import UNAVAILABLE, Failure

DIFFERS = "hope: the session has a different document {} of {} bytes; name this one with "


# The same name, another document


@pytest.mark.parametrize(
    "other", [REX, IDA, ADA[:-1], ADA + b"And more.", b"", ADA.replace(b"\n", b" ")]
)
@pytest.mark.parametrize("piped", [False, True])
async def test_another_document_of_a_name_that_was_read(server, hope, tmp_path, other, piped):
    server.documents["notes.txt"] += ADA
    server.ended.add("notes.txt")
    path = tmp_path / "notes.txt"
    path.write_bytes(other)
    command = words("-", more=["--document", "notes.txt"]) if piped else words(path)
    code, out, err = await hope(*command, stdin=other if piped else b"")
    assert (code, out) == (1, "")
    assert err.startswith(DIFFERS.format("notes.txt", len(ADA)) if other else "hope: ")
    assert err.count("\n") == 1
    assert not server.requests["Ingest"]
    assert server.documents["notes.txt"] == ADA


@pytest.mark.parametrize("piped", [False, True])
async def test_the_same_document_again(server, hope, tmp_path, piped):
    server.documents["notes.txt"] += ADA
    server.ended.add("notes.txt")
    path = tmp_path / "notes.txt"
    path.write_bytes(b"\xef\xbb\xbf" + ADA)  # a byte order mark is not part of it
    command = words("-", more=["--document", "notes.txt"]) if piped else words(path)
    code, out, err = await hope(*command, stdin=ADA if piped else b"")
    assert (code, out, err) == (0, "notes.txt was already read completely (22 bytes).\n", "")


async def test_what_an_older_server_read_is_compared_by_its_size(server, hope, tmp_path):
    server.digests = False
    server.documents["notes.txt"] += ADA
    server.ended.add("notes.txt")
    path = tmp_path / "notes.txt"
    path.write_bytes(REX)
    assert (await hope(*words(path)))[0] == 0
    path.write_bytes(REX + b"more")
    assert (await hope(*words(path)))[0] == 1


@pytest.mark.parametrize("piped", [False, True])
async def test_a_document_that_was_changed_since_it_was_interrupted(
    server, hope, spawn, tmp_path, piped
):
    server.documents["book.txt"] += b"a" * 2_000
    path = tmp_path / "book.txt"
    path.write_bytes(b"a" * 1_999 + b"b" * 3_000)
    if piped:
        process = await spawn(*words("-", more=["--document", "book.txt"]))
        out, err = await soon(process.communicate(path.read_bytes()))
        assert process.returncode == 1
        error = err.decode().splitlines()[-1]
    else:
        code, out, error = await hope(*words(path))
        assert code == 1
    assert not out
    assert error.startswith(DIFFERS.format("book.txt", "2,000"))
    assert server.documents["book.txt"] == b"a" * 2_000
    path.write_bytes(b"a" * 5_000)
    assert (await hope(*words(path)))[0] == 0
    assert server.documents["book.txt"] == b"a" * 5_000


async def test_a_document_that_is_changed_while_a_broken_call_is_resumed(
    server, client, hope, tmp_path
):
    path = tmp_path / "book.txt"
    path.write_bytes(b"a" * 9_000)
    server.ingest_breaks.append((3_000, UNAVAILABLE))
    with pytest.raises(hope_client.FailedPreconditionError) as caught:
        await client.ingest(
            "diary",
            path,
            on_progress=lambda _: path.write_bytes(b"b" * 9_000),
        )
    assert caught.value.reason == "DOCUMENT_DIFFERS"
    assert set(server.documents["book.txt"]) == {ord("a")}
    assert "book.txt" not in server.ended


class EditedBehind(io.BytesIO):
    """A file whose beginning is another one as soon as its end was read."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data:
            with self.getbuffer() as content:
                content[0] = ord("b")
        return data


async def test_a_document_that_is_changed_while_it_is_read(server, client):
    reading = EditedBehind(b"a" * 9_500)
    with pytest.raises(hope_client.FailedPreconditionError) as caught:
        await client.ingest("diary", reading, document="book.txt", chunk_bytes=4_000)
    assert caught.value.reason == "DOCUMENT_DIFFERS"
    assert "book.txt" not in server.ended


@pytest.mark.parametrize("state", ["ended", "open"])
@pytest.mark.parametrize("piped", [False, True])
async def test_replace(server, hope, spawn, tmp_path, state, piped):
    server.documents["notes.txt"] += ADA
    if state == "ended":
        server.ended.add("notes.txt")
    path = tmp_path / "notes.txt"
    path.write_bytes(REX * 9)
    more = ["--replace", *(["--document", "notes.txt"] if piped else [])]
    command = words("-" if piped else path, more=more)
    code, out, err = await hope(*command, stdin=REX * 9 if piped else b"")
    assert code == 0, err
    assert out.startswith("Read notes.txt: 198 B")
    assert "Forgetting the other notes.txt" in err
    assert [each.document for each in server.requests["ForgetDocument"]] == ["notes.txt"]
    assert server.documents["notes.txt"] == REX * 9
    # What is there already is not forgotten to be read again.
    assert (await hope(*command, stdin=REX * 9 if piped else b""))[0] == 0
    assert len(server.requests["ForgetDocument"]) == 1


async def test_replace_goes_on_with_the_same_document(server, hope, tmp_path):
    server.documents["book.txt"] += b"a" * 2_000
    path = tmp_path / "book.txt"
    path.write_bytes(b"a" * 5_000)
    code, _, err = await hope(*words(path, more=["--replace"]))
    assert (code, err) == (0, "Resuming book.txt at byte 2,000 of 5,000.\n")
    assert not server.requests["ForgetDocument"]


async def test_json_tells_that_a_document_differs(server, hope, tmp_path):
    server.documents["notes.txt"] += ADA
    server.ended.add("notes.txt")
    (tmp_path / "notes.txt").write_bytes(REX)
    code, out, _ = await hope(*words(tmp_path / "notes.txt", more=["--json"]))
    assert code == 1
    assert json.loads(out)["error"]["reason"] == "DOCUMENT_DIFFERS"


# A server that is not there


async def test_a_server_that_restarts_is_waited_for(server, client):
    """The look-up of where to go on fails as often as the calls do."""
    patient = hope_client.RetryPolicy(
        attempts=2, initial_seconds=0.01, maximum_seconds=0.02, patience_seconds=60
    )
    once = hope_client.RetryPolicy(attempts=1)
    server.ingest_breaks.append((2_000, UNAVAILABLE))
    server.failures["GetSession"].extend([UNAVAILABLE] * 30)
    seen: list[object] = []
    async with hope_client.HopeClient(server.target, retry=once, resume=patient) as other:
        await other.ingest("diary", b"a" * 5_000, document="d", on_progress=seen.append)
    assert server.documents["d"] == b"a" * 5_000
    assert sum(isinstance(each, hope_client.Resuming) for each in seen) == 31


async def test_what_is_waited_for_is_said(server, hope, tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes(b"a" * 5_000)
    held = Failure(
        grpc.StatusCode.UNAVAILABLE, "Another server has it", "SESSION_OWNED_ELSEWHERE",
        retry_after_seconds=0.01, when_all_is_sent=True,
    )  # fmt: skip
    server.ingest_breaks.append((1_000, held))
    code, _, err = await hope(*words(path))
    assert code == 0
    assert "Another server has it" in err
    assert "Trying again in" in err
