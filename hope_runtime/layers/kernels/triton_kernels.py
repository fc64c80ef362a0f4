"""Kernels of a static step in Triton: they read adapters and windows where they lie.

The torch forms (models/decoder/static_step.py) gather them first, which moves their bytes three
times. Each row is computed by programs of its own, so its bits depend on no other row. Sums are
float32. Nothing here runs without a GPU, but in Triton's interpreter.

Shape suffixes: B rows of one token, S slots or rows of a table, P parts, R rank, D width of the
input, F width of the output, C capacity, H query heads, G key/value heads, K head width.
"""

# The annotations of kernels are read by Triton, which wants them as objects.
import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_RANK, BLOCK_IN, BLOCK_OUT, BLOCK_PLACES = 16, 128, 128, 64


def add_low_rank(
    x_BD: Tensor, base_BPF: Tensor, first_SPRD: Tensor, second_SPRF: Tensor, rows_B: Tensor
) -> Tensor:
    """base + B A x with the factors of each row's own adapter: (B, P, F), new.

    `first` and `second` are one layer of a table, contiguous behind its rows.
    """
    B, D = x_BD.shape
    _, P, R, F = second_SPRF.shape
    x_BD = x_BD.contiguous()
    inner_BPR = torch.empty(B, P, R, dtype=torch.float32, device=x_BD.device)
    out_BPF = torch.empty(B, P, F, dtype=base_BPF.dtype, device=x_BD.device)
    shrink = (B, triton.cdiv(P * R, BLOCK_RANK))
    _shrink[shrink](
        x_BD, first_SPRD, rows_B, inner_BPR, P * R, D, first_SPRD.stride(0), BLOCK_RANK, BLOCK_IN
    )
    expand = (B, P, triton.cdiv(F, BLOCK_OUT))
    strides = (*base_BPF.stride(), second_SPRF.stride(0))
    _expand[expand](
        inner_BPR, second_SPRF, rows_B, base_BPF, out_BPF, P, R, F, *strides, BLOCK_RANK, BLOCK_OUT
    )
    return out_BPF


def attend(
    q_BHK: Tensor,
    k_SGCK: Tensor,
    v_SGCK: Tensor,
    slots_B: Tensor,
    lengths_B: Tensor,
    *,
    scale: float,
    softcap: float,
    window: int,
) -> Tensor:
    """Attention of each row to places 0 to its length, inclusive, of its slot: (B, H * K).

    Only to the last `window` of them unless that is 0; a `softcap` of 0 is none.
    """
    B, H, K = q_BHK.shape
    G = k_SGCK.shape[1]
    q_BHK = q_BHK.contiguous()
    out_BHK = torch.empty_like(q_BHK)
    _attend[(B, G)](
        q_BHK,
        k_SGCK,
        v_SGCK,
        slots_B,
        lengths_B,
        out_BHK,
        scale,
        softcap,
        window,
        k_SGCK.stride(0),
        k_SGCK.stride(1),
        H,
        K,
        H // G,
        max(16, triton.next_power_of_2(H // G)),
        max(16, triton.next_power_of_2(K)),
        BLOCK_PLACES,
    )
    return out_BHK.view(B, H * K)


@triton.jit
def _shrink(x, first, rows, out, N, D, stride_row, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """inner = A x, float32 (B, N), N factors of all parts."""
    b = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = first + tl.load(rows + b) * stride_row
    total = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x_D = tl.load(x + b * D + d, mask=d < D, other=0.0).to(tl.float32)
        inside = (n < N)[:, None] & (d < D)[None, :]
        a_ND = tl.load(here + n[:, None] * D + d[None, :], mask=inside, other=0.0)
        total += tl.sum(a_ND.to(tl.float32) * x_D[None, :], axis=1)
    tl.store(out + b * N + n, total, mask=n < N)


@triton.jit
def _expand(
    inner,
    second,
    rows,
    base,
    out,
    P,
    R,
    F,
    stride_base,
    stride_part,
    stride_width,
    stride_row,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """out = base + B inner, (B, P, F)."""
    b = tl.program_id(0)
    p = tl.program_id(1)
    f = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
    here = second + tl.load(rows + b) * stride_row + p * R * F
    before = base + b * stride_base + p * stride_part + f * stride_width
    total = tl.load(before, mask=f < F, other=0.0).to(tl.float32)
    for start in range(0, R, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        x_R = tl.load(inner + (b * P + p) * R + r, mask=r < R, other=0.0)
        inside = (r < R)[:, None] & (f < F)[None, :]
        b_RF = tl.load(here + r[:, None] * F + f[None, :], mask=inside, other=0.0)
        total += tl.sum(b_RF.to(tl.float32) * x_R[:, None], axis=0)
    tl.store(out + (b * P + p) * F + f, total, mask=f < F)


@triton.jit
def _attend(
    q,
    k,
    v,
    slots,
    lengths,
    out,
    scale,
    softcap,
    window,
    stride_slot,
    stride_head,
    H,
    K,
    each,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The query heads of one row that share keys, over the places of its slot, block by block."""
    b = tl.program_id(0)
    g = tl.program_id(1)
    length = tl.load(lengths + b)
    here = tl.load(slots + b) * stride_slot + g * stride_head
    h = tl.arange(0, BLOCK_H)
    w = tl.arange(0, BLOCK_K)
    mine = (h < each)[:, None] & (w < K)[None, :]
    at = (b * H + g * each + h)[:, None] * K + w[None, :]
    q_HK = tl.load(q + at, mask=mine, other=0.0)
    first = length * 0
    if window > 0:
        first = tl.maximum(first, length - window + 1)
    best_H = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total_H = tl.zeros((BLOCK_H,), tl.float32)
    mixed_HK = tl.zeros((BLOCK_H, BLOCK_K), tl.float32)
    for start in range(first // BLOCK_C * BLOCK_C, length + 1, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        seen = (c >= first) & (c <= length)
        inside = (w < K)[:, None] & seen[None, :]
        k_KC = tl.load(k + here + c[None, :] * K + w[:, None], mask=inside, other=0.0)
        scores_HC = tl.dot(q_HK, k_KC, input_precision="ieee") * scale
        if softcap > 0:
            scores_HC = softcap * (2 * tl.sigmoid(2 * scores_HC / softcap) - 1)
        scores_HC = tl.where(seen[None, :], scores_HC, float("-inf"))
        # The first block holds a place that is seen, so the best is finite from there on.
        better_H = tl.maximum(best_H, tl.max(scores_HC, axis=1))
        shares_HC = tl.exp(scores_HC - better_H[:, None])
        kept_H = tl.exp(best_H - better_H)
        inside = seen[:, None] & (w < K)[None, :]
        v_CK = tl.load(v + here + c[:, None] * K + w[None, :], mask=inside, other=0.0)
        total_H = total_H * kept_H + tl.sum(shares_HC, axis=1)
        mixed_HK *= kept_H[:, None]
        mixed_HK += tl.dot(shares_HC.to(v_CK.dtype), v_CK, input_precision="ieee")
        best_H = better_H
    tl.store(out + at, mixed_HK / total_H[:, None], mask=mine)
