"""Prefixes of windows that stand alone: of a plain text, and of a chat's first message."""

from __future__ import annotations

from hope_runtime.tokenizer import Tokenizer


def before_text(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Before a text that stands alone, where the model expects anything: it predicts nothing well
    without it."""
    return (tokenizer.bos_id,) if tokenizer.add_bos and tokenizer.bos_id is not None else ()


def plain_opening(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Before a text: the beginning-of-text token, or what separates texts."""
    bos = tokenizer.bos_id
    return (bos if bos is not None else min(tokenizer.eos_ids),)


def chat_opening(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Of a chat, up to the user's first word. Needs a chat template."""
    return tuple(tokenizer.encode_template(tokenizer.fields("user").before))
