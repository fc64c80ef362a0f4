"""Requests that answer a turn with a frozen base model.

Shape suffix: V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator

from torch import Tensor

from hope_runtime.engine import turn as turns
from hope_runtime.engine.kv_slots import SlotPool
from hope_runtime.engine.reply import OnText, ReplyBuilder
from hope_runtime.engine.request import Ready, SlotRequest, Status, always_ready
from hope_runtime.engine.runner import ForwardChunk, Output
from hope_runtime.engine.window_reader import Reader, Reading
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.window import Window


class GenerateRequest(SlotRequest[turns.GenerateOutcome]):
    """A turn: reads the prompt and decodes a reply, handing out text as it becomes certain.

    `prompt` is the turn's record up to where the model answers, `window` what attention sees,
    `output` the reply so far; they are there once the prompt is encoded.
    """

    prompt: Record
    window: Window
    output: ReplyBuilder

    def __init__(
        self,
        reader: Reader,
        pool: SlotPool,
        key: Hashable,
        memory: SessionMemory,
        turn: turns.GenerateTurn,
        on_text: OnText,
        ready: Ready = always_ready,
    ) -> None:
        super().__init__(reader, pool, key, ready)
        self.memory = memory
        self.turn = turn
        self._on_text = on_text
        self._prompt_reading: Reading | None = None

    def _encode(self) -> Iterator[None]:
        # Held from here on, so that no more requests begin than there are slots.
        self._take_slot()
        tokenizer, capacity = self.reader.tokenizer, self.reader.capacity
        self.prompt, self.window = yield from turns.place_in_steps(
            tokenizer, self.memory, self.turn, capacity
        )

    def _begin(self) -> None:
        assert self.slot is not None
        limit = turns.reply_limit(self.turn, self.window)
        tokenizer, sampling = self.reader.tokenizer, self.turn.sampling
        self.output = ReplyBuilder(tokenizer, sampling, limit, self._on_text)
        self.reader.bind(self.slot, self.memory)
        self._read(self.window.tokens, score=turns.learnable_indices(self.window, self.prompt))

    def _advance(self, output: Output) -> None:
        if self._reading is None:
            assert self.chunk is not None
            assert output.logits_V is not None
            self.chunk.slot.tokens += self.chunk.ids
            self._write(output.logits_V, output.token)
        elif reading := self._read_on(output):
            if self.status is Status.READING:
                self._prompt_reading = reading
                self.timings.prefilled = time.monotonic()
                self.status = Status.WRITING
            self._write(reading.logits)

    def _write(self, logits_V: Tensor, token: int | None = None) -> None:
        """Choose the next token; read it, or finish after the last one."""
        token = self.output.choose(logits_V, token)
        if self.output.ended:
            self._finish(self._result())
            return
        window, self.window = self.window, self.window.append((token,))
        if self.window.dropped != window.dropped:
            # The window hopped: its keys and values are those of another text now.
            self._read(self.window.tokens)
        else:
            assert self.slot is not None
            self.chunk = ForwardChunk(self.slot, (token,), sampler=self.output.sampler)

    def _result(self) -> turns.GenerateOutcome:
        reading = self._prompt_reading
        assert reading is not None
        prefill, decode = self.timings.spent()
        return turns.outcome_of(
            self.memory,
            self.prompt,
            self.output.finish(),
            self.reader.tokenizer,
            self.reader.capacity,
            surprise_nats=reading.nats / reading.scored if reading.scored else None,
            prefill_seconds=prefill,
            decode_seconds=decode,
        )
