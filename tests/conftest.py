"""Fixtures that every test may use: the real default model, and tiny ones with random weights."""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import processes
import pytest
import torch
from _pytest.faulthandler import fault_handler_stderr_fd_key

from hope_runtime.checkpoints import load_base_model
from hope_runtime.checkpoints.converted_cache import save_converted
from hope_runtime.models.decoder.weights import BaseModel, expected_shapes, from_named
from hope_runtime.token_bytes import byte_alphabet
from hope_runtime.tokenizer import Tokenizer

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("hope", deadline=None)
hypothesis.settings.load_profile("hope")
# Under nohup, or in a shell's background, SIGINT is ignored, and so would be by every process that
# tests start to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Where there is no GPU, Triton's interpreter runs its kernels; Triton looks when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

TinyLlama = Callable[..., tuple[Any, Path]]
CHAT_HEADS: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
HEAVY_SECONDS = 3600
# The least time that a test has, beyond its limit, to put away what it made.
TEARDOWN_SECONDS = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes by design get a limit of their own."""
    for item in items:
        long = item.get_closest_marker("heavy") or item.get_closest_marker("vllm")
        if long and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(HEAVY_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Ends the run, with the stacks of all threads, when a test hangs even in its teardown: the
    limit of pytest-timeout fires once and does not reach there."""
    marker = item.get_closest_marker("timeout")
    given = item.config.getoption("timeout") or item.config.getini("timeout")
    limit = float(marker.args[0] if marker else given or 0)
    if limit and item.config.stash.get(fault_handler_stderr_fd_key, None) is not None:
        stderr = item.config.stash[fault_handler_stderr_fd_key]
        faulthandler.dump_traceback_later(limit + TEARDOWN_SECONDS, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _children_end_with_their_test() -> Iterator[None]:
    known = processes.children()
    yield
    left = processes.end_children(known)
    assert not left, f"the test left processes behind, which were killed: {left}"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models gain nothing from more threads, and runs side by side lose."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_model() -> BaseModel:
    """The default model in float32 on the CPU, from the user's cache or converted into it."""
    return load_base_model("default", dtype="float32")


@pytest.fixture(scope="session")
def tiny_tokenizer_json() -> str:
    """A byte-level tokenizer.json of 256 bytes, two merges and two special tokens; 260 ids."""
    tokens = ["<|endoftext|>", "<|im_end|>", *byte_alphabet(), "he", "ll"]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": index,
                    "content": tokens[index],
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for index in range(2)
            ],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {token: index for index, token in enumerate(tokens)},
                "merges": [["h", "e"], ["l", "l"]],
            },
        }
    )


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_json: str) -> TinyLlama:
    """A factory of random two-layer models: (transformers' model, its directory with a tokenizer).

    Keyword arguments go to LlamaConfig; `shard` is the size of a shard, such as "100KB".
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    seeds = itertools.count()

    def make(*, shard: str = "5GB", **overrides: Any) -> tuple[Any, Path]:
        torch.manual_seed(next(seeds))
        settings: dict[str, Any] = {
            "vocab_size": 264,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "initializer_range": 0.2,  # large enough that every part of the model matters
            "bos_token_id": 0,
            "eos_token_id": 1,
        }
        reference = LlamaForCausalLM(LlamaConfig(**settings | overrides)).eval()
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                if "norm" in name or "bias" in name:  # at their start these are ones and zeros
                    parameter.add_(0.3 * torch.randn_like(parameter))
        directory = tmp_path_factory.mktemp("tiny")
        reference.save_pretrained(directory, max_shard_size=shard)
        (directory / "tokenizer.json").write_text(tiny_tokenizer_json, encoding="utf-8")
        return reference, directory

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_llama: TinyLlama, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A random two-layer model in float64, for comparisons that leave no room for rounding."""
    _, directory = tiny_llama()
    cache_dir = tmp_path_factory.mktemp("cache")
    model = load_base_model(directory, dtype="float32", cache_dir=cache_dir)
    return model.to(torch.float64, "cpu")


def random_chat_model(
    base_model: BaseModel, directory: Path, tokenizer: Tokenizer | None = None, **sizes: Any
) -> Path:
    """A random two-layer Llama in our own layout on disk, with the default model's tokenizer unless
    another is given."""
    config = replace(base_model.config, n_layers=2, d_model=64, d_ff=96, **sizes)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 0.1)
        for name, shape in expected_shapes(config).items()
    }
    for name, tensor in tensors.items():
        if "norm" in name:
            tensor += 1
    save_converted(
        directory, config, from_named(config, tensors), tokenizer or base_model.tokenizer
    )
    return directory


@pytest.fixture(scope="session")
def chat_model_dir(base_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with the default model's tokenizer, in our own layout on disk.

    Real text and chat templates go through it in milliseconds; what it says is noise.
    """
    place = tmp_path_factory.mktemp("model") / "chat"
    return random_chat_model(base_model, place, tie_embeddings=False, **CHAT_HEADS)


@pytest.fixture(scope="session")
def make_chat_model(
    base_model: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., BaseModel]:
    """A factory of models like `chat_model`; keyword arguments are fields of ModelConfig."""

    def make(**fields: Any) -> BaseModel:
        place = tmp_path_factory.mktemp("model") / "made"
        random_chat_model(base_model, place, **CHAT_HEADS | fields)
        return load_base_model(place, dtype="float32")

    return make


@pytest.fixture(scope="session")
def byte_chat_model_dir(
    base_model: BaseModel, tiny_tokenizer_json: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Like `chat_model_dir` with a vocabulary of bytes: all it does takes a tenth of the time, for
    tests that start and ask a server a thousand times."""
    template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = Tokenizer(tiny_tokenizer_json, eos_tokens=("<|im_end|>",), chat_template=template)
    place = tmp_path_factory.mktemp("model") / "bytes"
    return random_chat_model(base_model, place, tokenizer, vocab_size=260, **CHAT_HEADS)


@pytest.fixture(scope="session")
def chat_model(chat_model_dir: Path) -> BaseModel:
    """The model of `chat_model_dir` in float32."""
    return load_base_model(chat_model_dir, dtype="float32")


@pytest.fixture(scope="session")
def small_model(base_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Like `chat_model`, with heads of a size that vLLM computes."""
    heads: dict[str, Any] = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 32}
    place = tmp_path_factory.mktemp("model") / "small"
    return load_base_model(random_chat_model(base_model, place, **heads), dtype="float32")
