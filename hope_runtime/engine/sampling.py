"""Sampling: the choice of the next token from its logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.engine.device_draws import RANKS, Draw
from hope_runtime.engine.draw_noise import DrawNoise
from hope_runtime.errors import InvalidRequestError

MAX_STOPS = 32
MAX_LOGPROBS = 20
# Share of probability from which on a token takes part in a draw without more ado.
LIKELY = 1e-6


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of one reply. Temperature 0 is greedy. `logprobs` asks for those of each token
    and of as many of the likeliest ones in its place; None asks for none.

    Raises InvalidRequestError, with the field as the API spells it, for values out of range.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1")
        self._check("temperature", 0 <= self.temperature <= 2, "0 to 2")
        self._check("top_k", self.top_k >= 0, "at least 0")
        self._check("top_p", 0 < self.top_p <= 1, "above 0, at most 1")
        self._check("min_p", 0 <= self.min_p <= 1, "0 to 1")
        penalty = self.repetition_penalty
        self._check("repetition_penalty", 0 < penalty < math.inf, "above 0")
        self._check("stop", len(self.stop) <= MAX_STOPS, f"at most {MAX_STOPS} strings")
        self._check("stop", all(self.stop), "only non-empty strings")
        asked = self.logprobs
        self._check("logprobs", asked is None or 0 <= asked <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}")

    def _check(self, name: str, valid: bool, allowed: str) -> None:
        # A comparison with NaN is false, so NaN is refused like any other wrong value.
        if not valid:
            raise InvalidRequestError(
                f"sampling.{name} is {getattr(self, name)}; allowed values: {allowed}",
                field=f"sampling.{name}",
            )


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability, nats, of a chosen token and of the likeliest ones in its place, (id,
    logprob) each, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(logits_V: Tensor, token: int, count: int) -> TokenLogprobs:
    """Log-probabilities of the model itself: `logits_V`, (V,), before any penalty."""
    logprobs_V = logits_V.float().log_softmax(-1)
    best = logprobs_V.topk(min(count, len(logprobs_V)))
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(token, float(logprobs_V[token]), top)


class Sampler:
    """Sampler of one reply, reproducible from its seed."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        # On the CPU whatever the device, so that a seed means the same everywhere.
        self.generator = torch.Generator().manual_seed(sampling.seed % (1 << 63))
        self._noise: DrawNoise | None = None

    @property
    def chooses_by_logits(self) -> bool:
        """Whether the choice depends on logits alone, so that the device which has them can make
        it."""
        return self._sampling.repetition_penalty == 1

    @property
    def draws(self) -> bool:
        """Whether the choice is drawn, and not the likeliest."""
        return self._sampling.temperature > 0

    def draw_of(self, size: int) -> Draw:
        """Options and noise for a device that draws the next token from `size`, for `choose`, which
        must follow."""
        options = self._sampling
        self._noise = self._noise or DrawNoise(self.generator, size)
        noise_R, least = self._noise.first(min(size, RANKS))
        return Draw(
            options.temperature, options.top_p, options.min_p, options.top_k or size, noise_R, least
        )

    def choose(self, logits_V: Tensor, reply: Sequence[int], token: int | None = None) -> int:
        """The next token id. `logits_V` is (V,), any float dtype; `reply` is what came before;
        `token` is what the device that has the logits chose, if it did: the likeliest one, or what
        it drew by `draw_of`."""
        options = self._sampling
        if token is not None and self.chooses_by_logits:
            self._noise = None
            return token
        logits_V = logits_V.float().cpu()
        if options.repetition_penalty != 1 and reply:
            seen = torch.tensor(sorted(set(reply)))
            # Dividing a negative score would reward it, so those are multiplied.
            kept = logits_V[seen]
            penalised = torch.where(
                kept > 0, kept / options.repetition_penalty, kept * options.repetition_penalty
            )
            limit = torch.finfo(torch.float32).max
            logits_V = logits_V.index_copy(0, seen, penalised.clamp(-limit, limit))
        if options.temperature == 0:
            return int(logits_V.argmax())
        noise, self._noise = self._noise or DrawNoise(self.generator, len(logits_V)), None
        # Differences to the best first: they may overflow to -inf, which softmax understands.
        weights_V = ((logits_V - logits_V.max()) / options.temperature).softmax(-1)
        # Only likely tokens are sorted, a hundredth of a vocabulary; in the rare case that another
        # might be drawn, all are.
        ids_N = (weights_V >= LIKELY).nonzero()[:, 0]
        noise_N, least = noise.first(len(ids_N))
        found = self._draw(weights_V, noise_N, ids_N, LIKELY / least)
        if found is None:
            found = self._draw(weights_V, noise.all(), torch.arange(len(weights_V)), 0.0)
        assert found is not None
        return found

    def _draw(self, weights_V: Tensor, noise_N: Tensor, ids_N: Tensor, others: float) -> int | None:
        """The token among the likeliest, `ids_N`, whose weight over its noise is the highest, which
        draws by weight; noise belongs to ranks. None if one of the others, which reach at most
        `others`, may have a higher one.
        """
        options = self._sampling
        weights_N, order_N = weights_V[ids_N].sort(descending=True, stable=True)
        keep_N = weights_N >= options.min_p * weights_V.max()
        # A token stays if the likelier ones together have not reached top_p yet.
        keep_N &= weights_N.cumsum(-1) - weights_N < options.top_p
        if options.top_k:
            keep_N[options.top_k :] = False
        best, place = (weights_N * keep_N / noise_N).max(-1)
        # Where a likely token was dropped, so were all behind it.
        if len(ids_N) < len(weights_V) and bool(keep_N[-1:].all()) and float(best) <= others:
            return None
        return int(ids_N[order_N[place]])
