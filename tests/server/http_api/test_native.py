"""Sessions over HTTP: the methods of the API as JSON, documents as forms, sessions as files."""

from __future__ import annotations

import json
from typing import Any

import pytest
from credentials import shared_key_file, token
from gateway import NAME, Gateway, ServeHttp, user

ONE = "/v1/sessions/diary"
BOOK = b"Aldmoor lies on the Tern. Dr. Vale keeps bees there. " * 12


async def get(gateway: Gateway, path: str) -> dict[str, Any]:
    response = await gateway.client.get(path)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def post(gateway: Gateway, path: str, **body: Any) -> dict[str, Any]:
    response = await gateway.client.post(path, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def named(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event of a stream."""
    found = []
    for block in text.split("\n\n"):
        if block and block[0] != ":":
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_a_session_from_beginning_to_end(gateway: Gateway) -> None:
    made = await post(gateway, "/v1/sessions", session_id="other", policy="quick")
    assert made["session"]["name"] == "users/local/sessions/other"
    listed = await get(gateway, "/v1/sessions?page_size=1")
    assert len(listed["sessions"]) == 1
    rest = await get(gateway, f"/v1/sessions?page_token={listed['next_page_token']}")
    names = {each["name"] for each in (*listed["sessions"], *rest["sessions"])}
    assert names == {NAME, "users/local/sessions/other"}
    await gateway.chat(user("My dog is called Rolf, and he likes cheese and rain. " * 3))
    learnt = await post(gateway, f"{ONE}/consolidate")
    version = int(learnt["session"]["memory_version"])
    assert version > 0
    assert learnt["consolidations"]
    kept = await post(gateway, f"{ONE}/snapshots", snapshot_id="early")
    assert kept["snapshot"]["name"] == f"{NAME}/snapshots/early"
    score = await post(gateway, f"{ONE}/score", text="Rolf likes cheese.")
    assert score["total_nats"] > 0
    diff = await get(gateway, f"{ONE}/diff?from=0&to={version}")
    assert diff["levels"][0]["relative_norm"] > 0
    reports = await get(gateway, f"{ONE}/consolidations")
    assert reports["consolidations"]
    fork = await post(gateway, f"{ONE}/fork", session_id="copy")
    assert fork["session"]["memory_hash"] == learnt["session"]["memory_hash"]
    back = await post(gateway, f"{ONE}/rollback", version=0)
    assert back["session"]["learnable_tokens"] == "0"
    assert (await gateway.client.delete(f"{ONE}/snapshots/early")).status_code == 200
    gone = await gateway.client.delete("/v1/sessions/copy")
    assert gone.status_code == 200
    assert (await gateway.client.get("/v1/sessions/copy")).status_code == 404


async def test_an_etag_guards_a_change(gateway: Gateway) -> None:
    etag = (await gateway.client.get(ONE)).headers["etag"]
    changed = await gateway.client.patch(
        ONE, json={"display_name": "Diary"}, headers={"if-match": etag}
    )
    assert changed.status_code == 200
    assert changed.json()["session"]["display_name"] == "Diary"
    assert changed.headers["etag"] != etag
    late = await gateway.client.patch(
        ONE, json={"display_name": "Late"}, headers={"if-match": etag}
    )
    assert late.status_code == 412
    assert late.json()["error"]["code"] == "stale_etag"
    kept = await gateway.client.delete(ONE, headers={"if-match": etag})
    assert kept.status_code == 412
    assert (await gateway.api.get()).display_name == "Diary"


async def test_a_document_is_read_and_forgotten(gateway: Gateway) -> None:
    response = await gateway.client.post(
        f"{ONE}/documents", files={"file": ("book.txt", BOOK, "text/plain")}
    )
    assert response.status_code == 200
    *progress, (kind, result) = named(response.text)
    assert kind == "result"
    assert result["committed_bytes"] == len(BOOK)
    assert result["ended"]
    read = [data for name, data in progress if name == "progress"]
    assert {name for name, _ in progress} <= {"opened", "progress", "learning"}
    assert progress[0] == ("opened", {"total_bytes": len(BOOK)})
    assert "".join(each["text"] for each in read) == BOOK.decode()
    assert {each["total_bytes"] for each in read} == {len(BOOK)}
    session = await gateway.api.learnt()
    assert [each.name for each in session.documents] == ["book.txt"]
    again = await gateway.client.post(
        f"{ONE}/documents", files={"file": ("book.txt", BOOK, "text/plain")}
    )
    assert again.status_code == 400
    assert again.json()["error"]["param"] == "document"
    forgotten = await gateway.client.delete(f"{ONE}/documents/book.txt")
    assert forgotten.status_code == 200
    *jobs, (kind, after) = named(forgotten.text)
    assert kind == "session"
    assert after["documents"] == []
    assert all(name == "job" for name, _ in jobs)


async def test_a_session_travels_as_a_file(gateway: Gateway) -> None:
    await gateway.chat(user("My dog is called Rolf."))
    await post(gateway, f"{ONE}/consolidate")
    exported = await gateway.client.get(f"{ONE}/export")
    assert exported.status_code == 200
    made = await gateway.client.post(
        "/v1/sessions/import?session=twin",
        content=exported.content,
        headers={"content-type": "application/octet-stream"},
    )
    assert made.status_code == 200, made.text
    twin = await get(gateway, "/v1/sessions/twin")
    assert twin["session"]["memory_hash"] == (await gateway.api.get()).memory_hash


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("GET", "/v1/sessions/nobody", None, 404),
        ("GET", "/v1/sessions/a%20b", None, 400),
        ("GET", "/v1/sessions?page_size=many", None, 400),
        ("GET", "/v1/sessions?unknown=1", None, 400),
        ("POST", f"{ONE}/rollback", {"version": "x"}, 400),
        ("POST", f"{ONE}/rollback", {"name": "users/ada/sessions/diary", "x": 1}, 400),
        ("POST", f"{ONE}/rollback", [], 400),
        ("POST", f"{ONE}/rollback", {"version": 7}, 400),
        ("POST", f"{ONE}/fork", {"session_id": "../x"}, 400),
        ("POST", f"{ONE}/score", {"text": ""}, 400),
        ("POST", f"{ONE}/documents", {}, 415),
        ("POST", "/v1/sessions/import", {}, 400),
        ("POST", "/v1/sessions/import?session=x", {}, 415),
        ("PUT", ONE, {}, 405),
        ("POST", f"{ONE}/nothing", {}, 404),
    ],
)
async def test_wrong_requests(
    gateway: Gateway, verb: str, path: str, body: Any, status: int
) -> None:
    before = await gateway.api.get()
    response = await gateway.client.request(verb, path, json=body)
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert await gateway.api.get() == before


async def test_a_name_in_the_body_counts_for_nothing(gateway: Gateway) -> None:
    await gateway.api.on("other").create()
    renamed = await gateway.client.patch(
        ONE, json={"name": "users/local/sessions/other", "display_name": "Mine"}
    )
    assert renamed.json()["session"]["name"] == NAME


async def test_sessions_of_others_do_not_exist(serve_http: ServeHttp, tmp_path: Any) -> None:
    async with serve_http(token_key_file=shared_key_file(tmp_path)) as gateway:
        ada = {"authorization": f"Bearer {token('ada')}"}
        bob = {"authorization": f"Bearer {token('bob')}"}
        made = await gateway.client.post(
            "/v1/sessions", json={"session_id": "diary", "parent": "users/bob"}, headers=ada
        )
        assert made.json()["session"]["name"] == "users/ada/sessions/diary"
        for path in (ONE, f"{ONE}/export", f"{ONE}/snapshots"):
            assert (await gateway.client.get(path, headers=ada)).status_code == 200
            assert (await gateway.client.get(path, headers=bob)).status_code == 404
            assert (await gateway.client.get(path)).status_code == 401


async def test_statements_are_listed_and_forgotten(gateway: Gateway) -> None:
    await gateway.chat(user("My dog is called Rolf. He likes cheese."))
    page = await get(gateway, f"{ONE}/statements?page_size=1")
    rest = await get(gateway, f"{ONE}/statements?page_token={page['next_page_token']}")
    found = [*page["statements"], *rest["statements"]]
    assert [each["text"] for each in found] == ["My dog is called Rolf.", "He likes cheese."]
    assert (await get(gateway, f"{ONE}/statements?query=cheese"))["statements"] == found[1:]
    ids = {"ids": [found[0]["id"]]}
    events = named((await gateway.client.post(f"{ONE}/forget", json=ids)).text)
    assert [name for name, _ in events][-1] == "session"
    assert events[0][1]["forget_statements"] == ids
    again = await gateway.client.post(f"{ONE}/forget", json=ids)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "statement_not_found")
    assert (await get(gateway, f"{ONE}/statements"))["statements"][0]["id"] == found[1]["id"]
