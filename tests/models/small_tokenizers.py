"""Small tokenizers of every kind that Llama-family models come with, trained on a few sentences."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Hello world, my cat is called Ada.\n",
    "user assistant system You are a helpful bot. What is my name?\n",
    "[INST] What colour is the sea? [/INST] It is blue, and sometimes green.\n",
    "USER: Hi! ASSISTANT: Good morning. <|user|> and <|assistant|> and <s> and </s>\n",
] * 50
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# What stands before the words of a text: a normaliser's, or the pre-tokenizer's at one place.
OPENINGS = ("prepend", "first", "always", "never")


def bpe(opening: str, *, words: bool = True) -> Tokenizer:
    """Byte-pair encoding with byte fallback and "▁" for spaces, as in Llama 2 and Mistral. Without
    `words`, tokens may reach from one word into the next."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    if words:
        trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=200, show_progress=False, special_tokens=["<unk>"])
    )
    described = json.loads(trained.to_str())
    learnt = sorted(described["model"]["vocab"], key=described["model"]["vocab"].get)
    tokens = list(dict.fromkeys(["<unk>", "<s>", "</s>", *BYTES, "▁", *learnt]))
    described["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    described["model"] |= {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    described["pre_tokenizer"] = described["normalizer"] = None
    return _finished(Tokenizer.from_str(json.dumps(described)), opening)


def unigram(opening: str) -> Tokenizer:
    """SentencePiece's other model, whose vocabulary holds the control tokens as pieces."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=120,
            show_progress=False,
            special_tokens=["<unk>", "<s>", "</s>"],
            unk_token="<unk>",
        ),
    )
    trained.pre_tokenizer = None
    return _finished(trained, opening)


def byte_level(*, add_prefix_space: bool = False) -> Tokenizer:
    """Byte-level BPE, as in GPT-2 and SmolLM2."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    made.add_special_tokens([AddedToken(name, normalized=False) for name in ("<s>", "</s>")])
    return made


def _finished(tokenizer: Tokenizer, opening: str) -> Tokenizer:
    if opening == "prepend":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=opening, split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer


def parsed(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.json of it."""
    described: dict[str, Any] = json.loads(tokenizer.to_str())
    return described
