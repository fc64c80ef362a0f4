"""`make bench-vllm`: tokens per second of 1, 8 and 32 sessions, native and decoded by vLLM.

A JSON list on stdout, one entry for each number of sessions. All have memories of the default
policy's whole rank unless it says `bare`. `floor` is what reading the bytes alone would allow of
the ratio of with and without: those of the weights over those of the weights and the memories.
What is compared runs in turn, in one run; values are medians, wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.common import Entry, some_memory
from hope_runtime.checkpoints import load_base_model
from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY

SESSIONS = (1, 8, 32)
WINDOW_TOKENS = 256
REPLY_TOKENS = 32
ROUNDS = 2


@dataclass
class _Stream:
    """When the tokens of one reply came, in seconds."""

    pieces: list[tuple[float, int]] = field(default_factory=list)

    def on_text(self, piece: TextPiece) -> None:
        self.pieces.append((time.perf_counter(), piece.tokens))


def tokens_per_second(engine: SessionEngine, memories: Sequence[SessionMemory]) -> float:
    """Of replies that are written at once, while all of them are being written."""
    streams = [_Stream() for _ in memories]
    tickets = []
    for number, (memory, stream) in enumerate(zip(memories, streams, strict=True)):
        text = f"Tell me a long story about {number + 2} ships."
        # Hot enough that no reply ends by itself.
        sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=2.0, seed=number)
        turn = GenerateTurn("chat", (Message("user", text),), sampling)
        tickets.append(engine.generate(object(), memory, turn, stream.on_text))
    for ticket in tickets:
        ticket.future.result(600)
    begun = max(stream.pieces[0][0] for stream in streams)
    ended = min(stream.pieces[-1][0] for stream in streams)
    assert ended > begun, "the replies were not generated as one batch"
    counted = sum(
        tokens for stream in streams for at, tokens in stream.pieces if begun < at <= ended
    )
    return counted / (ended - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--sessions", type=int, nargs="+", default=[*SESSIONS])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_base_model("default", dtype=arguments.dtype)
    most = max(arguments.sessions)
    memories = [some_memory(model, seed) for seed in range(most)]
    fresh = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
    weights = sum(tensor.nbytes for _, tensor in model.weights.named())
    adapter = memories[0].adapter
    assert adapter is not None
    memory_bytes = adapter.to(model.dtype).nbytes
    window = KVCache.bytes_of(model.config, WINDOW_TOKENS + 32, model.dtype)
    options = {"window_tokens": WINDOW_TOKENS, "threads": arguments.threads}
    options["window_cache_bytes"] = (most + 2) * window
    print(f"{arguments.threads} threads, {model.dtype}", file=sys.stderr)
    entries: list[Entry] = []
    with (
        TorchEngine(model, memory_cache_bytes=8 << 30, **options) as torch_engine,
        VLLMEngine(model, rows=most, **options) as vllm,
    ):
        for count in arguments.sessions:
            kinds = {
                "torch": (torch_engine, memories[:count]),
                "vllm": (vllm, memories[:count]),
                "torch_bare": (torch_engine, [fresh] * count),
                "vllm_bare": (vllm, [fresh] * count),
            }
            rounds = [
                {name: tokens_per_second(*kind) for name, kind in kinds.items()}
                for _ in range(ROUNDS + 1)
            ][1:]  # the first one warms up
            entry: Entry = {"name": f"decode.engines{count}", "unit": "tokens/s"}
            entry |= {name: statistics.median(one[name] for one in rounds) for name in kinds}
            for engine in ("torch", "vllm"):
                ratios = (one[engine] / one[f"{engine}_bare"] for one in rounds)
                entry[f"{engine}_ratio"] = statistics.median(ratios)
            entry["floor"] = weights / (weights + count * memory_bytes)
            print(json.dumps(entry), file=sys.stderr, flush=True)
            entries.append(entry)
    print(json.dumps(entries, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
