"""The TypeScript client in a process of Node, asked from Python."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from pathlib import Path
from typing import Any

import processes

DRIVER = Path(__file__).with_name("driver.mjs")
QUICK = {"attempts": 4, "initialSeconds": 0.01, "maximumSeconds": 0.05}


class NodeError(Exception):
    """An error that the client threw."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["message"])
        self.name: str = fields["name"]
        self.fields = fields


def in_bytes(data: bytes) -> dict[str, str]:
    """An argument of bytes."""
    return {"$bytes": base64.b64encode(data).decode()}


def pieces(*data: bytes) -> dict[str, Any]:
    """An argument that gives pieces of a document once."""
    return {"$pieces": [in_bytes(piece) for piece in data]}


class NodeClient:
    """A HopeClient of TypeScript. Methods have the names that they have there."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, module: Path, target: str, **options: Any) -> NodeClient:
        return cls(
            await processes.start(
                *("node", str(DRIVER), str(module), target, json.dumps(options)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=16 * 1024 * 1024,
            )
        )

    async def call(self, method: str, *args: Any, take: int | None = None) -> Any:
        """Result of a method, or the first `take` items of its stream.

        Raises:
            NodeError: the method threw.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        line = {"id": number, "method": method, "args": args, "take": take}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()
        return await processes.soon(answer)

    async def end(self) -> int:
        """Ends it as a program ends that has nothing more to do; its exit status."""
        assert self._process.stdin
        self._process.stdin.close()
        status = await processes.soon(self._process.wait())
        await self._reader
        return status

    async def kill(self) -> None:
        processes.kill_group(self._process)
        await processes.soon(self._process.wait())
        self._reader.cancel()

    async def _read(self) -> None:
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            waiting = self._waiting.pop(answer["id"])
            if "error" in answer:
                waiting.set_exception(NodeError(answer["error"]))
            else:
                waiting.set_result(answer["value"])
        for waiting in self._waiting.values():
            waiting.set_exception(AssertionError("Node ended before it answered"))
