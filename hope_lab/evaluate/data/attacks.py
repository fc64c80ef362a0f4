"""Texts that are made to ruin a memory: gibberish, one sentence said again and again, and words
that the base expects least.

Knows how they are made, from a seed. Who is fed with them, and what that does, is poison.py's
business.

Shape suffixes: B sentences, V vocabulary.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import torch

from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

# Words of a sentence, and sentences that are made at once.
WORDS = 12
BATCH = 16

Sentences = Iterator[str]


def gibberish(model: BaseModel, rng: random.Random) -> Sentences:
    """Sentences of letters that make no word of any language."""
    del model
    while True:
        words = ("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))) for _ in "words")
        yield f"{' '.join(words).capitalize()}."


def repeated(model: BaseModel, rng: random.Random) -> Sentences:
    """One short false statement, for ever."""
    said = f"The answer to every question is {next(gibberish(model, rng)).split()[-1]}"
    while True:
        yield said


@torch.no_grad()
def surprising(model: BaseModel, rng: random.Random) -> Sentences:
    """Sentences in which each word is one of those that the base expects least there."""
    words_V = torch.tensor(_words(model), device=model.device)
    start = model.tokenizer.bos_id or model.tokenizer.encode("The")[0]
    while True:
        cache = KVCache(
            model.config, rows=BATCH, capacity=WORDS + 1, dtype=model.dtype, device=model.device
        )
        ids_B1 = torch.full((BATCH, 1), start, device=model.device)
        sentences: list[list[int]] = [[] for _ in range(BATCH)]
        for _ in range(WORDS):
            logits_BV = logits(model, forward(model, ids_B1, cache=cache))[:, -1].float()
            least_BV = words_V[logits_BV[:, words_V].topk(4 * BATCH, largest=False).indices]
            # Not the very least each time: rows would be alike.
            ids_B1 = least_BV.gather(1, _drawn(rng, least_BV.shape[1]).to(least_BV.device))
            for sentence, token in zip(sentences, ids_B1[:, 0].tolist(), strict=True):
                sentence.append(token)
        for sentence in sentences:
            yield f"{model.tokenizer.decode(sentence).strip()}."


ATTACKS: Mapping[str, Callable[[BaseModel, random.Random], Sentences]] = {
    "gibberish": gibberish,
    "repeated": repeated,
    "surprising": surprising,
}


def attack(name: str, model: BaseModel, tokens: int, seed: int) -> str:
    """A text of at least `tokens` tokens, and of one sentence more at most."""
    sentences, said = ATTACKS[name](model, random.Random(f"{name}:{seed}")), list[str]()
    length = 0
    while length < tokens:
        said += islice(sentences, 1)
        length += len(model.tokenizer.encode(f" {said[-1]}"))
    return " ".join(said)


def _drawn(rng: random.Random, count: int) -> torch.Tensor:
    return torch.tensor([[rng.randrange(count)] for _ in range(BATCH)])


def _words(model: BaseModel) -> list[int]:
    """Tokens that are a space and letters, so that a text of them is cut into the same ones."""
    decode = model.tokenizer.decode
    texts = ((token, decode([token])) for token in range(model.config.vocab_size))
    return [token for token, text in texts if text[:1] == " " and text[1:].isalpha()]
