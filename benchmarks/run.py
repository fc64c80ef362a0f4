"""`make bench`: the published speed figures, as a JSON list on stdout.

Each entry has `name`, `value` and `unit`; a comparison also has `against` (the other value) and
`ratio`. Times are CPU time of the process, and what is compared runs in turn, A B A B, so that a
machine whose speed drifts harms both alike; ratios are medians of the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch

from hope_runtime.checkpoints import load_base_model
from hope_runtime.config import DEFAULT_POLICY
from hope_runtime.engine.arena import Row
from hope_runtime.engine.reader import Reader
from hope_runtime.evaluate.filler import filler, load_text
from hope_runtime.fold import due, observe
from hope_runtime.learning import Learner
from hope_runtime.log import Record, RecordKind, Segment, Speaker
from hope_runtime.memory.cms import LowRank, initial
from hope_runtime.memory.state import SessionMemory
from hope_runtime.model.weights import BaseModel
from hope_runtime.text import split_spans

_Result = TypeVar("_Result")
Entry = dict[str, Any]

WINDOW_TOKENS = 1024
DECODED = 32
PAIRS = 5
NEAR, FAR = 1_000, 200_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), default=list(BENCHMARKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_base_model("default", dtype=arguments.dtype)
    print(f"{arguments.threads} threads, {model.dtype}", file=sys.stderr)
    entries = [BENCHMARKS[name](model) for name in arguments.only]
    print(json.dumps(entries, indent=2))
    return 0


def decode_single(model: BaseModel) -> Entry:
    """Greedy tokens per second with a full memory in every level, against transformers."""
    from benchmarks.reference import reference_model

    reader = Reader(model, WINDOW_TOKENS)
    prompt = tuple(model.tokenizer.encode("The history of the lighthouse begins with"))
    terms = _some_terms(model)
    reference = reference_model(model)
    ids = torch.tensor([prompt])

    def ours() -> float:
        row = reader.new_row()
        row.terms = terms
        logits = _run(reader.read(row, prompt)).logits
        started = time.process_time()
        for _ in range(DECODED):
            logits = reader.extend(row, int(logits.argmax()))
        return DECODED / (time.process_time() - started)

    def theirs() -> float:
        # Without the time to read the prompt, as above.
        def spent(tokens: int) -> float:
            started = time.process_time()
            reference.generate(
                ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
            return time.process_time() - started

        return DECODED / (spent(DECODED + 1) - spent(1))

    return _compared("decode.single", "tokens/CPU-s", ours, theirs)


def prefill_read_only(model: BaseModel) -> Entry:
    """Tokens per second of reading a text of a thousand tokens that is not learnt."""
    reader = Reader(model, WINDOW_TOKENS)
    tokens = tuple(t for span in _spans(model, 1000) for t in span)[:1000]
    rates = []
    for _ in range(PAIRS):
        row = reader.new_row()
        row.terms = _some_terms(model)
        started = time.process_time()
        _run(reader.read(row, tokens))
        rates.append(len(tokens) / (time.process_time() - started))
    return {"name": "prefill.read_only", "value": statistics.median(rates), "unit": "tokens/CPU-s"}


def ingest_learning(model: BaseModel) -> Entry:
    """Tokens per second, wall time, of reading a text of a thousand tokens and learning it."""
    learner = Learner(model)
    memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
    spans = _spans(model, 1000)
    started = time.monotonic()
    memory = _observed(memory, spans, learnable=True)
    while (boundary := due(memory)) is not None:
        memory = learner.consolidate_now(memory, boundary)
    spent = time.monotonic() - started
    return {
        "name": "ingest.learning",
        "value": memory.observed_tokens / spent,
        "unit": "learnable tokens/s",
    }


def decode_position(model: BaseModel) -> Entry:
    """Milliseconds a token at position 200,000 of a session against position 1,000.

    Both windows hold real tokens and the same number of them. What has left a window is not read:
    keys and values are a pure function of the tokens that are in it.
    """
    reader = Reader(model, WINDOW_TOKENS)
    spans = _spans(model, FAR)
    rows = {}
    for position in (NEAR, FAR):
        memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
        taken, count = [], 0
        for span in spans:
            taken.append(span)
            count += len(span)
            if count >= position:
                break
        memory = _observed(memory, taken, learnable=False)
        window = memory.conversations["reading"].window
        assert window.position >= position
        # The windows fill and empty in turns; compared at the same fill, whatever the position.
        tokens = window.tokens[-(WINDOW_TOKENS // 2) :]
        row = reader.new_row()
        row.terms = _some_terms(model)
        _run(reader.read(row, tokens))
        rows[position] = row

    def spent(row: Row) -> float:
        length = row.kv.length
        started = time.process_time()
        for _ in range(DECODED):
            reader.extend(row, 30)
        taken = (time.process_time() - started) / DECODED * 1000
        row.kv.truncate(length)
        return taken

    return _compared(
        "decode.position", "CPU-ms/token", lambda: spent(rows[FAR]), lambda: spent(rows[NEAR])
    )


def _compared(
    name: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float]
) -> Entry:
    ours(), theirs()  # warm up
    pairs = [(ours(), theirs()) for _ in range(PAIRS)]
    return {
        "name": name,
        "value": statistics.median(a for a, _ in pairs),
        "unit": unit,
        "against": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def _some_terms(model: BaseModel) -> LowRank:
    """Non-zero terms of the default policy's whole rank."""
    terms = initial(model.config, sum(level.rank for level in DEFAULT_POLICY.levels), seed=0)
    generator = torch.Generator().manual_seed(1)
    return LowRank(
        **{
            name: tensor
            if name.endswith("_a")
            else torch.randn(tensor.shape, generator=generator) * 1e-4
            for name, tensor in terms.tensors().items()
        }
    ).to(model.dtype)


def _spans(model: BaseModel, tokens: int) -> list[tuple[int, ...]]:
    text = filler(load_text(None), model.tokenizer, tokens, seed=0)
    return [tuple(model.tokenizer.encode(span)) for span in split_spans(text)]


def _observed(
    memory: SessionMemory, spans: list[tuple[int, ...]], *, learnable: bool
) -> SessionMemory:
    for start in range(0, len(spans), 64):
        segment = Segment(Speaker.DOCUMENT, tuple(spans[start : start + 64]), learnable)
        record = Record(
            RecordKind.DOCUMENT,
            "reading",
            (segment,),
            document="text",
            ended=start + 64 >= len(spans),
        )
        memory = observe(memory, record, window_tokens=WINDOW_TOKENS)
    return memory


def _run(work: Generator[None, None, _Result]) -> _Result:
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result


BENCHMARKS = {
    "decode.single": decode_single,
    "prefill.read_only": prefill_read_only,
    "ingest.learning": ingest_learning,
    "decode.position": decode_position,
}


if __name__ == "__main__":
    raise SystemExit(main())
