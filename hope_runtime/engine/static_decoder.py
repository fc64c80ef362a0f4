"""Static decoder: decodes rows of one token by static steps, and launches the next step ahead.

While the host hands out a step's tokens, a GPU would wait. So the tokens that it chose go into the
next step of the same rows at once, before the host has seen them. What comes of it is used for the
rows that go on as foreseen, and does others no harm: a step writes behind what their windows hold.

Shape suffixes: B rows of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hope_runtime.device import usable_cpus
from hope_runtime.engine.device_draws import UNSURE, draw
from hope_runtime.engine.kv_slots import Slot
from hope_runtime.engine.sampling import Sampler
from hope_runtime.engine.static_steps import Decoded, StaticSteps, slot_number
from hope_runtime.host_copies import HostCopy, on_device
from hope_runtime.layers.served_lora import ServedAdapter

# Rows of a step of which at least this share decoded in the step before are expected to go on.
LIKELY_TO_GO_ON = 0.5


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """State in which a row of a step that was launched ahead must be when it is asked for. A reply
    has a sampler of its own, so with it the row goes on in the same text."""

    place: int
    length: int
    sampler: Sampler
    adapter: ServedAdapter | None
    fast: Tensor | None

    def is_for(self, slot: Slot, sampler: Sampler | None) -> bool:
        same = self.sampler is sampler and self.length == slot.kv.length
        return same and self.adapter is slot.adapter and self.fast is slot.fast


@dataclass(slots=True)
class _Ahead:
    """A step that was launched ahead, its rows by their slots' numbers, and, once the host has seen
    them, the tokens that they read."""

    decoded: Decoded
    rows: dict[int, _Foreseen]
    tokens: list[int] = field(default_factory=list)


class StaticDecoder:
    """Decodes tokens of rows by `steps`. One thread at a time."""

    def __init__(self, steps: StaticSteps) -> None:
        self._steps = steps
        self._noise = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="hope-noise")
        self._ahead: _Ahead | None = None
        self._last: frozenset[int] = frozenset()
        # Rows that were decoded, and those of them that had been launched ahead.
        self.decoded = self.foreseen = 0

    def step(
        self, slots: Sequence[Slot], ids: Sequence[int], samplers: Sequence[Sampler | None] = ()
    ) -> tuple[Decoded, list[int | None]]:
        """Read one token in each slot; the result, and the next tokens on the host: as each row's
        sampler, if it has one, draws it, or else the likeliest. -1 where a logit is not finite,
        None where the sampler must choose itself.

        The windows grow by their token. Slots are those of the pool, and have room.
        """
        samplers = samplers or [None] * len(slots)
        decoded = self._decoded(slots, ids, samplers)
        chosen_B = self._drawn(decoded, samplers)
        copy = HostCopy(chosen_B)
        ahead = self._launch_ahead(slots, chosen_B, samplers)
        # The one place that waits for the device.
        tokens = copy.read().tolist()
        if ahead is not None:
            ahead.tokens = [tokens[place] for place in ahead.tokens]
        self._ahead = ahead
        for slot in slots:
            slot.kv.length += 1
        return decoded, [None if token == UNSURE else token for token in tokens]

    def forget(self) -> None:
        """Drop what was launched ahead. Wanted before a slot is read in any other way."""
        if self._ahead is not None:
            self._erase(self._ahead.rows)
            self._ahead = None

    def _decoded(
        self, slots: Sequence[Slot], ids: Sequence[int], samplers: Sequence[Sampler | None]
    ) -> Decoded:
        """The step's result, as far as possible from what was launched ahead."""
        ahead, self._ahead = self._ahead, None
        self.decoded += len(slots)
        rows = {} if ahead is None else dict(ahead.rows)
        known: dict[int, int] = {}
        for place, (slot, sampler) in enumerate(zip(slots, samplers, strict=True)):
            row = rows.get(slot_number(slot))
            if (
                row
                and row.is_for(slot, sampler)
                and ahead
                and ahead.tokens[row.place] == ids[place]
            ):
                known[place] = rows.pop(slot_number(slot)).place
        self._erase(rows)
        self.foreseen += len(known)
        missing = [place for place in range(len(slots)) if place not in known]
        found: list[Decoded] = []
        if ahead is not None and known:
            found.append(ahead.decoded.rows(list(known.values())))
        if missing:
            some = [slots[place] for place in missing]
            lengths = [slot.kv.length for slot in some]
            found.append(self._steps.launch(some, [ids[place] for place in missing], lengths))
        if len(found) == 1:
            return found[0]
        joined = Decoded(
            *(torch.cat(each) for each in zip(*(f.parts() for f in found), strict=True))
        )
        order = [*known, *missing]
        return joined.rows([order.index(place) for place in range(len(slots))])

    def _launch_ahead(
        self, slots: Sequence[Slot], chosen_B: Tensor, samplers: Sequence[Sampler | None]
    ) -> _Ahead | None:
        """The next step of the rows that will probably go on; its tokens are places in this one."""
        before, self._last = self._last, frozenset(map(slot_number, slots))
        if len(before & self._last) < LIKELY_TO_GO_ON * len(slots):
            return None
        places: list[int] = []
        rows: dict[int, _Foreseen] = {}
        for place, (slot, sampler) in enumerate(zip(slots, samplers, strict=True)):
            length = slot.kv.length + 1
            if sampler is None or not sampler.chooses_by_logits or length >= self._steps.capacity:
                continue
            row = _Foreseen(len(places), length, sampler, slot.adapter, slot.fast)
            rows[slot_number(slot)] = row
            places.append(place)
        if not places:
            return None
        at = on_device(places, torch.long, chosen_B.device)
        # A row that ends here, or whose token is still open, reads anything.
        ids = chosen_B.index_select(0, at).clamp(min=0)
        lengths = [row.length for row in rows.values()]
        decoded = self._steps.launch([slots[place] for place in places], ids, lengths)
        return _Ahead(decoded, rows, places)

    def _erase(self, rows: dict[int, _Foreseen]) -> None:
        """Zero what rows wrote that did not go on: it may be NaN, and a mask times NaN is NaN."""
        if rows:
            self._steps.erase(list(rows), [row.length for row in rows.values()])

    def _drawn(self, decoded: Decoded, samplers: Sequence[Sampler | None]) -> Tensor:
        """The next token of each row, (B,). Noise is made while the device computes."""
        size = decoded.logits.shape[1]
        given = {
            row: sampler
            for row, sampler in enumerate(samplers)
            if sampler is not None and sampler.draws and sampler.chooses_by_logits
        }
        if not given:
            return decoded.best
        # Each row's generator is its own, and passing over its bits takes a fraction of a
        # millisecond.
        draws = list(self._noise.map(lambda sampler: sampler.draw_of(size), given.values()))
        rows_B = on_device(list(given), torch.long, decoded.best.device)
        best_B = decoded.best.index_select(0, rows_B)
        drawn_B = draw(decoded.logits.index_select(0, rows_B), draws)
        return decoded.best.index_copy(0, rows_B, torch.where(best_B < 0, best_B, drawn_B))
