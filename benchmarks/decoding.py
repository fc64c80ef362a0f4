"""`make bench-decode`: one session's greedy decoding beside transformers and llama.cpp.

The default model on all sides, from the same GGUF file: ours and transformers' with the weights
dequantised to the precision of the run, llama.cpp's with the file's own 4-bit blocks. Tokens per
CPU-second, what is compared in turn, medians. A JSON list on stdout.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common import PAIRS, WINDOW_TOKENS, Entry, served_terms
from benchmarks.floors import decoding_floor
from benchmarks.reference import reference_model
from hope_runtime.checkpoints import find_source, load_base_model
from hope_runtime.engine.runner import Runner
from hope_runtime.engine.window_reader import Reader
from hope_runtime.layers.kernels.native import native_kernels
from hope_runtime.layers.kernels.torch_kernels import Kernels, TorchRowKernels
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.weights import BaseModel

PROMPT = "The history of the lighthouse begins with"
DECODED = 32
LLAMA_CPP = Path(__file__).with_name("llama_cpp.py")


def ours(
    model: BaseModel, kernels: Kernels | None, adapter: ServedAdapter | None
) -> Callable[[], float]:
    """Measures our decoding, with given kernels or those that a server would choose."""
    reader, runner = Reader(model, WINDOW_TOKENS), Runner(model, kernels=kernels)
    prompt = tuple(model.tokenizer.encode(PROMPT))

    def measure() -> float:
        slot = reader.new_slot()
        slot.adapter = adapter
        logits = runner.finish(reader.read(slot, prompt)).logits
        started = time.process_time()
        for _ in range(DECODED):
            logits = runner.finish(reader.extend(slot, int(logits.argmax())))
        return DECODED / (time.process_time() - started)

    return measure


def transformers(model: BaseModel) -> Callable[[], float]:
    """Measures `generate` of transformers, without the time to read the prompt."""
    reference = reference_model(model)
    ids = torch.tensor([model.tokenizer.encode(PROMPT)])

    def spent(tokens: int) -> float:
        started = time.process_time()
        reference.generate(
            ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        return time.process_time() - started

    return lambda: DECODED / (spent(DECODED + 1) - spent(1))


def llama_cpp(python: Path, threads: int) -> Callable[[], float]:
    """Measures llama.cpp in another process, whose interpreter is `python`.

    Not a number where it does not run, as its wheel does not with an older libstdc++ than its own.
    """
    file = find_source("default")

    def measure() -> float:
        command = [python, LLAMA_CPP, file, PROMPT, str(DECODED), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print("llama.cpp left out:", *done.stderr.splitlines()[-1:], file=sys.stderr)
            return math.nan
        found = json.loads(done.stdout.splitlines()[-1])
        print(found["build"], file=sys.stderr)
        return float(found["rate"])

    return measure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="Python interpreter that has llama-cpp-cffi")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_base_model("default", dtype=arguments.dtype)
    adapter = served_terms(model)
    measures = {
        "ours, no memory": ours(model, None, None),
        "ours, memory of rank 56": ours(model, None, adapter),
        "ours, torch's kernels, no memory": ours(model, TorchRowKernels(), None),
        "transformers": transformers(model),
    }
    if arguments.peers is not None:
        measures["llama.cpp"] = llama_cpp(arguments.peers, arguments.threads)
    rounds = [{name: measure() for name, measure in measures.items()} for _ in range(PAIRS + 1)]
    del rounds[0]  # it warmed up
    compiled = "compiled" if native_kernels(model.dtype) is not None else "torch's"
    print(f"{arguments.threads} threads, {model.dtype}, {compiled} kernels", file=sys.stderr)
    floors = {
        "ours, no memory": decoding_floor(model, [None]),
        "ours, memory of rank 56": decoding_floor(model, [adapter]),
    }
    entries: list[Entry] = []
    for name in measures:
        if math.isnan(rounds[0][name]):
            continue
        entry: Entry = {"name": name, "unit": "tokens/CPU-s"}
        entry["value"] = statistics.median(one[name] for one in rounds)
        entry["ratio"] = statistics.median(one["ours, no memory"] / one[name] for one in rounds)
        if name in floors:
            entry["floor"] = floors[name]
        entries.append(entry)
    print(json.dumps(entries, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
