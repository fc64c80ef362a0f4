"""`make bench`: the published speed figures, as a JSON list on stdout.

Each entry has `name`, `value` and `unit`; a comparison also has `against` (the other value) and
`ratio`, and a rate has `floor`: what reading its bytes, or computing its operations, would allow if
that were all (floors.py). Units of "CPU" are CPU time of the process, others are wall time. What is
compared runs in turn, A B A B, and ratios are medians of the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import torch

from benchmarks import gateway, resuming, serving, session, storage
from hope_runtime.checkpoints import load_base_model

BENCHMARKS = {
    "decode.single": session.decode_single,
    "prefill.read_only": session.prefill_read_only,
    "ingest.learning": session.ingest_learning,
    "ingest.reading": session.ingest_reading,
    "window.loss": session.window_loss,
    "decode.position": session.decode_position,
    "decode.batch8": serving.decode_batch8,
    "decode.adapted8": serving.decode_adapted8,
    "chat.beside_ingest": serving.chat_beside_ingest,
    "chat.beside_reading": serving.chat_beside_reading,
    "metrics.cost": serving.metrics_cost,
    "gateway.overhead": gateway.overhead,
    **{f"store.{kind}": storage.store(kind) for kind in storage.KINDS},
    **{f"resume.{kind}": resuming.resume(kind) for kind in storage.KINDS},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), default=list(BENCHMARKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_base_model("default", dtype=arguments.dtype)
    print(f"{arguments.threads} threads, {model.dtype}", file=sys.stderr)
    entries = []
    for name in arguments.only:
        entries.append(BENCHMARKS[name](model))
        print(json.dumps(entries[-1]), file=sys.stderr)
    print(json.dumps(entries, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
