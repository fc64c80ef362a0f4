"""vLLM with a fixed number of rows, driven one step at a time by whoever holds it.

Turns messages into vLLM's requests and what comes of them into messages. Knows no socket.
"""

from __future__ import annotations

from typing import Any

import safetensors.torch
from torch import Tensor
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from hope_runtime.engine.sampling import MAX_LOGPROBS, TokenLogprobs
from hope_runtime.engine.vllm.messages import FAST, Begin, Options, Piece
from hope_runtime.engine.vllm.worker import lora_cpu as rows
from hope_runtime.engine.vllm.worker.extension import MemoryExtension
from hope_runtime.engine.vllm.worker.fast_memory import KEY
from hope_runtime.engine.vllm.worker.logits_processor import CHOOSERS, Choosing, extra_arguments
from hope_runtime.models.fast_memory.weights import FastMemory, FastMemoryWeights

# Tokens of one step: a prompt is read in pieces of so many, beside the replies.
STEP_TOKENS = 256
# Tokens whose keys and values are found again together; the least that the CPU kernels take.
BLOCK_TOKENS = 32


class Decoder:
    """One thread. Raises whatever vLLM raises when it cannot be built."""

    def __init__(self, options: Options) -> None:
        rows.install()
        self.engine = LLMEngine.from_engine_args(_arguments(options))
        self._begun: dict[int, Begin] = {}
        # Numbers of the memories that have terms, and of those that have a fast memory.
        self._adapters: set[int] = set()
        self._written: set[int] = set()
        if options.fast_memory is not None:
            config, weights = options.fast_memory
            fast_memory = FastMemory(
                config, FastMemoryWeights.from_named(safetensors.torch.load(weights))
            )
            self.engine.collective_rpc("hope_serve", args=(fast_memory,))

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._begun)

    def put(self, adapter: int, tensors: bytes | dict[str, Tensor]) -> None:
        """Obey messages.Put."""
        tensors = safetensors.torch.load(tensors) if isinstance(tensors, bytes) else {**tensors}
        written = tensors.pop(FAST, None)
        if written is not None:
            self.engine.collective_rpc("hope_remember", args=(adapter, written))
            self._written.add(adapter)
        if tensors:
            self.engine.collective_rpc("hope_put", args=(adapter, tensors))
            self._adapters.add(adapter)

    def drop(self, adapter: int) -> None:
        """Obey messages.Drop."""
        if adapter in self._written:
            self.engine.collective_rpc("hope_remember", args=(adapter, None))
            self._written.discard(adapter)
        if adapter in self._adapters:
            self.engine.collective_rpc("hope_drop", args=(adapter,))
            self._adapters.discard(adapter)

    def forget(self, turn: int) -> None:
        """Obey messages.Forget."""
        CHOOSERS.pop(turn, None)

    def begin(self, begin: Begin) -> None:
        """Take a request. Raises ValueError for one that vLLM will not take."""
        # An adapter that is not there would end the whole engine at the next step.
        lora = None
        if begin.adapter and begin.adapter not in self._adapters | self._written:
            raise ValueError(f"adapter {begin.adapter} does not exist")
        if begin.adapter in self._adapters:
            name = f"memory-{begin.adapter}"
            lora = LoRARequest(name, begin.adapter, f"memory://{begin.adapter}")
        sampling = begin.sampling
        params = SamplingParams(
            temperature=0.0,
            max_tokens=begin.max_tokens,
            stop_token_ids=[*begin.stop_ids],
            ignore_eos=True,
            logprobs=sampling.logprobs,
            prompt_logprobs=0 if begin.score else None,
            # What is scored lies behind what is cached but for turns that were asked before,
            # which ask again with `afresh`.
            skip_reading_prefix_cache=begin.afresh,
            extra_args=extra_arguments(begin.turn, sampling, begin.reply)
            | ({KEY: begin.adapter} if begin.adapter in self._written else {}),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        prompt = {"prompt_token_ids": [*begin.tokens], "cache_salt": begin.salt}
        self.engine.add_request(str(begin.request), prompt, params, lora_request=lora)
        self._begun[begin.request] = begin

    def abort(self, request: int) -> bool:
        """Whether it had not ended yet."""
        if self._begun.pop(request, None) is None:
            return False
        self.engine.abort_request([str(request)])
        return True

    def step(self) -> list[Piece]:
        """Pieces of one step of vLLM. An exception means that the engine is lost."""
        found = []
        for output in self.engine.step():
            request = int(output.request_id)
            begin = self._begun.get(request)
            if begin is None:
                continue
            if output.finished:
                del self._begun[request]
            found.append(_piece(begin, output))
        return found


def _piece(begin: Begin, output: Any) -> Piece:
    [written] = output.outputs
    tokens = tuple(written.token_ids)
    scores = None
    if begin.score and output.prompt_logprobs:
        cached = output.num_cached_tokens or 0
        # The token at an index is predicted by the position before it.
        scores = tuple(
            output.prompt_logprobs[index][begin.tokens[index]].logprob if index > cached else None
            for index in begin.score
        )
    logprobs: tuple[TokenLogprobs, ...] = ()
    asked = begin.sampling.logprobs
    if asked is not None:
        logprobs = tuple(
            _logprobs(token, place, asked)
            for token, place in zip(tokens, written.logprobs, strict=True)
        )
    return Piece(begin.request, tokens, logprobs, scores, output.finished)


def _logprobs(token: int, place: dict[int, Any], asked: int) -> TokenLogprobs:
    ranked = sorted(place.items(), key=lambda item: item[1].rank)
    top = tuple((other, entry.logprob) for other, entry in ranked[:asked])
    return TokenLogprobs(token, place[token].logprob, top)


def _arguments(options: Options) -> EngineArgs:
    return EngineArgs(
        model=options.model,
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype=options.dtype,
        enforce_eager=True,
        seed=0,
        # The last token that is written is never read.
        max_model_len=options.window_tokens + 1,
        max_num_seqs=options.rows,
        max_num_batched_tokens=max(STEP_TOKENS, options.rows),
        kv_cache_memory_bytes=options.kv_bytes,
        block_size=BLOCK_TOKENS,
        enable_prefix_caching=True,
        enable_lora=True,
        max_loras=options.rows,
        max_cpu_loras=options.rows,
        max_lora_rank=options.rank,
        # Those of the MLP alone: with adapters on the output layer, scoring prompts fails.
        lora_target_modules=["gate_up_proj", "down_proj"],
        worker_extension_cls=f"{MemoryExtension.__module__}.{MemoryExtension.__qualname__}",
        logits_processors=[f"{Choosing.__module__}:{Choosing.__qualname__}"],
        max_logprobs=MAX_LOGPROBS,
        disable_log_stats=True,
    )
