"""Packs: every example's loss is what it would be alone, wherever and beside whatever it lies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hope_runtime.learning.packing import Example, Pack, pack
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

PREFIX = (7, 8, 9)
EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(2, 257), st.booleans()), min_size=1, max_size=9).flatmap(
        lambda pairs: st.sampled_from(((), PREFIX)).map(
            lambda prefix: Example(
                tuple(token for token, _ in pairs), tuple(wanted for _, wanted in pairs), prefix
            )
        )
    ),
    min_size=1,
    max_size=8,
)


@torch.no_grad()
def losses(model: BaseModel, packed: Pack) -> torch.Tensor:
    hidden = forward(
        model, packed.ids_BT, positions_BT=packed.positions_BT, mask_BTS=packed.mask_BTT
    )
    scores = logits(model, hidden.flatten(0, 1)[packed.predictors_N.long()][None])[0]
    return torch.nn.functional.cross_entropy(scores, packed.targets_N.long(), reduction="none")


@torch.no_grad()
def losses_alone(model: BaseModel, example: Example) -> torch.Tensor:
    ids = (*example.prefix, *example.ids)
    wanted = (*[False] * len(example.prefix), *example.targets)
    places = [at for at in range(1, len(ids)) if wanted[at]]
    scores = logits(model, forward(model, torch.tensor([ids])))[0]
    targets = torch.tensor([ids[at] for at in places]).long()
    rows = torch.tensor([at - 1 for at in places]).long()
    return torch.nn.functional.cross_entropy(scores[rows], targets, reduction="none")


@settings(max_examples=60)
@given(examples=EXAMPLES, row_tokens=st.integers(1, 40))
def test_an_examples_loss_in_a_pack_is_its_loss_alone(
    tiny_model: BaseModel, examples: list[Example], row_tokens: int
) -> None:
    packed = pack(examples, row_tokens=row_tokens)
    together = losses(tiny_model, packed)
    for index, example in enumerate(examples):
        mine = together[packed.owners_N == index]
        torch.testing.assert_close(mine, losses_alone(tiny_model, example), rtol=1e-9, atol=1e-9)


@given(examples=EXAMPLES, row_tokens=st.integers(1, 40))
def test_rows_are_short_and_a_prefix_is_shared(examples: list[Example], row_tokens: int) -> None:
    packed = pack(examples, row_tokens=row_tokens)
    longest = max(len(example.prefix) + len(example.ids) for example in examples)
    assert packed.ids_BT.shape[1] <= max(row_tokens, longest)
    apart = sum(len(example.prefix) + len(example.ids) for example in examples)
    assert packed.tokens <= apart
    roomy = pack(examples, row_tokens=1000)
    prefixes = {example.prefix for example in examples}
    # Examples without a prefix lie beside the others.
    assert roomy.ids_BT.shape[0] == max(1, len(prefixes - {()}))
    assert roomy.tokens == sum(map(len, prefixes)) + sum(len(example.ids) for example in examples)


def test_only_flagged_tokens_that_have_a_predecessor_are_targets() -> None:
    bare = Example((5, 6, 7), (True, False, True))
    assert pack([bare], row_tokens=8).targets_N.tolist() == [7]
    told = Example((5, 6, 7), (True, False, True), PREFIX)
    packed = pack([told], row_tokens=8)
    assert packed.targets_N.tolist() == [5, 7]
    assert packed.predictors_N.tolist() == [2, 4]


def test_an_example_needs_a_flag_for_each_token() -> None:
    with pytest.raises(ValueError, match="one target flag"):
        Example((1, 2), (True,))
