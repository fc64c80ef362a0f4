"""All speed figures of one device, in one run of a few minutes, as a JSON list on stdout.

    python -m benchmarks.gpu [--model FILE] [--device cuda:0]

It needs the weights' file and nothing else: no network, no server. Decoding counts the tokens of
replies that are written at once, while all of them are; sessions have memories of the default
policy's whole rank, or none. Figures that --seconds leave no time for are null. Wall time.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from benchmarks.common import Entry, some_memory, text_spans
from hope_lab.evaluate.data.filler import filler, load_text
from hope_lab.evaluate.tasks.personal import make_course
from hope_runtime.checkpoints import load_base_model
from hope_runtime.checkpoints.fast_memory import shipped_fast_memory
from hope_runtime.device import Device
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY

WINDOW_TOKENS = 1024
ROUNDS = 3
FACTS_OF_A_PERSON = 6


@dataclass
class Timeline:
    """Seconds at which pieces of one reply came, and their tokens."""

    pieces: list[tuple[float, int]] = field(default_factory=list)

    def on_text(self, piece: TextPiece) -> None:
        self.pieces.append((time.perf_counter(), piece.tokens))


@dataclass(frozen=True)
class Bench:
    """An engine, and what its figures are measured with."""

    engine: TorchEngine
    model: BaseModel
    reply_tokens: int
    prompt_tokens: int

    def fresh(self) -> SessionMemory:
        return SessionMemory.fresh(self.model.fingerprint, DEFAULT_POLICY)

    def decode(
        self, sessions: int, memories: list[SessionMemory], temperature: float = 0.0
    ) -> float:
        """Tokens per second of replies that are written at once."""
        lines = [Timeline() for _ in range(sessions)]
        requests = []
        for number, line in enumerate(lines):
            text = f"Tell me a long story about {number + 2} ships."
            turn = GenerateTurn(
                "chat",
                (Message("user", text),),
                Sampling(max_tokens=self.reply_tokens, temperature=temperature, seed=number),
            )
            memory = memories[number] if memories else self.fresh()
            requests.append(self.engine.generate(object(), memory, turn, line.on_text))
        for request in requests:
            request.future.result()
        begun = max(line.pieces[0][0] for line in lines)
        ended = min(line.pieces[-1][0] for line in lines)
        counted = sum(tokens for line in lines for at, tokens in line.pieces if begun < at <= ended)
        # Replies that end at once, or one after the other, have no such time in common.
        return counted / (ended - begun) if ended > begun else float("nan")

    def prefill(self, memory: SessionMemory) -> float:
        """Tokens per second of reading and scoring a text."""
        tokens = [t for span in text_spans(self.model, self.prompt_tokens) for t in span]
        text = self.model.tokenizer.decode(tokens[: self.prompt_tokens])
        started = time.perf_counter()
        outcome = self.engine.score(memory, "", text).future.result()
        return outcome.scored / (time.perf_counter() - started)

    def first_token_seconds(self, number: int) -> float:
        """Seconds from a prompt of so many tokens to the first text of its reply."""
        text = filler(load_text(None), self.model.tokenizer, self.prompt_tokens - 40, seed=number)
        line = Timeline()
        turn = GenerateTurn("chat", (Message("user", text),), Sampling(max_tokens=4))
        started = time.perf_counter()
        self.engine.generate(object(), self.fresh(), turn, line.on_text).future.result()
        return line.pieces[0][0] - started

    def learn(self, facts: int) -> Entry:
        """Seconds to learn facts that users tell about themselves, and the tokens it trains on."""
        memory = self.fresh()
        for person in range(0, facts, FACTS_OF_A_PERSON):
            count = min(FACTS_OF_A_PERSON, facts - person)
            course = make_course(0, person, count)
            conversation = f"introduction-{person}"
            for message in course.lessons[0].messages or ():
                turn = GenerateTurn(
                    conversation, (Message("user", message),), Sampling(max_tokens=4)
                )
                request = self.engine.generate(object(), memory, turn, lambda _: None)
                memory = request.future.result().memory
            end = Record(RecordKind.END_CONVERSATION, conversation)
            memory = observe(memory, end, window_tokens=self.engine.window_tokens)
        trained, started = 0, time.perf_counter()
        phases: Counter[str] = Counter()
        while (boundary := due(memory)) is not None:
            memory, report = self.engine.consolidate(memory, boundary).future.result()
            trained += report.trained_tokens
            phases.update(report.phases)
        seconds = time.perf_counter() - started
        return {"value": seconds, "trained_tokens": trained, "phases": dict(phases)}


def median_of(measure: Callable[[], float]) -> float:
    """Median of a few rounds, after one that warms up and captures."""
    measure()
    return statistics.median(measure() for _ in range(ROUNDS))


def figures(bench: Bench, sessions: list[int], facts: list[int], seconds: float) -> list[Entry]:
    """All figures, in an order in which the dearest ones come last."""
    ends = time.monotonic() + seconds
    entries: list[Entry] = []

    def add(name: str, unit: str, measure: Callable[[], Entry]) -> None:
        entry: Entry = {"name": name, "unit": unit, "value": None}
        if time.monotonic() < ends:
            entry |= measure()
        print(json.dumps(entry), file=sys.stderr, flush=True)
        entries.append(entry)

    memories = [some_memory(bench.model, seed) for seed in range(max(sessions))]
    for count in sessions:
        for kind, held in (("bare", []), ("memories", memories)):
            add(
                f"decode.{kind}{count}",
                "tokens/s",
                lambda count=count, held=held: {  # type: ignore[misc]
                    "value": median_of(lambda: bench.decode(count, held))
                },
            )
    most = max(sessions)
    add(
        f"decode.temperature{most}",
        "tokens/s",
        lambda: {"value": median_of(lambda: bench.decode(most, memories, temperature=0.8))},
    )
    for kind, memory in (("bare", bench.fresh()), ("memories", memories[0])):
        add(
            f"prefill.{kind}",
            "tokens/s",
            lambda memory=memory: {  # type: ignore[misc]
                "value": median_of(lambda: bench.prefill(memory))
            },
        )
    prompts = iter(range(ROUNDS + 1))
    add(
        f"first_token.{bench.prompt_tokens}",
        "seconds",
        lambda: {"value": median_of(lambda: bench.first_token_seconds(next(prompts)))},
    )
    if facts:
        # What a server does once: the base's samples, directions, and most of the graphs.
        add("learn.first", "seconds", lambda: bench.learn(min(facts)))
    for count in facts:
        add(f"learn.{count}_facts", "seconds", lambda count=count: bench.learn(count))  # type: ignore[misc]
    return entries


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--facts", type=int, nargs="*", default=[6, 30])
    parser.add_argument("--reply-tokens", type=int, default=128)
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument(
        "--static", action="store_true", help="decode on a CPU by the steps of a GPU"
    )
    options = parser.parse_args(argv)
    device = Device.choose(options.device, options.dtype, options.threads)
    torch.set_num_threads(device.threads)
    model = load_base_model(options.model, dtype=options.dtype, device=device.place)
    window = KVCache.bytes_of(model.config, WINDOW_TOKENS, model.dtype)
    with TorchEngine(
        model,
        fast_memory=shipped_fast_memory(model),
        window_tokens=WINDOW_TOKENS,
        threads=device.threads,
        window_cache_bytes=(max(options.sessions) + 2) * window,
        memory_cache_bytes=4 << 30,
        static=True if options.static else None,
    ) as engine:
        bench = Bench(engine, model, options.reply_tokens, options.prompt_tokens)
        gc.collect()
        entries = figures(bench, options.sessions, options.facts, options.seconds)
    about = {"name": "device", "value": device.describe(), "unit": "", "torch": torch.__version__}
    print(json.dumps([about, *entries], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
