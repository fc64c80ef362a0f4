"""Requests that read and score a text without answering: records of a document, and plain texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from hope_runtime.engine.kv_slots import SlotPool
from hope_runtime.engine.request import SlotRequest
from hope_runtime.engine.runner import Output
from hope_runtime.engine.turn import ReadOutcome, last_indices, score_tokens
from hope_runtime.engine.window_reader import Reader
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory


class ReadRequest(SlotRequest[ReadOutcome]):
    """Reads a document's record into its conversation's window, scoring its tokens.

    The slot then holds the window as it is after the record was observed. A record longer than
    half a window is scored from where the window begins.
    """

    def __init__(
        self,
        reader: Reader,
        pool: SlotPool,
        key: Hashable,
        memory: SessionMemory,
        record: Record,
    ) -> None:
        super().__init__(reader, pool, key)
        self.memory = memory
        self.record = record
        self._after: SessionMemory | None = None

    def _begin(self) -> None:
        self.reader.bind(self._take_slot(), self.memory)
        self._after = observe(self.memory, self.record, window_tokens=self.reader.capacity)
        window = self._after.conversations[self.record.conversation].window
        if window.tokens:
            self._read(window.tokens, score=last_indices(window, len(self.record.tokens)))
        else:
            self._finish(ReadOutcome(0.0, 0, self._after))

    def _advance(self, output: Output) -> None:
        if reading := self._read_on(output):
            self._finish(ReadOutcome(reading.nats, reading.scored, self._after))


class ScoreRequest(SlotRequest[ReadOutcome]):
    """Scores `text` after `context`, in nats; a memory of None is the frozen base model.

    Every token of the text is scored. Without a context, the first is predicted from the
    beginning-of-text token; where a model has none, it is left out.
    """

    keeps_window = False

    def __init__(
        self,
        reader: Reader,
        pool: SlotPool,
        memory: SessionMemory | None,
        context: str,
        text: str,
    ) -> None:
        super().__init__(reader, pool, object())
        self.memory = memory
        self._context, self._text = context, text

    def _encode(self) -> Iterator[None]:
        # Held from here on, so that no more requests begin than there are slots.
        self._take_slot()
        tokenizer, capacity = self.reader.tokenizer, self.reader.capacity
        self._tokens = yield from score_tokens(tokenizer, self._context, self._text, capacity)

    def _begin(self) -> None:
        assert self.slot is not None
        before, ids = self._tokens
        self.reader.bind(self.slot, self.memory)
        self._read(before + ids, score=range(len(before), len(before + ids)))

    def _advance(self, output: Output) -> None:
        if reading := self._read_on(output):
            self._finish(ReadOutcome(reading.nats, reading.scored))
