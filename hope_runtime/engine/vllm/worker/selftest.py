"""Self-test before a turn is served: no row of a batch is reached by another row's memory.

Runs with every slot filled, because a row without a memory once read the last one.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.vllm.messages import FAST, Begin, Options
from hope_runtime.engine.vllm.worker.decoder import Decoder

# Nats by which rounding may move a log-probability, by dtype.
ROUNDING = {"float32": 1e-3, "bfloat16": 0.15}
TOKENS = 2


class NotIsolatedError(Exception):
    """A row was reached by a memory that is not its own."""


def check_isolation(decoder: Decoder, options: Options) -> None:
    """Raise NotIsolatedError. Leaves no adapter behind."""
    numbers = itertools.count(1)
    tokens = tuple(range(1, min(options.vocab_size, 40)))
    terms = _terms(options)

    def scores(*adapters: int) -> list[float]:
        """Log-probability of the prompt under each adapter, all in one batch."""
        begun = []
        for adapter in adapters:
            number = next(numbers)
            begun.append(number)
            decoder.begin(
                Begin(
                    number,
                    number,
                    adapter,
                    f"self-test-{number}",
                    tokens,
                    TOKENS,
                    sampling=Sampling(logprobs=0),
                    score=tuple(range(1, len(tokens))),
                )
            )
        found = dict.fromkeys(begun, 0.0)
        while decoder.busy:
            for piece in decoder.step():
                found[piece.request] += sum(nats for nats in piece.scores or () if nats)
                # The last tokens too: one token a row takes another path than a whole prompt.
                found[piece.request] += sum(each.logprob for each in piece.logprobs)
        return [found[number] for number in begun]

    allowed = ROUNDING[options.dtype] * (len(tokens) + TOKENS)
    [base] = scores(0)
    slots = range(1, options.rows + 1)
    for adapter in slots:
        decoder.put(adapter, terms)
    try:
        last = options.rows
        [alone] = scores(last)
        together = scores(0, last) if options.rows > 1 else scores(0)
        mixed = scores(0, *slots[: options.rows - 1]) if options.rows > 1 else []
    finally:
        for adapter in slots:
            decoder.drop(adapter)
    if abs(alone - base) < 2 * allowed:
        raise NotIsolatedError("applying an adapter does not change the output")
    if any(abs(found - base) > allowed for found in (together[0], *mixed[:1])):
        raise NotIsolatedError(
            "the adapters of other rows change the output of a row without an adapter"
        )
    if any(abs(found - alone) > allowed for found in (*together[1:], *mixed[1:])):
        raise NotIsolatedError("the output of a row is not that of its own adapter")


def _terms(options: Options) -> dict[str, Tensor]:
    """Terms of the whole rank that move every score by far more than rounding."""
    generator = torch.Generator().manual_seed(0)
    L, D, F, R = options.layers, options.d_model, options.d_ff, options.rank

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).mul_((2.0 / shape[-1]) ** 0.5)

    written = {}
    if options.fast_memory is not None:
        fast_memory, _ = options.fast_memory
        written[FAST] = random(fast_memory.n_heads, fast_memory.value_width, fast_memory.key_width)
    return written | {
        "gate_a": random(L, R, D),
        "gate_b": random(L, F, R),
        "up_a": random(L, R, D),
        "up_b": random(L, F, R),
        "down_a": random(L, R, F),
        "down_b": random(L, D, R),
    }
