"""Turns a reply's tokens into text as they come, without ever splitting a character.

A token may hold half a character, and a stop string may straddle tokens; both are held back until
it is certain what they are.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """Text of one reply. `text` is all that was released; `stopped` says a stop string came."""

    def __init__(self, token_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._token_bytes = token_bytes
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=1)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that became certain with `token`, perhaps none."""
        return self._release(self._decoder.decode(self._token_bytes(token)), final=False)

    def finish(self) -> str:
        """Release the text that is held back at the end of the reply; broken characters become
        U+FFFD."""
        return self._release(self._decoder.decode(b"", True), final=True)

    def _release(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
        else:
            hold = 0 if final else self._possible_stop()
            cut = len(self._held) - hold
            certain, self._held = self._held[:cut], self._held[cut:]
        self.text += certain
        return certain

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0
