"""Static decoder: decodes rows of one token by static steps, and launches the next step ahead.

While the host hands out a step's tokens, a GPU would wait. So the tokens that it chose go into the
next step of the same rows at once, before the host has seen them. What comes of it is used for the
rows that go on as foreseen, and does others no harm: a step writes behind what their windows hold.

Shape suffixes: B rows of one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
    token: int
    length: int
    sampler: Sampler | None
    adapter: ServedAdapter | None
    fast: Tensor | None

    def is_for(self, slot: Slot, token: int, sampler: Sampler | None) -> bool:
        same = self.token == token and self.length == slot.kv.length
        return (
            same
            and self.sampler is sampler
            and self.adapter is slot.adapter
            and self.fast is slot.fast
        )


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A step that was launched ahead, and its rows by their slots' numbers."""

    decoded: Decoded
    rows: dict[int, _Foreseen]


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
        going_on = self._likely_to_go_on(slots, samplers)
        ahead = self._launch_ahead([slots[row] for row in going_on], chosen_B, going_on)
        # The one place that waits for the device.
        tokens = copy.read().tolist()
        for slot in slots:
            slot.kv.length += 1
        if ahead is not None:
            rows = {}
            for place, row in enumerate(going_on):
                slot = slots[row]
                rows[slot_number(slot)] = _Foreseen(
                    place, tokens[row], slot.kv.length, samplers[row], slot.adapter, slot.fast
                )
            self._ahead = _Ahead(ahead, rows)
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
            if row is not None and row.is_for(slot, ids[place], sampler):
                known[place] = row.place
                del rows[slot_number(slot)]
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

    def _likely_to_go_on(
        self, slots: Sequence[Slot], samplers: Sequence[Sampler | None]
    ) -> list[int]:
        """Rows of a step that will probably read what it chooses for them."""
        before, self._last = self._last, frozenset(map(slot_number, slots))
        if len(before & self._last) < LIKELY_TO_GO_ON * len(slots):
            return []
        return [
            row
            for row, (slot, sampler) in enumerate(zip(slots, samplers, strict=True))
            if sampler is not None
            and sampler.chooses_by_logits
            and slot.kv.length + 1 < self._steps.capacity
        ]

    def _launch_ahead(
        self, slots: Sequence[Slot], chosen_B: Tensor, rows: Sequence[int]
    ) -> Decoded | None:
        """The next step of these rows, which are in these slots; None without any."""
        if not slots:
            return None
        at = on_device(rows, torch.long, chosen_B.device)
        # A row that ends here, or whose token is still open, reads anything.
        ids = chosen_B.index_select(0, at).clamp(min=0)
        return self._steps.launch(slots, ids, [slot.kv.length + 1 for slot in slots])

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
