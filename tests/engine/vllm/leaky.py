"""The process of vLLM with vLLM's own code for rows: what ours is there to replace."""

from __future__ import annotations

import sys

from hope_runtime.engine.vllm.worker import lora_cpu as rows
from hope_runtime.engine.vllm.worker.main import run

if __name__ == "__main__":
    rows.install = lambda: None
    sys.exit(run())
