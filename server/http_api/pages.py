"""The console: static files at `/`, which ask the native routes for everything else.

They need no credential, as they hold nothing of anybody. Nothing is loaded from another host, and
the content policy makes browsers refuse it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FILES = Path(__file__).with_name("console")
INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    # A file is asked for again whenever it is used, and sent only when it changed.
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Page:
    content: bytes
    media_type: str
    etag: str


def page_routes() -> list[Route]:
    """The routes of the console: `/`, and a file for each of its parts. They are read once."""
    pages = {path.name: _read(path) for path in FILES.iterdir() if path.suffix in _TYPES}
    routes = [_route(f"/console/{name}", page) for name, page in pages.items()]
    return [_route("/", pages[INDEX]), *routes]


def _read(path: Path) -> _Page:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return _Page(content, _TYPES[path.suffix], f'"{digest}"')


def _route(path: str, page: _Page) -> Route:
    headers = {**_HEADERS, "etag": page.etag}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == page.etag:
            return Response(status_code=304, headers=headers)
        return Response(page.content, headers=headers, media_type=page.media_type)

    return Route(path, answer, methods=["GET"])
