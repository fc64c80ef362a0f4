"""The process of vLLM with vLLM's own code for rows: what ours is there to replace."""

from __future__ import annotations

import sys

from hope_runtime.engine.vllm.inside import rows
from hope_runtime.engine.vllm.inside.main import run

if __name__ == "__main__":
    rows.install = lambda: None
    sys.exit(run())
