"""Outcomes of turns, as the events that tell of them."""

from __future__ import annotations

import time
from dataclasses import replace

from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.turn import GenerateOutcome
from hope_runtime.tokenizer import Tokenizer
from server.app.events import Finished, TextDelta, TokenLogprob, TokenLogprobs, Usage


def delta_of(tokenizer: Tokenizer, piece: TextPiece) -> TextDelta:
    """Text of a reply, its tokens with their bytes."""

    def one(token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token, tokenizer.token_bytes(token), logprob)

    return TextDelta(
        piece.text,
        piece.tokens,
        tuple(
            TokenLogprobs(one(each.token, each.logprob), tuple(one(*likely) for likely in each.top))
            for each in piece.logprobs
        ),
    )


def finished_of(outcome: GenerateOutcome, version: int, cached_tokens: int = 0) -> Finished:
    """The end of a reply that memory `version` gave, before `waited` counts its time."""
    usage = Usage(
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        learnable_tokens=outcome.record.learnable_tokens,
        memory_version=version,
        queue_seconds=0.0,
        prefill_seconds=outcome.prefill_seconds,
        decode_seconds=outcome.decode_seconds,
        surprise_nats=outcome.surprise_nats,
        cached_input_tokens=cached_tokens,
    )
    return Finished(outcome.finish_reason, outcome.text, usage)


def waited(finished: Finished, started: float) -> Finished:
    """The end of a reply with the time that its turn, which came at `started`, has waited."""
    usage = finished.usage
    spent = usage.prefill_seconds + usage.decode_seconds
    seconds = max(0.0, time.monotonic() - started - spent)
    return replace(finished, usage=replace(usage, queue_seconds=seconds))
