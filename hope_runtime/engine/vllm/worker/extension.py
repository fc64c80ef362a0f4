"""Memories inside vLLM's worker: low-rank terms become an adapter, and a trained fast memory
lies beside it, by the same number.

Mixed into the worker by `worker_extension_cls`; methods are called by collective_rpc.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper

from hope_runtime.engine.vllm.worker.fast_memory import PagedFastMemory
from hope_runtime.models.fast_memory.weights import FastMemory

MODULES = ("gate", "up", "down")


class MemoryExtension:
    """Called with the worker's own `model_runner`."""

    model_runner: Any
    hope_branch: PagedFastMemory

    def hope_serve(self, fast_memory: FastMemory) -> None:
        """Put a trained fast memory beside the model, before anything is asked."""
        self.hope_branch = PagedFastMemory(fast_memory, self.model_runner)

    def hope_remember(self, number: int, written_HVK: Tensor | None) -> None:
        """Keep the fast memory of memory `number`; None forgets it."""
        if written_HVK is None:
            self.hope_branch.memories.pop(number, None)
        else:
            self.hope_branch.memories[number] = written_HVK

    def hope_put(self, adapter: int, tensors: dict[str, Tensor]) -> None:
        """Make adapter `adapter` from a LoraAdapter's tensors, a: (L, R, in), b: (L, out, R)."""
        workers = self.model_runner.lora_manager
        rank = tensors["gate_a"].shape[1]
        helper = PEFTHelper(
            r=rank, lora_alpha=rank, target_modules=[f"{module}_proj" for module in MODULES]
        )
        named = {}
        for module in MODULES:
            for half in ("a", "b"):
                for layer, tensor in enumerate(tensors[f"{module}_{half}"].unbind(0)):
                    name = f"model.layers.{layer}.mlp.{module}_proj.lora_{half.upper()}.weight"
                    named[f"base_model.model.{name}"] = tensor
        lora = LoRAModel.from_lora_tensors(
            adapter, named, helper, device="cpu", dtype=workers.lora_config.lora_dtype
        )
        manager = workers._adapter_manager
        # The server puts no more than there are slots, so none that is needed is pushed out.
        assert len(manager) < manager.lora_slots, "there are more memories than slots"
        manager.add_adapter(lora)
        manager.activate_adapter(adapter)

    def hope_drop(self, adapter: int) -> None:
        """Forget an adapter."""
        self.model_runner.lora_manager._adapter_manager.remove_adapter(adapter)

    def hope_adapters(self) -> list[int]:
        """Adapters that are there."""
        return [*self.model_runner.lora_manager._adapter_manager.list_adapters()]
