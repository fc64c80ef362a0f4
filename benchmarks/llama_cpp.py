"""Greedy decoding of one session with llama.cpp, in the peers' environment; decoding.py runs it.

    python llama_cpp.py FILE.gguf PROMPT TOKENS THREADS

Prints JSON: tokens per CPU-second, and the instructions that its build uses. The compiled module of
llama-cpp-cffi is loaded as it stands, without the package's further dependencies.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

WARM_UP = 4


def compiled() -> Any:
    """The compiled module: its functions are `lib`, its types `ffi`."""
    (path,) = Path(sysconfig.get_path("platlib")).glob("llama/_llama_cpp_cpu.*.so")
    spec = importlib.util.spec_from_file_location("_llama_cpp_cpu", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(path: str, prompt: str, tokens: int, threads: int) -> None:
    module = compiled()
    lib, ffi = module.lib, module.ffi
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    options = lib.llama_context_default_params()
    options.n_ctx, options.n_threads, options.n_threads_batch = 1024, threads, threads
    context = lib.llama_init_from_model(model, options)
    vocabulary = lib.llama_model_get_vocab(model)
    text = prompt.encode()
    ids = ffi.new("llama_token[]", len(text))
    count = lib.llama_tokenize(vocabulary, text, len(text), ids, len(text), False, False)
    sampler = lib.llama_sampler_init_greedy()

    def read(new: Any, count: int) -> Any:
        assert lib.llama_decode(context, lib.llama_batch_get_one(new, count)) == 0
        return ffi.new("llama_token[]", [lib.llama_sampler_sample(sampler, context, -1)])

    token = read(ids, count)
    for _ in range(WARM_UP):
        token = read(token, 1)
    started = time.process_time()
    for _ in range(tokens):
        token = read(token, 1)
    rate = tokens / (time.process_time() - started)
    build = ffi.string(lib.llama_print_system_info()).decode()
    print(json.dumps({"rate": rate, "build": build.strip(" |\n")}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
