"""Loss on texts that no memory was ever taught: what learning does to everything else.

The five texts in texts/ were written for this purpose and are used for nothing else. Knows them
and how they are scored; what is compared with what is the tasks' business.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files

import torch
import torch.nn.functional as nnf

from hope_lab.evaluate.learnt import Learnt
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.tokenizer import Tokenizer

DOMAINS = ("encyclopaedic", "fiction", "code", "chat", "other_language")
# Texts are read in windows of at most so many tokens, each from an empty context.
WINDOW_TOKENS = 1024


@torch.no_grad()
def heldout_nats(model: BaseModel, learnt: Learnt) -> dict[str, float]:
    """Mean nats per token of each domain.

    The first token of a window is predicted from nothing and left out. Infinite where a memory
    computes no numbers any more.
    """
    adapter = None if learnt.adapter is None else learnt.adapter.to(model.dtype)
    size = min(WINDOW_TOKENS, model.config.max_positions)
    means = {}
    for domain in DOMAINS:
        ids = domain_ids(model.tokenizer, domain)
        nats, scored = 0.0, 0
        for start in range(0, len(ids) - 1, size):
            window_T = torch.tensor(ids[start : start + size], device=model.device)
            reading = None if learnt.beside is None else learnt.beside.reads()
            hidden_BTD = forward(model, window_T[None], adapter=adapter, fast_memory=reading)
            logits_TV = logits(model, hidden_BTD[:, :-1])[0].float()
            nats += float(nnf.cross_entropy(logits_TV, window_T[1:], reduction="sum"))
            scored += len(window_T) - 1
        # A memory that was ruined must not hide behind NaN, which compares as nothing.
        means[domain] = nats / scored if math.isfinite(nats) else math.inf
    return means


def domain_ids(tokenizer: Tokenizer, domain: str) -> list[int]:
    """Token ids of a domain's text; of the chat, with the model's own template where it has one."""
    text = _text(domain)
    if domain == "chat" and tokenizer.has_chat_template:
        return tokenizer.encode_conversation(_messages(text), add_generation_prompt=False)
    ids = tokenizer.encode(tokenizer.opening(text))
    return [tokenizer.bos_id, *ids] if tokenizer.add_bos and tokenizer.bos_id is not None else ids


def _messages(text: str) -> list[dict[str, str]]:
    """The messages of a text in which '### ' and a role head each one."""
    messages = []
    for part in text.split("### ")[1:]:
        role, _, content = part.partition("\n")
        messages.append({"role": role.strip(), "content": content.strip()})
    return messages


@cache
def _text(domain: str) -> str:
    return (files("hope_lab.evaluate.data") / "texts" / f"{domain}.txt").read_text(encoding="utf-8")
