"""Loss of given replies to questions, each in a new conversation: how far a memory has moved away
from what the base would say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf

from hope_lab.evaluate.asking import chat_prompt
from hope_lab.evaluate.learnt import Learnt
from hope_runtime.learning.packing import WIDE_ROW_TOKENS, Example, pack
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy


@torch.no_grad()
def reply_nats(model: BaseModel, pairs: Sequence[tuple[str, str]], learnt: Learnt) -> float:
    """Mean nats per token of the replies; 0 for none. A trained branch beside the model is left
    out."""
    if not pairs:
        return 0.0
    fresh = SessionMemory.fresh(model.fingerprint, LearningPolicy("none", levels=()))
    examples = []
    for question, reply in pairs:
        prompt = chat_prompt(model.tokenizer, fresh, question)
        examples.append(
            Example(prompt, (False,) * len(prompt)).followed_by(
                tuple(model.tokenizer.encode(reply))
            )
        )
    packed = pack(examples, row_tokens=WIDE_ROW_TOKENS)
    hidden_BTD = forward(
        model,
        packed.ids_BT.to(model.device),
        positions_BT=packed.positions_BT.to(model.device),
        mask_BTS=packed.mask_BTT.to(model.device),
        adapter=None if learnt.adapter is None else learnt.adapter.to(model.dtype),
    )
    hidden_ND = hidden_BTD.flatten(0, 1)[packed.predictors_N.to(model.device)]
    logits_NV = logits(model, hidden_ND[None])[0].float()
    return float(nnf.cross_entropy(logits_NV, packed.targets_N.to(model.device)))
