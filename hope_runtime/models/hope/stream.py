"""Reading a stream and learning from it: a HOPE model's memories while it is served.

Fast memories are written as tokens are read (model.py). Levels learn by Eq. 71 from the loss of
next-token prediction, a real backward pass through the blocks above (the gradient of the final
loss, truncated to a segment). The paper shows no inference algorithm; this is our reading:

- A token is *observed* once it arrives. Its loss is that of the prediction made for it, under the
  weights of that time; then, at a multiple of C observed tokens, a level changes; then the token
  is read, under the new weights. So after N tokens a level has changed floor(N / C) times, each
  token is predicted, scored and read under one set of weights, and the first token has no loss.
- Only learnable tokens are observed: they have a loss, they count and they write. The others are
  read as context. Both fill a segment, which ends at a boundary of the fastest level or when it
  is full; there gradients are gathered, and the state that they started from moves on.

A state holds two contexts, that at the start of the segment and that after the last token, and the
tokens between them. So any cut of the stream, one token at a time or all at once, gives the same
state, and its size does not depend on the length of the stream.

Shape suffixes: B rows, T tokens, N tokens of a segment, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hope_runtime.errors import InvalidRequestError
from hope_runtime.layers.cms import (
    GradientDescent,
    UpdateRule,
)
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.reading import Reader
from hope_runtime.models.hope.state import HopeState, check_bounds
from hope_runtime.models.hope.weights import HopeWeights


@torch.no_grad()
def observe(
    config: HopeConfig,
    weights: HopeWeights,
    ids_BT: Tensor,
    state: HopeState,
    *,
    mask_BT: Tensor | None = None,
    learn_BT: Tensor | bool = True,
    rule: UpdateRule | None = None,
) -> tuple[Tensor, HopeState]:
    """Read tokens and learns from them: logits of the next token (B, T, V), and the new state.

    Tokens where `mask_BT` (bool) is False do not exist: they change nothing, no counter either, and
    their logits are zero. Tokens where `learn_BT` is False are context only: no loss, no count and
    no write. `rule` is f of Eq. 71 (default: the gradient itself). Nothing given is changed.

    Raises InvalidRequestError for ids outside the vocabulary, and DivergedStateError, which names
    the rows, when the new state would hold numbers that are not finite or are beyond STATE_LIMIT.
    """
    _check_ids(config, ids_BT, state)
    before = state
    learnable = torch.full(ids_BT.shape, True) if learn_BT is True else learn_BT
    learnable = torch.full(ids_BT.shape, False) if learnable is False else learnable
    assert isinstance(learnable, Tensor)
    learnable_BT = learnable.cpu()
    lengths_B, order = None, None
    if mask_BT is not None and not bool(mask_BT.all()):
        # The tokens that exist come first in their row; the rest is padding behind them.
        lengths_B = mask_BT.cpu().sum(1)
        order = mask_BT.cpu().logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        ids_BT = ids_BT.gather(1, order.to(ids_BT.device))
        learnable_BT = learnable_BT.gather(1, order)
    reader = Reader(config, weights, state, rule or GradientDescent())
    logits_BTV, state = reader.read(ids_BT, learnable_BT, lengths_B)
    if order is not None:
        assert mask_BT is not None
        back = order.argsort(dim=1).to(logits_BTV.device)
        logits_BTV = logits_BTV.gather(1, back[..., None].expand_as(logits_BTV))
        hidden = ~mask_BT.to(logits_BTV.device)[..., None]
        logits_BTV = logits_BTV.masked_fill(hidden, 0.0)
    check_bounds(state, before)
    return logits_BTV, state


@torch.no_grad()
def flush(
    config: HopeConfig,
    weights: HopeWeights,
    state: HopeState,
    *,
    rule: UpdateRule | None = None,
) -> HopeState:
    """Levels learn at once what they have gathered of unfinished chunks; nothing else ever does.

    The last token still waits for its target. Counters and later boundaries stay where they are;
    `updates_B` counts the flush. Raises DivergedStateError.
    """
    if state.segment is None:
        return state
    flushed = Reader(config, weights, state, rule or GradientDescent()).flush(learn=True)
    check_bounds(flushed, state)
    return flushed


@torch.no_grad()
def end_segments(config: HopeConfig, weights: HopeWeights, state: HopeState) -> HopeState:
    """The state with the gradients of its open segments gathered and nothing learnt: each row may
    go on from another context. The last token of a row never gets its target."""
    if state.segment is None:
        return state
    return Reader(config, weights, state, GradientDescent()).flush(learn=False)


def _check_ids(config: HopeConfig, ids_BT: Tensor, state: HopeState) -> None:
    if ids_BT.dim() != 2 or ids_BT.shape[0] != state.rows or not ids_BT.shape[1]:
        raise InvalidRequestError(
            f"ids have shape {tuple(ids_BT.shape)} instead of ({state.rows}, at least 1)",
            field="ids",
        )
    low, high = ids_BT.aminmax()
    if int(low) < 0 or int(high) >= config.backbone.vocab_size:
        raise InvalidRequestError(
            f"token ids must be in [0, {config.backbone.vocab_size})", field="ids"
        )
