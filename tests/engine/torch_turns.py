"""Turns of the torch engine whose pieces of text are kept."""

from __future__ import annotations

from engines import WAIT

from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.session.memory import SessionMemory


def answer(
    engine: TorchEngine, memory: SessionMemory, turn: GenerateTurn, row: object = "row"
) -> tuple[GenerateOutcome, list[TextPiece]]:
    parts: list[TextPiece] = []
    ticket = engine.generate(row, memory, turn, parts.append)
    return ticket.future.result(WAIT), parts
