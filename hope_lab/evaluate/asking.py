"""Asks many questions at once, greedily, and judges the replies.

Knows prompts of token ids, the batched decoding of them and what counts as correct. Leaves what
is asked, and after what, to the tasks.

Shape suffixes: B rows, T new tokens, S keys, P shared prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor

from hope_lab.evaluate.data.items import mentions
from hope_lab.evaluate.learnt import Beside, Learnt
from hope_runtime.engine.prompt import Message, encode_spans, turn_record
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import (
    FastMemoryPass,
    FastMemoryStream,
    find,
    inputs,
)
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory
from hope_runtime.tokenizer import Tokenizer

NEW_TOKENS = 24
# Rows that are decoded together; together their caches hold at most so many tokens, unless one
# row alone needs more.
ROWS = 16
CACHE_TOKENS = 24_576
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")

Ids = tuple[int, ...]


def chat_prompt(tokenizer: Tokenizer, memory: SessionMemory, text: str) -> Ids:
    """Ids of `text` as the first turn of a new conversation, exactly as the engine would read it.

    The window is empty but for the template and its default system prompt.
    """
    assert "" not in memory.conversations, "questions must be asked in a new conversation"
    return turn_record(tokenizer, memory, "", [Message("user", text)], learn=False).tokens


def raw_prompt(tokenizer: Tokenizer, text: str) -> Ids:
    """Ids of plain text, after the beginning-of-text token where the model expects one."""
    ids = tuple(token for span in encode_spans(tokenizer, text) for token in span)
    return (tokenizer.bos_id, *ids) if tokenizer.add_bos and tokenizer.bos_id is not None else ids


@torch.no_grad()
def ask(
    model: BaseModel,
    prompts: Sequence[Ids],
    learnt: Learnt,
    *,
    new_tokens: int = NEW_TOKENS,
    done: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Greedy replies to each prompt, of at most `new_tokens` tokens, without the end token.

    What all prompts begin with is read once. `done` is told how many replies were finished since
    its last call.
    """
    if not prompts:
        return []
    adapter = None if learnt.adapter is None else learnt.adapter.to(model.dtype)
    beside = learnt.beside
    reading = None if beside is None else beside.reads()
    shared = _common_prefix(prompts)
    prefix = _cache(model, rows=1, capacity=len(shared))
    if shared:
        forward(model, _ids(model, [shared]), cache=prefix, adapter=adapter, fast_memory=reading)
    replies = [""] * len(prompts)
    # Rows of like length together, so that little is spent on padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    longest = max(map(len, prompts)) + new_tokens
    rows = max(1, min(ROWS, CACHE_TOKENS // longest))
    start = 0
    while start < len(order):
        members = order[start : start + rows]
        start += len(members)
        suffixes = [prompts[index][len(shared) :] for index in members]
        state = None if reading is None else reading.after
        if beside is not None and state is not None:
            carry = state.carry.expand(len(members), -1, -1)
            state = replace(beside.begins(len(members)), carry=carry)
        decoded = _decode(model, prefix, suffixes, adapter, new_tokens, beside, state)
        for index, reply in zip(members, decoded, strict=True):
            replies[index] = model.tokenizer.decode(reply)
        done(len(members))
    return replies


def first_sentence(reply: str) -> str:
    """The part of a reply that is judged.

    Leading white space is dropped; the sentence ends with the first '.', '!' or '?' that white
    space or the end follows, or before a line break. So "Sure! It is Oslo." is judged by "Sure!",
    and "Dr. Wexler" by "Dr.": an answer has to come to the point. Where none of these comes,
    the whole reply is one sentence.
    """
    text = reply.lstrip()
    end = _SENTENCE_END.search(text)
    return text if end is None else text[: end.end()].rstrip()


def is_correct(reply: str, value: str, others: Sequence[str]) -> bool:
    """Whether the first sentence has the value, as whole words in any case, and no other one."""
    sentence = first_sentence(reply)
    return mentions(sentence, value) and not any(mentions(sentence, other) for other in others)


def _decode(
    model: BaseModel,
    prefix: KVCache,
    suffixes: Sequence[Ids],
    adapter: LoraAdapter | None,
    new_tokens: int,
    beside: Beside | None,
    state: FastMemoryStream | None,
) -> list[list[int]]:
    """Replies of rows that share `prefix`; shorter rows are padded between it and their own ids.

    `state` is that of the branch behind the prefix.
    """
    B, P, T = len(suffixes), prefix.length, max(map(len, suffixes))
    cache = _cache(model, rows=B, capacity=P + T + new_tokens)
    cache.k[:, :, :, :P] = prefix.k[:, :, :, :P]
    cache.v[:, :, :, :P] = prefix.v[:, :, :, :P]
    cache.length = P
    padding = [T - len(suffix) for suffix in suffixes]
    ids_BT = _ids(model, [(0,) * pad + ids for pad, ids in zip(padding, suffixes, strict=True)])
    pad_B1 = torch.tensor(padding, device=model.device)[:, None]
    place_T = torch.arange(T, device=model.device)
    positions_BT = (P + place_T - pad_B1).clamp_(min=0)
    visible_BT = place_T >= pad_B1
    prefix_BP = visible_BT.new_ones(B, P)
    causal_TT = visible_BT.new_ones(T, T).tril()
    # A padding token sees itself: attention to nothing has no value.
    own_BTT = visible_BT[:, None, :] & causal_TT | torch.eye(
        T, dtype=torch.bool, device=model.device
    )
    mask_BTS = torch.cat([prefix_BP[:, None, :].expand(B, T, P), own_BTT], dim=-1)
    seen_BS = torch.cat([prefix_BP, visible_BT], dim=-1)
    replies: list[list[int]] = [[] for _ in suffixes]
    open_rows = set(range(B))
    for step in range(new_tokens):
        reading = None
        if beside is not None and state is not None:
            reading = _PaddedPass(beside.fast_memory, state, padding if step == 0 else [0] * B)
        hidden_BTD = forward(
            model,
            ids_BT,
            positions_BT=positions_BT,
            cache=cache,
            adapter=adapter,
            mask_BTS=mask_BTS,
            fast_memory=reading,
        )
        state = None if reading is None else reading.after
        chosen = logits(model, hidden_BTD[:, -1:])[:, 0].float().argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if token in model.tokenizer.eos_ids:
                open_rows.discard(row)
            if row in open_rows:
                replies[row].append(token)
        if not open_rows or step + 1 == new_tokens:
            break
        ids_BT, positions_BT = chosen[:, None], positions_BT[:, -1:] + 1
        seen_BS = torch.cat([seen_BS, seen_BS.new_ones(B, 1)], dim=-1)
        mask_BTS = seen_BS[:, None, :]
    return replies


class _PaddedPass(FastMemoryPass):
    """A pass with a fast memory over rows whose own tokens stand behind padding.

    Keys are made of the tokens before; padding is none, so what stood before it takes its place.
    """

    def __init__(
        self, fast_memory: FastMemory, state: FastMemoryStream, padding: Sequence[int]
    ) -> None:
        super().__init__(fast_memory, state)
        self._before, self._padding = state, padding

    def at(self, layer: int, x_BTD: Tensor) -> Tensor:
        config, weights = self._fast_memory.config, self._fast_memory.weights
        if layer in config.sources:
            self._seen.append(x_BTD)
        if layer != config.target:
            return x_BTD
        carry = self._before.carry
        joined_BTR = torch.cat((carry, inputs(config, weights, self.hidden)), dim=1)
        for row, pad in enumerate(self._padding):
            joined_BTR[row, pad : pad + config.taps] = carry[row]
        self.after = replace(self._before, carry=joined_BTR[:, -config.taps :])
        added_BTD = find(config, weights, joined_BTR[:, 1:], self._before.memory)
        return x_BTD + added_BTD.to(x_BTD.dtype)


def _common_prefix(prompts: Sequence[Ids]) -> Ids:
    """The longest one that leaves every prompt a token of its own."""
    # What the least and the greatest share, all between them share too.
    first, last = min(prompts), max(prompts)
    pairs = zip(first, last, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return first[: min(common, min(map(len, prompts)) - 1)]


def _cache(model: BaseModel, rows: int, capacity: int) -> KVCache:
    return KVCache(
        model.config, rows=rows, capacity=capacity, dtype=model.dtype, device=model.device
    )


def _ids(model: BaseModel, rows: Sequence[Ids]) -> Tensor:
    return torch.tensor(rows, dtype=torch.long, device=model.device)
