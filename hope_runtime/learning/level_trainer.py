"""One level's terms under training: the forward pass that serving uses, with gradients.

Knows how to get a loss from packed examples and a gradient from a loss, in bounded pieces. What
is trained on, how often and how far is the recipes' business.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.errors import DivergedStateError
from hope_runtime.layers.lora import STORED_DTYPE, LoraAdapter, concatenate, initial
from hope_runtime.learning.drift import Steps
from hope_runtime.learning.packing import Pack
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory

# Packs that are scored before other work may go on.
PACKS_AT_A_TIME = 4


def finite(tensor: Tensor, name: str) -> Tensor:
    """The tensor itself. Raises DivergedStateError, which names it so, when it is not finite."""
    if not bool(tensor.isfinite().all()):
        raise DivergedStateError(
            f"{name} is not finite, so nothing was learnt; the memory is as it was.", rows=(0,)
        )
    return tensor


def joined(others: LoraAdapter | None, adapter: LoraAdapter, dtype: torch.dtype) -> LoraAdapter:
    """A level's terms behind those of all others, in this dtype; differentiable."""
    combined = concatenate([others, adapter])
    assert combined is not None
    return combined.to(dtype)


class LevelTrainer:
    """Float32 copy of one level's terms that may be changed, beside the other levels as they are.

    `tokens` counts what was run forward and backward so far; `is_fresh` says that the level never
    learnt before.
    """

    def __init__(
        self, model: BaseModel, memory: SessionMemory, level: int, workers: Workers
    ) -> None:
        self._model = model
        self.workers = workers
        config = memory.levels[level].config
        self.is_fresh = memory.levels[level].adapter is None
        # Each level starts from directions of its own, the same for all its life.
        adapter = memory.levels[level].adapter or initial(
            model.config, config.rank, seed=memory.policy.seed * 1009 + level
        )
        others = concatenate(
            other.adapter for index, other in enumerate(memory.levels) if index != level
        )
        # The terms of all other levels, which stay as they are; None where there are none.
        self.others = None if others is None else others.to(others.gate_a.dtype, model.device)
        tensors = {k: v.float().to(model.device).clone() for k, v in adapter.tensors().items()}
        self.adapter = LoraAdapter(**{k: v.requires_grad_() for k, v in tensors.items()})
        self.parameters = list(self.adapter.tensors().values())
        self.tokens = 0
        # Frobenius norm of every gradient so far, in order.
        self.gradient_norms: list[float] = []
        # Tokens of examples that stepped: of the stretch that is learnt, and of all others.
        self.new_tokens = self.rehearsed_tokens = 0

    @property
    def steps(self) -> Steps:
        """Statistics of the gradients so far."""
        norms = self.gradient_norms
        return Steps(
            count=len(norms),
            gradient_norm=sum(norms) / max(len(norms), 1),
            largest_gradient_norm=max(norms, default=0.0),
            rehearsed_share=self.rehearsed_tokens / max(self.new_tokens + self.rehearsed_tokens, 1),
        )

    def nats(self, logits_NV: Tensor, pack: Pack) -> Tensor:
        """Negative log-likelihood of each target, nats, float32 (N,); differentiable."""
        return nnf.cross_entropy(logits_NV, self._to(pack.targets_N), reduction="none")

    def surprises(self, packs: Sequence[Pack]) -> Generator[None, None, list[Tensor]]:
        """Nats of every target of each pack, (N,), without gradients; yields on the way.

        Raises DivergedStateError when one is not finite.
        """

        def one(pack: Pack) -> Tensor:
            with torch.no_grad():
                return finite(self.nats(self.scores(pack), pack).cpu(), "A loss")

        found: list[Tensor] = []
        for start in range(0, len(packs), PACKS_AT_A_TIME):
            found += self.workers.map(one, packs[start : start + PACKS_AT_A_TIME])
            yield
        return found

    def scores(self, pack: Pack) -> Tensor:
        """Next-token scores at each predictor, float32 (N, V); differentiable."""
        hidden_BTD = forward(
            self._model,
            self._to(pack.ids_BT),
            positions_BT=self._to(pack.positions_BT),
            mask_BTS=self._to(pack.mask_BTT),
            adapter=self.combined(),
        )
        hidden_ND = hidden_BTD.flatten(0, 1)[self._to(pack.predictors_N)]
        return logits(self._model, hidden_ND[None])[0].float()

    def gradient(
        self, loss_of: Callable[[int, Tensor], Tensor], packs: Sequence[Pack]
    ) -> list[Tensor]:
        """Gradient of the summed losses with respect to `parameters`, in their order.

        `loss_of(index, scores_NV)` is the loss of packs[index], from its scores. Packs run side by
        side and their gradients are added in order. Raises DivergedStateError when the sum is not
        finite: an optimiser would make every parameter so, and nothing was changed yet.
        """

        def one(index: int) -> Sequence[Tensor]:
            loss = loss_of(index, self.scores(packs[index]))
            return torch.autograd.grad(loss, self.parameters)

        total, norm = self.summed(one, len(packs), sum(pack.tokens for pack in packs))
        self.note_norm(norm)
        return total

    def summed(
        self, gradient_of: Callable[[int], Sequence[Tensor]], parts: int, tokens: int
    ) -> tuple[list[Tensor], Tensor]:
        """Sum of the gradients of the parts, which run side by side, each on one thread, and are
        added in order; and its Frobenius norm, (), for `note_norm`. `tokens` is what they run
        together."""
        self.tokens += tokens
        total, *others = self.workers.map(gradient_of, range(parts))
        for part in others:
            for mine, more in zip(total, part, strict=True):
                mine.add_(more)
        return list(total), torch.stack([part.float().norm() for part in total]).norm()

    def note_norm(self, norm: Tensor) -> None:
        """Take note of a gradient's norm. Raises DivergedStateError when it is not finite."""
        self.gradient_norms.append(float(finite(norm, "A gradient")))

    def snapshot(self) -> LoraAdapter:
        """All levels' terms as they are now, detached, in the model's dtype."""
        with torch.no_grad():
            return self.combined()

    def combined(self) -> LoraAdapter:
        """All levels' terms as they are now, in the model's dtype; differentiable."""
        return joined(self.others, self.adapter, self._model.dtype)

    def load(self, adapter: LoraAdapter) -> None:
        """Goes on from these terms of the level."""
        with torch.no_grad():
            for name, tensor in self.adapter.tensors().items():
                tensor.copy_(getattr(adapter, name))

    def stored(self) -> LoraAdapter:
        """The terms as a memory keeps them: bfloat16, on the CPU, detached. Raises
        DivergedStateError when they are not finite."""
        return LoraAdapter(
            **{
                name: finite(tensor.detach().to("cpu", STORED_DTYPE), "What was learnt")
                for name, tensor in self.adapter.tensors().items()
            }
        )

    def _to(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._model.device)
