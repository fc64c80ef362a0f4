"""Benchmarks of one session: decoding, reading, learning, and what a long past costs."""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from benchmarks.common import (
    PAIRS,
    WINDOW_TOKENS,
    Entry,
    compared,
    observed_all,
    served_terms,
    text_spans,
)
from benchmarks.decoding import DECODED, ours, transformers
from benchmarks.floors import decoding_floor, reading_floor, training_floor
from hope_runtime.engine.kv_slots import Slot
from hope_runtime.engine.runner import Runner
from hope_runtime.engine.window_reader import Reader
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY
from hope_runtime.session.window import Window
from hope_runtime.steps import at_once

SCORED = 256
NEAR, FAR = 1_000, 200_000


def decode_single(model: BaseModel) -> Entry:
    """Greedy tokens per second with a full memory in every level, against transformers."""
    adapter = served_terms(model)
    entry = compared(
        "decode.single", "tokens/CPU-s", ours(model, None, adapter), transformers(model)
    )
    return {**entry, "floor": decoding_floor(model, [adapter])}


def prefill_read_only(model: BaseModel) -> Entry:
    """Tokens per second of reading a text of a thousand tokens that is not learnt."""
    reader, runner = Reader(model, WINDOW_TOKENS), Runner(model)
    tokens = tuple(t for span in text_spans(model, 1000) for t in span)[:1000]
    rates = []
    for _ in range(PAIRS):
        row = reader.new_slot()
        row.adapter = served_terms(model)
        started = time.process_time()
        runner.finish(reader.read(row, tokens))
        rates.append(len(tokens) / (time.process_time() - started))
    return {
        "name": "prefill.read_only",
        "value": statistics.median(rates),
        "unit": "tokens/CPU-s",
        "floor": reading_floor(model),
    }


def ingest_learning(model: BaseModel) -> Entry:
    """Tokens per second, wall time, of reading a document of a thousand tokens and learning it at
    the default budget."""
    return _ingest("ingest.learning", model, DEFAULT_POLICY.document_budget)


def ingest_reading(model: BaseModel) -> Entry:
    """The same with nothing practised: what scoring a document alone costs."""
    return _ingest("ingest.reading", model, 0.0)


def _ingest(name: str, model: BaseModel, budget: float | None) -> Entry:
    learner = Learner(model)
    memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
    spans = text_spans(model, 1000)
    trained, started, used = 0, time.monotonic(), time.process_time()
    memory = observed_all(memory, spans, learnable=True, budget=budget)
    while (boundary := due(memory)) is not None:
        memory, report = at_once(learner.consolidate(memory, boundary))
        trained += report.trained_tokens
    spent, used = time.monotonic() - started, time.process_time() - used
    floor = reading_floor(model)
    if trained:
        floor = training_floor(model, time.monotonic) * memory.observed_tokens / trained
    return {
        "name": name,
        "value": memory.observed_tokens / spent,
        "unit": "learnable tokens/s",
        "per_cpu_second": memory.observed_tokens / used,
        "trained_tokens": trained,
        "floor": floor,
    }


def window_loss(model: BaseModel) -> Entry:
    """Nats a token of a text around position 20,000, read in the hopping window with its pinned
    start, against a plain forward pass over as many of the latest tokens."""
    spans = text_spans(model, 24_000)
    stream = tuple(token for span in spans for token in span)
    reader, runner = Reader(model, WINDOW_TOKENS), Runner(model)
    hopped, fresh = [], []
    for position in range(20_000, 24_000, 800):
        tokens = Window(WINDOW_TOKENS).append(stream[:position]).tokens
        size = len(tokens)
        row = reader.new_slot()
        reading = runner.finish(reader.read(row, tokens, score=range(size - SCORED, size)))
        hopped.append(reading.nats / SCORED)
        with torch.no_grad():
            recent_T = torch.tensor([stream[position - size : position]])
            states_TD = forward(model, recent_T)[:, -SCORED - 1 : -1]
            logits_TV = logits(model, states_TD)[0].float()
        fresh.append(float(cross_entropy(logits_TV, recent_T[0, -SCORED:])))
    value, against = statistics.mean(hopped), statistics.mean(fresh)
    return {
        "name": "window.loss",
        "value": value,
        "unit": "nats/token",
        "against": against,
        "ratio": value / against,
    }


def decode_position(model: BaseModel) -> Entry:
    """Milliseconds a token at position 200,000 of a session against position 1,000.

    Both windows hold real tokens and the same number of them. What has left a window is not read:
    keys and values are a pure function of the tokens that are in it.
    """
    reader, runner = Reader(model, WINDOW_TOKENS), Runner(model)
    spans = text_spans(model, FAR)
    rows = {}
    for position in (NEAR, FAR):
        memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
        taken, count = [], 0
        for span in spans:
            taken.append(span)
            count += len(span)
            if count >= position:
                break
        memory = observed_all(memory, taken, learnable=False)
        window = memory.conversations["reading"].window
        assert window.position >= position
        # The windows fill and empty in turns; compared at the same fill, whatever the position.
        tokens = window.tokens[-(WINDOW_TOKENS // 2) :]
        row = reader.new_slot()
        row.adapter = served_terms(model)
        runner.finish(reader.read(row, tokens))
        rows[position] = row

    def spent(row: Slot) -> float:
        length = row.kv.length
        started = time.process_time()
        for _ in range(DECODED):
            runner.finish(reader.extend(row, 30))
        taken = (time.process_time() - started) / DECODED * 1000
        row.kv.truncate(length)
        return taken

    return compared(
        "decode.position", "CPU-ms/token", lambda: spent(rows[FAR]), lambda: spent(rows[NEAR])
    )
