"""The other implementations that `benchmarks/native.py` stands beside; runs in their environment.

Usage: python peers.py TOKENS. Prints one JSON object: for each model its parameters, the bytes of
its state after learning, what its memory is, and rates in tokens per CPU-second. Imports nothing
of ours. Settings: dim 256, 4 layers, float32, one thread, periods 64, 256 and 1,024, chunks of 64.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DIM, LAYERS, HEADS, VOCAB = 256, 4, 4, 256
PERIODS = (64, 256, 1024)
PIECE = 64
DECODED = 24


def rate(run: Callable[[], int]) -> float:
    """Tokens per CPU-second of `run`, which returns how many it handled."""
    started = time.process_time()
    tokens = run()
    return tokens / (time.process_time() - started)


def nbytes(state: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors that an object holds."""
    seen = set() if seen is None else seen
    if id(state) in seen:
        return 0
    seen.add(id(state))
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(nbytes(value, seen) for value in state.values())
    if isinstance(state, list | tuple | set):
        return sum(nbytes(value, seen) for value in state)
    if hasattr(state, "__dict__"):
        return nbytes(vars(state), seen)
    return 0


def nested_learning(variant: str, tokens: int) -> dict[str, Any]:
    """nested-learning's HOPE: learning ingest in pieces, and decoding with learning."""
    from nested_learning.levels import LevelSpec
    from nested_learning.memorize import MemorizeConfig, memorize_tokens
    from nested_learning.model import HOPEModel, ModelConfig

    torch.manual_seed(0)
    names = ("fast", "mid", "slow")
    levels = [
        LevelSpec(f"cms_{name}", update_period=period)
        for name, period in zip(names, PERIODS, strict=True)
    ]
    config = ModelConfig(
        vocab_size=VOCAB,
        dim=DIM,
        num_layers=LAYERS,
        heads=HEADS,
        titan_level=LevelSpec("titan", update_period=PIECE),
        cms_levels=levels,
        block_variant=variant,
        self_mod_chunk_size=PIECE,
        qk_l2_norm=True,
    )
    model = HOPEModel(config).eval()
    how = MemorizeConfig(enabled=True, steps=1, use_fast_state=True)
    found: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "memory": f"{variant}: per-layer fast state shared by the batch, MLP levels of 4 x {DIM}",
        "rule": "rank-one delta with l2 objective; levels by a teach signal",
    }
    for rows in (1, 8):
        state = model.init_fast_state()
        ids = torch.randint(0, VOCAB, (rows, tokens))

        def ingest(ids: Tensor = ids, state: Any = state) -> int:
            for piece in ids.split(PIECE, dim=1):
                memorize_tokens(model, piece, how, fast_state=state)
            return ids.numel()

        found[f"ingest.batch{rows}"] = rate(ingest)
        if rows == 1:
            found["state_bytes"] = nbytes(state)

        def decode(ids: Tensor = ids, state: Any = state) -> int:
            # A token is learnt together with the one before it, which predicts it.
            last = ids[:, -2:]
            with torch.no_grad():
                for _ in range(DECODED):
                    scores = model(last, fast_state=state)
                    token = scores[:, -1].argmax(-1, keepdim=True)
                    last = torch.cat((last[:, -1:], token), dim=1)
                    memorize_tokens(model, last, how, fast_state=state)
            return DECODED * len(ids)

        found[f"decode.batch{rows}"] = rate(decode)
    return found


def titans_pytorch(tokens: int) -> dict[str, Any]:
    """titans-pytorch's memory as context: it reads, and writes its memories, in one pass."""
    from titans_pytorch import MemoryAsContextTransformer

    torch.manual_seed(0)
    model = MemoryAsContextTransformer(
        num_tokens=VOCAB,
        dim=DIM,
        depth=LAYERS,
        segment_len=PIECE,
        heads=HEADS,
        dim_head=64,
        neural_memory_layers=(2, 4),
        neural_memory_segment_len=PIECE,
    ).eval()
    found: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "memory": "MAC: two-layer MLP memories in 2 of 4 layers",
        "rule": "gradient with momentum and decay",
    }
    for rows in (1, 8):
        ids = torch.randint(0, VOCAB, (rows, tokens))

        def ingest(ids: Tensor = ids) -> int:
            with torch.no_grad():
                model(ids, disable_flex_attn=True)
            return ids.numel()

        def decode(ids: Tensor = ids) -> int:
            with torch.no_grad():
                model.sample(ids[:, :8], 8 + DECODED, use_cache=True, show_progress=False)
            return DECODED * len(ids)

        found[f"ingest.batch{rows}"] = rate(ingest)
        found[f"decode.batch{rows}"] = rate(decode)
    return found


def main() -> None:
    torch.set_num_threads(1)
    tokens = int(sys.argv[1])
    found = {
        "nested-learning 0.2.0, hope_selfmod": nested_learning("hope_selfmod", tokens),
        "nested-learning 0.2.0, hope_attention": nested_learning("hope_attention", tokens),
        "titans-pytorch 0.5.5, MAC": titans_pytorch(tokens),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
