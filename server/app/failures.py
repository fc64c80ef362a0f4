"""Failures: an exception as the caller of a request sees it, whatever the transport.

error_codes.py says what each exception means. One that it does not know is a bug: it is logged in
full, and the caller is told only the reference of the log entry.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from hope_runtime.errors import InvalidRequestError
from server.app.error_codes import INTERNAL, ErrorCode, code_of
from server.app.quotas import QuotaExceededError
from server.app.residency import JobRunningError
from server.store.base import LeaseHeldError
from server.telemetry.logs import new_number, request_number

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A refused or failed request. `message` is a sentence; `field` names the invalid part of the
    request, if one is; trying again makes sense after `retry_seconds`, if that is not None."""

    code: ErrorCode
    message: str
    field: str = ""
    retry_seconds: float | None = None


def failure_of(error: Exception) -> Failure:
    """The failure that an exception means."""
    code = code_of(error)
    if code is INTERNAL:
        reference = request_number.get() or new_number()
        _log.error("unexpected error %s", reference, exc_info=error)
        return Failure(code, f"The server failed; its log has the cause under {reference}.")
    retry_seconds = code.retry_seconds
    if isinstance(error, LeaseHeldError):
        retry_seconds = error.remaining_seconds
    if isinstance(error, QuotaExceededError | JobRunningError):
        retry_seconds = error.retry_seconds
    field = error.field if isinstance(error, InvalidRequestError) else ""
    return Failure(code, sentence(str(error) or code.meaning), field, retry_seconds)


def sentence(message: str) -> str:
    """The message as a sentence; a name or an identifier that it begins with stays as it is."""
    start, *_ = message.split(maxsplit=1)
    if start.isalpha() and start.islower():
        message = message[0].upper() + message[1:]
    return message if message.endswith((".", "!", "?")) else f"{message}."
