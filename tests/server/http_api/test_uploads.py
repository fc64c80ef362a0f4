"""Documents uploaded over HTTP: every kind is read, and what cannot be read changes nothing."""

from __future__ import annotations

import json
from typing import Any

import documents
import pytest
from gateway import Gateway

PATH = "/v1/sessions/diary/documents"
TOWN = "Aldmoor lies on the Tern. Dr. Vale keeps bees there. Tobias Wren is the mayor of it. "


async def upload(gateway: Gateway, name: str, data: bytes) -> Any:
    return await gateway.client.post(PATH, files={"file": (name, data)})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("town.md", TOWN.encode()),
        ("town.pdf", documents.pdf([TOWN[:52], TOWN[53:]])),
        ("town.docx", documents.word(TOWN)),
        ("town.html", documents.html(TOWN)),
    ],
)
async def test_kinds_of_documents(gateway: Gateway, name: str, data: bytes) -> None:
    response = await upload(gateway, name, data)
    assert response.status_code == 200, response.text
    texts = [
        json.loads(line.removeprefix("data: ")).get("text", "")
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]
    assert TOWN.strip() in "".join(texts).replace("\n", " ")
    (known,) = (await gateway.api.learnt()).documents
    assert (known.name, known.ended) == (name, True)


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("a.pdf", b"%PDF-1.7 ...", 422, "document_unreadable"),
        ("a.pdf", documents.pdf([]), 422, "document_unreadable"),
        ("a.pdf", documents.locked_pdf(["x"], password="s"), 422, "document_unreadable"),
        ("a.pdf", documents.pdf_bomb(256 << 20), 413, "request_too_large"),
        ("a.docx", b"PK\x03\x04" + b"\0" * 100, 422, "document_unreadable"),
        ("a.docx", documents.word("x", padding=300 << 20), 413, "request_too_large"),
        ("a.zip", b"PK\x03\x04" + b"\0" * 100, 415, "unsupported_media_type"),
        ("a.png", b"\x89PNG\r\n\x1a\n", 415, "unsupported_media_type"),
        ("a.html", b"<html></html>", 422, "document_unreadable"),
        ("a.txt", b"", 400, "invalid_request"),
        ("a.txt", b"caf\xe9", 400, "invalid_request"),
        ("a" * 300, b"text", 400, "invalid_request"),
    ],
)
async def test_documents_that_are_refused(
    gateway: Gateway, name: str, data: bytes, status: int, code: str
) -> None:
    before = await gateway.api.get()
    response = await upload(gateway, name, data)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"][-1] in ".!?"
    assert await gateway.api.get() == before


async def test_names_of_documents_are_names_only(gateway: Gateway) -> None:
    """A path or markup in a name leads nowhere: it is stored and told as it is."""
    name = "../<b>notes</b>.txt"
    response = await upload(gateway, name, TOWN.encode())
    assert response.status_code == 200
    (known,) = (await gateway.api.learnt()).documents
    assert known.name == name


async def test_a_budget_is_a_number_that_the_policy_knows(gateway: Gateway) -> None:
    for budget in ("much", "-1", "1e9", "nan", "2"):  # this server's policy knows none
        response = await gateway.client.post(
            PATH, files={"file": ("town.md", TOWN.encode())}, headers={"Hope-Budget": budget}
        )
        assert response.status_code == 400, response.text
        assert response.json()["error"]["code"] == "invalid_request"
