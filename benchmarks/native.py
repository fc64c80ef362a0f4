"""`make bench-native`: native models beside other implementations of the architecture.

Ours and theirs are measured in the same run, tokens per CPU-second on one thread: nested-learning
0.2.0 and titans-pytorch 0.5.5 in an environment of their own (peers.py). Prints a JSON list on
stdout. Random weights: what a step costs does not depend on what was learnt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_runtime.layers.tree import named_tensors
from hope_runtime.models.hope.config import HopeConfig, preset
from hope_runtime.models.hope.state import HopeState, fresh_state
from hope_runtime.models.hope.stream import observe
from hope_runtime.models.hope.weights import HopeWeights, init_weights

PEERS = Path(__file__).with_name("peers.py")
# As peers.py has them.
DIM, LAYERS, HEADS, VOCAB = 256, 4, 4, 256
PERIODS = (64, 256, 1024)
PIECE = 64
DECODED = 24
ROUNDS = 3
# Units of all levels together that give as many parameters as the model we stand beside.
UNITS = {"hope": 2490, "hope_attention": 2046}
BESIDE = {
    "hope": "nested-learning 0.2.0, hope_selfmod",
    "hope_attention": "nested-learning 0.2.0, hope_attention",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--peers", type=Path, required=True, help="Python interpreter of the peers' environment"
    )
    parser.add_argument(
        "--tokens", type=int, default=512, help="number of tokens to read and learn"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    entries: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    ours: dict[str, list[dict[str, float]]] = {name: [] for name in UNITS}
    for _ in range(ROUNDS):
        for name in UNITS:
            ours[name].append(rates(name, arguments.tokens))
        done = subprocess.run(
            [str(arguments.peers), str(PEERS), str(arguments.tokens)],
            check=True,
            capture_output=True,
            text=True,
        )
        theirs.append(json.loads(done.stdout))
        print(json.dumps([ours, theirs[-1]]), file=sys.stderr)
    for name in UNITS:
        peer = [run[BESIDE[name]] for run in theirs]
        for what in ours[name][0]:
            value = statistics.median(run[what] for run in ours[name])
            against = statistics.median(run[what] for run in peer)
            entries.append(
                {
                    "name": f"{name}.{what}",
                    "value": value,
                    "unit": "tokens/CPU-s",
                    "against": against,
                    "ratio": value / against,
                }
            )
        entries.append(described(name, arguments.tokens, peer[0]))
    entries += [
        {"name": key, **run} for key, run in theirs[0].items() if key not in BESIDE.values()
    ]
    print(json.dumps(entries, indent=2))
    return 0


def model_of(name: str) -> tuple[HopeConfig, HopeWeights]:
    """The preset at the sizes of the comparison: chunks of 64, as theirs."""
    config = preset(
        name,
        vocab_size=VOCAB,
        d_model=DIM,
        n_layers=LAYERS,
        n_heads=HEADS,
        d_ff=UNITS[name],
        periods=PERIODS,
        fast={"chunk_mem": PIECE, "chunk_other": PIECE} if name == "hope" else None,
    )
    return config, init_weights(config, 0)


def rates(name: str, tokens: int) -> dict[str, float]:
    """Tokens per CPU-second of learning ingest and of decoding with learning, 1 and 8 rows."""
    config, weights = model_of(name)
    found = {}
    for rows in (1, 8):
        ids = torch.randint(0, VOCAB, (rows, tokens))
        state = fresh_state(config, weights, rows)

        def ingest(ids: Tensor = ids, state: HopeState = state) -> HopeState:
            for piece in torch.split(ids, PIECE, dim=1):
                _, state = observe(config, weights, piece, state)
            return state

        def decode(ids: Tensor = ids, state: HopeState = state) -> HopeState:
            token = ids[:, :1]
            for _ in range(DECODED):
                scores, state = observe(config, weights, token, state)
                token = scores[:, -1].argmax(-1, keepdim=True)
            return state

        found[f"ingest.batch{rows}"] = _rate(ingest, rows * tokens)
        found[f"decode.batch{rows}"] = _rate(decode, rows * DECODED)
    return found


def described(name: str, tokens: int, peer: dict[str, Any]) -> dict[str, Any]:
    """Figures beside the rates: sizes, rule, and the effect of pieces and neighbours."""
    config, weights = model_of(name)
    ids = torch.randint(0, VOCAB, (2, tokens), generator=torch.Generator().manual_seed(0))
    whole, state = observe(config, weights, ids, fresh_state(config, weights, 2))
    alone, _ = observe(config, weights, ids[:1], fresh_state(config, weights, 1))
    other = ids.clone()
    other[1] = other[1].flip(0)
    beside, _ = observe(config, weights, other, fresh_state(config, weights, 2))
    parts, piecewise = [], fresh_state(config, weights, 2)
    lengths = [7, 30, 19, 1, 2]
    lengths += [tokens - sum(lengths)]
    for piece in torch.split(ids, lengths, dim=1):
        scores, piecewise = observe(config, weights, piece, piecewise)
        parts.append(scores)
    one = {key: tensor[:1] for key, tensor in named_tensors(state) if tensor.is_floating_point()}
    return {
        "name": f"{name}.model",
        "parameters": sum(tensor.numel() for _, tensor in weights.named()),
        "parameters_against": peer["parameters"],
        "state_bytes": sum(tensor.nbytes for tensor in one.values()),
        "state_bytes_against": peer["state_bytes"],
        "periods": PERIODS,
        "fast": None if config.fast is None else config.to_fields()["fast"],
        "against": {key: peer[key] for key in ("memory", "rule")},
        "nats_a_token": float(
            torch.nn.functional.cross_entropy(whole[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        ),
        "ragged_pieces_relative": float((torch.cat(parts, 1) - whole).norm() / whole.norm()),
        "neighbour_absolute": float((beside[0] - whole[0]).abs().max()),
        "alone_relative": float((alone[0] - whole[0]).norm() / whole[0].norm()),
    }


def _rate(run: Callable[[], Any], tokens: int) -> float:
    started = time.process_time()
    run()
    return tokens / (time.process_time() - started)


if __name__ == "__main__":
    raise SystemExit(main())
