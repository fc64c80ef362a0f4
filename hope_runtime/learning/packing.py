"""Packs many short sequences into few rows, each seeing only itself.

Replays are a dozen tokens long; padding them to one length would triple their price. A row holds
several sequences behind each other under a block-diagonal causal mask, and sequences that begin
with the same prefix (a chat template's system prompt) share one copy of it: the mask is a tree.
Sequences without a prefix lie in any row and do not see the prefix of the others.

Shape suffixes: B rows, T tokens, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Tokens of a row that is trained on, and of one that is only read or read along it. Which texts
# share a row shows in the last bits of what is computed, so memories depend on these numbers.
ROW_TOKENS = 128
WIDE_ROW_TOKENS = 256
# Examples that are read together where nothing is trained.
BATCH = 16
# The same on a device for which a pass over a few hundred tokens is mostly launches.
DEVICE_BATCH = 128


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids to train on behind a `prefix`; `targets[i]` says whether ids[i] is predicted.

    A first token without a prefix has no predecessor and is never predicted.
    """

    ids: tuple[int, ...]
    targets: tuple[bool, ...]
    prefix: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.targets):
            raise ValueError("an example needs one target flag for each token")

    def followed_by(self, reply: tuple[int, ...]) -> Example:
        """The same with `reply` behind it, every token of which is predicted."""
        return Example((*self.ids, *reply), (*self.targets, *(True for _ in reply)), self.prefix)


@dataclass(frozen=True, slots=True)
class Pack:
    """Rows for one forward pass.

    ids_BT, positions_BT: int64. mask_BTT: bool, True where a token may look. `predictors_N` are
    flat indices into B*T of the positions that predict `targets_N`; `owners_N` says which example
    each belongs to. `tokens` counts those that are not padding.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    mask_BTT: Tensor
    predictors_N: Tensor
    targets_N: Tensor
    owners_N: Tensor
    tokens: int


def in_batches(examples: Sequence[Example], size: int = BATCH) -> list[Sequence[Example]]:
    """Consecutive parts of `size` examples, the last one of what is left."""
    return [examples[at : at + size] for at in range(0, len(examples), size)]


def pack(examples: Sequence[Example], *, row_tokens: int) -> Pack:
    """Packs `examples` first-fit, longest first, into rows of about `row_tokens`.

    Deterministic. A row is longer only when a single example is.
    """
    rows = _assign(examples, row_tokens)
    length = max(used for _, _, used in rows)
    shape = (len(rows), length)
    ids_BT = torch.zeros(shape, dtype=torch.long)
    positions_BT = torch.zeros(shape, dtype=torch.long)
    # A token sees its own block and, if it belongs to the row's prefix, block 0.
    block_BT = torch.full(shape, -1)
    shared_BT = torch.zeros(shape, dtype=torch.bool)
    behind_prefix_BT = torch.zeros(shape, dtype=torch.bool)
    predictors, targets, owners = [], [], []
    for row, (prefix, members, _) in enumerate(rows):
        at = len(prefix)
        ids_BT[row, :at] = torch.tensor(prefix, dtype=torch.long)
        positions_BT[row, :at] = torch.arange(at)
        block_BT[row, :at] = 0
        shared_BT[row, :at] = True
        for number, member in enumerate(members, start=1):
            example = examples[member]
            end = at + len(example.ids)
            ids_BT[row, at:end] = torch.tensor(example.ids)
            first = len(example.prefix)
            positions_BT[row, at:end] = torch.arange(first, first + end - at)
            block_BT[row, at:end] = number
            behind_prefix_BT[row, at:end] = bool(first)
            for offset, (token, wanted) in enumerate(
                zip(example.ids, example.targets, strict=True)
            ):
                if not wanted or (offset == 0 and not first):
                    continue
                before = at + offset - 1 if offset else first - 1
                predictors.append(row * length + before)
                targets.append(token)
                owners.append(member)
            at = end
    same_BTT = block_BT[:, :, None] == block_BT[:, None, :]
    causal_TT = torch.ones(length, length, dtype=torch.bool).tril()
    # Padding is one block of its own, so that every token sees at least itself.
    prefix_BTT = behind_prefix_BT[:, :, None] & shared_BT[:, None, :]
    mask_BTT = (same_BTT | prefix_BTT) & causal_TT
    return Pack(
        ids_BT,
        positions_BT,
        mask_BTT,
        torch.tensor(predictors),
        torch.tensor(targets),
        torch.tensor(owners),
        sum(used for _, _, used in rows),
    )


def share_out(examples: Sequence[Example], shares: int) -> list[tuple[tuple[int, ...], Pack]]:
    """Cuts `examples` into at most `shares` packs of about equal length, to be run side by side.

    Gives the indices of each pack's examples, in the order of its `owners_N`, and the pack.
    Deterministic, and the same however many of the packs are then run at a time.
    """
    loads = [0] * shares
    members: list[list[int]] = [[] for _ in range(shares)]
    for index in sorted(range(len(examples)), key=lambda i: (-len(examples[i].ids), i)):
        least = loads.index(min(loads))
        members[least].append(index)
        loads[least] += len(examples[index].ids)
    # Long enough for one row a share and prefix.
    row_tokens = sum(len(example.prefix) + len(example.ids) for example in examples)
    return [
        (tuple(share), pack([examples[index] for index in share], row_tokens=row_tokens))
        for share in map(sorted, members)
        if share
    ]


def _assign(
    examples: Sequence[Example], row_tokens: int
) -> list[tuple[tuple[int, ...], list[int], int]]:
    """(prefix, members, used tokens) of each row; first-fit decreasing, those with a prefix first.

    A row has one prefix; members without one fit any row.
    """
    rows: list[tuple[tuple[int, ...], list[int], int]] = []
    prefixes = list(dict.fromkeys(example.prefix for example in examples))
    for prefix in sorted(prefixes, key=len, reverse=True):
        members = [index for index, example in enumerate(examples) if example.prefix == prefix]
        for member in sorted(members, key=lambda i: (-len(examples[i].ids), i)):
            size = len(examples[member].ids)
            for index, (shared, row, used) in enumerate(rows):
                if prefix in (shared, ()) and used + size <= row_tokens:
                    row.append(member)
                    rows[index] = (shared, row, used + size)
                    break
            else:
                rows.append((prefix, [member], len(prefix) + size))
    return rows
