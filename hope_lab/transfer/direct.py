"""Direct transfer: the slow block's forward pass is conditioned on the fast block.

What the fast block knows enters as a value. No gradient passes from one level into the other's
state, which is a hyper-parameter there (section 3.3); flow.py is the mode where one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hope_lab.transfer.level import Parameters

Read = Callable[[Parameters, Tensor], Tensor]


def given_parameters(
    read: Callable[[Parameters, Parameters, Tensor], Tensor], fast: Parameters
) -> Read:
    """M(x; slow, fast weights), Eq. 24: `read(slow, fast, x)` with the fast weights held."""
    held = {name: tensor.detach() for name, tensor in fast.items()}
    return lambda slow, x: read(slow, held, x)


def given_output(
    read: Callable[[Parameters, Tensor, Tensor], Tensor], fast: Callable[[Tensor], Tensor]
) -> Read:
    """M(x; slow, M_fast(x)), Eq. 25: `read(slow, fast output, x)` with that output held."""
    return lambda slow, x: read(slow, fast(x).detach(), x)


def given_context(
    read: Callable[[Parameters, Tensor, Tensor], Tensor],
    keys_NK: Tensor,
    values_NV: Tensor,
    *,
    sharpness: float | None = None,
) -> Read:
    """M(x; slow, M_fast(x; context)), Eq. 27, where the fast block has no weights at all.

    It answers a query x (T, K) with the Nadaraya-Watson estimate from its context of keys and
    values, softmax(sharpness x · k) v: attention without projections. The default sharpness is
    1 / sqrt(K).
    """
    scale = 1 / math.sqrt(keys_NK.shape[-1]) if sharpness is None else sharpness

    def recalled(x_TK: Tensor) -> Tensor:
        return torch.softmax(scale * x_TK @ keys_NK.mT, dim=-1) @ values_NV

    return given_output(read, recalled)
