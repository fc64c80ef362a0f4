"""A line of the log for every request: method, outcome, seconds, the session's tag, its version.

The outermost interceptor, so that it sees what callers see.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.grpc_api.interceptors.base import PROBES, CallInterceptor, Context
from server.grpc_api.interceptors.call_info import CallInfo
from server.telemetry.logs import FIELDS, new_number, request_number

_log = logging.getLogger("server.requests")


class RequestLogInterceptor(CallInterceptor):
    """Logs every call when it has ended, but for probes, which would drown everything else."""

    def covers(self, path: str) -> bool:
        return not path.startswith(PROBES)

    @asynccontextmanager
    async def around(self, path: str, context: Context) -> AsyncIterator[CallInfo]:
        request_number.set(new_number())
        call, started = CallInfo(context), time.monotonic()
        error: BaseException | None = None
        try:
            yield call
        except BaseException as ended:
            error = ended
            raise
        finally:
            method = path.rpartition("/")[2]
            fields: dict[str, str | int | float] = {
                "method": method,
                "code": call.code(error),
                "seconds": round(time.monotonic() - started, 4),
            }
            if call.session is not None:
                fields["session"] = call.session
            if call.version is not None:
                fields["version"] = call.version
            _log.info("%s %s", method, fields["code"], extra={FIELDS: fields})
