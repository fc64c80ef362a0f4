"""The console's files: their headers, and that they ask nobody else for anything."""

from __future__ import annotations

import re

import pytest
from credentials import shared_key_file
from gateway import Gateway, ServeHttp

from server.http_api.pages import FILES

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


async def test_the_page_and_its_files(gateway: Gateway) -> None:
    page = await gateway.client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == (FILES / "index.html").read_bytes()
    for path in FILES.iterdir():
        response = await gateway.client.get(f"/console/{path.name}")
        assert response.status_code == 200, path
        kind = TYPES[path.suffix[1:]]
        assert response.headers["content-type"].startswith(kind)
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_browser_is_told_to_load_nothing_else(gateway: Gateway) -> None:
    headers = (await gateway.client.get("/")).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for kind in ("script-src", "style-src", "connect-src"):
        assert policy[kind] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["referrer-policy"] == "no-referrer"


def test_no_file_names_another_host_or_makes_markup() -> None:
    for path in FILES.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|url\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(| style=", text), path


def test_every_file_is_used() -> None:
    """Each is named by the page or by another file, and no import leads nowhere."""
    names = {path.name for path in FILES.iterdir()}
    used = {"index.html"}
    for path in FILES.iterdir():
        used |= set(re.findall(r"[\"'](?:\./|console/)([\w.]+)[\"']", path.read_text("utf-8")))
    assert used == names


async def test_a_file_is_sent_again_only_when_it_changed(gateway: Gateway) -> None:
    first = await gateway.client.get("/console/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = await gateway.client.get(
        "/console/main.js", headers={"if-none-match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    other = await gateway.client.get("/console/main.js", headers={"if-none-match": '"x"'})
    assert other.status_code == 200


async def test_the_page_needs_no_credential(serve_http: ServeHttp, tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with serve_http(token_key_file=shared_key_file(tmp_path)) as gateway:
        assert (await gateway.client.get("/")).status_code == 200
        assert (await gateway.client.get("/v1/sessions")).status_code == 401


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE"])
async def test_it_is_only_read(gateway: Gateway, verb: str) -> None:
    assert (await gateway.client.request(verb, "/console/main.js")).status_code == 405
