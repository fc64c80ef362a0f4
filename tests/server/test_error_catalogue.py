"""Every error has a status, a reason code and a documented remedy, and its text is plain English.

Run as a script, this file prints the tables of docs/errors.md.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc import code_pb2, error_details_pb2

import server
from hope_runtime import errors as runtime
from server.app.error_codes import CATALOGUE, INTERNAL, REASONS, TERMINAL, code_of
from server.app.histories import UnknownTurnError
from server.app.quotas import QuotaExceededError
from server.app.residency import JobRunningError
from server.auth import tokens
from server.crypto.cipher import UnsealError
from server.crypto.keys import KeysUnavailableError, LostMasterKeyError
from server.grpc_api.errors import to_status
from server.http_api.errors import HttpError
from server.store import base as store
from server.store.values import Lease, SessionKey

ROOT = Path(__file__).parents[2]

# Classes that reach neither a caller nor a terminal as they are.
NEVER_SHOWN = {
    runtime.HopeError: "base class",
    runtime.StateError: "base class",
    runtime.OptimiserError: "base class",
    store.StoreError: "base class",
    UnsealError: "becomes CorruptBlobError, which names the blob",
    KeysUnavailableError: "becomes StoreUnavailableError",
    LostMasterKeyError: "becomes CorruptStoreError",
    tokens._UnusableKeyError: "becomes KeyFileError, if no key is left",
    UnknownTurnError: "becomes HttpError, which names the remedy",
    HttpError: "a refusal of HTTP's own, with its status",
}

KEY = SessionKey("ada", "diary")
EXAMPLES = {
    error.__class__: error
    for error in (
        store.LeaseHeldError(KEY, "other", 2.5),
        store.LeaseLostError(Lease(key=KEY, owner="me", fence=7, expires_at=0.0)),
        store.StaleRevisionError(KEY, "1", "2"),
        store.CorruptBlobError(KEY, "level.0", "its digest differs"),
        runtime.DivergedStateError("a message", rows=(0,)),
        QuotaExceededError("users/ada", "a message"),
        JobRunningError("a message", 3.0),
    )
}


def tables() -> Iterator[str]:
    """Lines of the tables of docs/errors.md."""
    yield "| reason | status | meaning | remedy |"
    yield "|---|---|---|---|"
    for code in CATALOGUE.values():
        status = code_pb2.Code.Name(code.status)
        yield f"| `{code.reason}` | `{status}` | {code.meaning} | {code.remedy} |"
    yield "| error | remedy |"
    yield "|---|---|"
    for kind, remedy in TERMINAL:
        yield f"| `{kind.__name__}` | {remedy} |"


def error_classes() -> Iterator[type[Exception]]:
    """The exception classes that hope_runtime/errors.py and the modules of the server define."""
    names = [info.name for info in pkgutil.walk_packages(server.__path__, "server.")]
    for name in ["hope_runtime.errors", *names]:
        module = importlib.import_module(name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == name:
                yield kind


@pytest.mark.parametrize("kind", list(error_classes()), ids=lambda kind: kind.__name__)
def test_every_error_class_has_an_entry(kind: type[Exception]) -> None:
    ends_a_command = any(issubclass(kind, each) for each, _ in TERMINAL)
    assert (code_of(kind) is not INTERNAL) + ends_a_command + (kind in NEVER_SHOWN) == 1


@pytest.mark.parametrize("kind", [kind for kind, _ in REASONS], ids=lambda kind: kind.__name__)
def test_the_wire_tells_the_reason_and_the_delay(kind: type[Exception]) -> None:
    error = EXAMPLES.get(kind) or kind("a message")
    code = code_of(kind)
    status = to_status(error)
    assert (status.code, code.reason) == (code.status, dict(REASONS)[kind])
    assert status.message.endswith(".")
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == code.reason
    retry = any(each.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for each in status.details)
    assert retry == (code.retry_seconds is not None or kind is JobRunningError)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("the document is empty", "The document is empty."),
        ("page_token is invalid", "page_token is invalid."),
        ("'x' is not a user name", "'x' is not a user name."),
        ("vLLM is not ready", "vLLM is not ready."),
    ],
)
def test_the_wire_makes_a_sentence_of_a_message(message: str, sentence: str) -> None:
    assert to_status(runtime.InvalidRequestError(message)).message == sentence


def test_no_class_hides_a_more_specific_one() -> None:
    for table in (REASONS, TERMINAL):
        kinds = [kind for kind, _ in table]
        for place, kind in enumerate(kinds):
            assert not any(issubclass(kind, earlier) for earlier in kinds[:place]), kind


def test_every_reason_is_used() -> None:
    assert {reason for _, reason in REASONS} | {INTERNAL.reason} == set(CATALOGUE)
    assert all(code_pb2.Code.Name(code.status) != "OK" for code in CATALOGUE.values())


@pytest.mark.parametrize(
    "text",
    [text for code in CATALOGUE.values() for text in (code.meaning, code.remedy)]
    + [remedy for _, remedy in TERMINAL],
)
def test_meanings_and_remedies_are_sentences(text: str) -> None:
    assert re.fullmatch(r"[A-Z][^\n|]+\.", text)
    assert not list(faults(text))


def test_the_page_shows_the_catalogue() -> None:
    page = (ROOT / "docs/errors.md").read_text("utf-8").splitlines()
    assert [line for line in page if line.startswith("|")] == list(tables())


# Texts in the code

PACKAGES = ("server", "hope_runtime", "hope_lab", "clients/python/hope_client", "benchmarks")
# Rewritten on its own.
NOT_YET = (ROOT / "hope_runtime/learning",)
RIDDLES = (
    r"(?<!\bthere )\b(is|are) (no|none)\b",
    r"\bthere (is|are) (no )?such\b",
    r"\bwhat (is|was|it|became)\b",
    r"\bno such\b",
    r"\bwhoever\b",
    r"\bnot known\b",
    r"\bmakes? no sense\b",
    r"\bgoe?s? on\b",
    r"\btry again\b",
    r"\bexclude each other\b",
    r"\bso (long|often|many)\b",
    r"\bnobody\b",
    r"\blacks\b",
)


def faults(text: str) -> Iterator[str]:
    """Words that house style replaces by plainer ones."""
    for riddle in RIDDLES:
        if found := re.search(riddle, text, re.IGNORECASE):
            yield f"plainer words for {found[0]!r}"


def error_faults(text: str) -> Iterator[str]:
    """Deviations of a message from its form: lower case, one sentence, no full stop at the end."""
    yield from faults(text)
    first = re.split(r"\W", text, maxsplit=1)[0]
    if first[:1].isupper() and not first.isupper():
        yield "begins with a capital letter"
    if text.endswith((".", "!", " ", "\n")) or "\n" in text or "  " in text:
        yield "ends with a full stop, or has a line break or two spaces"
    if re.search(r"\w\. [A-Z]", text):
        yield "is more than one sentence; join them with a semicolon"


def literal(node: ast.expr) -> str | None:
    """A text written in the code, `{}` for its placeholders; None for an identifier or no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
        text = "".join(map(str, parts))
    else:
        return None
    return text if " " in text else None


def texts(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The kind, `error`, `log` or `help`, and the node of each text for users or operators."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(node.func, ast.Name):
            name = node.func.id
        if name.endswith("Error") and node.args:
            yield "error", node.args[0]
        elif isinstance(owner, ast.Name) and owner.id == "_log" and node.args:
            yield "log", node.args[0]
        elif name in ("print", "note") and node.args:
            yield "help", node.args[0]
        for keyword in node.keywords:
            if keyword.arg in ("help", "description"):
                yield "help", keyword.value


def sources() -> list[Path]:
    found = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [file for file in found if not any(map(file.is_relative_to, NOT_YET))]


def test_texts_are_plain_english() -> None:
    wrong, seen = [], {"error": 0, "log": 0, "help": 0}
    for file in sources():
        for kind, node in texts(ast.parse(file.read_text("utf-8"))):
            if (text := literal(node)) is None:
                continue
            seen[kind] += 1
            found = faults(text) if kind == "help" else error_faults(text)
            place = f"{file.relative_to(ROOT)}:{node.lineno}"
            wrong += [f"{place}: {fault}: {text}" for fault in found]
    assert not wrong, "\n".join(wrong)
    # The walk found the texts: some hundred errors, and each kind.
    assert seen["error"] > 300
    assert seen["log"] > 10
    assert seen["help"] > 100


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("'{}' is no session", "plainer words"),
        ("page_token is none that this method gave", "plainer words"),
        ("The session is gone", "capital letter"),
        ("the session is gone.", "full stop"),
        ("the session is gone. It was deleted", "more than one sentence"),
    ],
)
def test_the_check_finds(text: str, fault: str) -> None:
    assert any(fault in each for each in error_faults(text))


if __name__ == "__main__":
    print("\n".join(tables()))
