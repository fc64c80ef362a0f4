"""Loss of a small model trained here on a long text that it reads once, learning as it goes.

Shared by the tables whose models learn in context: text as bytes, trained on the beginning of a
text and tested on a stream it never saw. Knows no table.
"""

from __future__ import annotations

import pydoc_data.topics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_lab.evaluate.data.filler import load_text
from hope_lab.train import TrainConfig, Trained, train
from hope_lab.train.log import Step
from hope_lab.train.tasks.text import TextTask
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.state import fresh_state
from hope_runtime.models.hope.stream import observe
from hope_runtime.models.hope.weights import HopeWeights

# Ids are bytes.
VOCAB = 256
# Tokens that are read between two reports of progress.
PIECE_TOKENS = 512


def text_task(text: str, window: int) -> TextTask:
    """Windows of a text's bytes; its last twentieth is only tested on."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text"
        file.write_text(text, encoding="utf-8")
        return TextTask(files=[file], window=window)


def training_text(path: Path | None) -> str:
    """The text of a file, by default the prose that evaluations fill with."""
    return load_text(path)


def other_text() -> str:
    """Text of another kind than the default of `training_text`, in every Python: its reference."""
    return "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))


def train_on_text(
    config: HopeConfig, task: TextTask, how: TrainConfig, advance: Callable[[int], None]
) -> Trained:
    """The model after `how.steps` steps."""

    def report(_: Step) -> None:
        advance(1)

    return train(config, task, how, report=report)


def stretches(ids_N: Tensor, rows: int, tokens: int) -> Tensor:
    """`rows` stretches of a text, evenly spread and apart from each other: (rows, tokens)."""
    apart = len(ids_N) // rows
    assert apart >= tokens, "the text is too short for the requested number of excerpts"
    return torch.stack([ids_N[row * apart : row * apart + tokens] for row in range(rows)])


def bytes_of(text: str) -> Tensor:
    """The text as ids, int64."""
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.int64)


def stream_nats(config: HopeConfig, weights: HopeWeights, ids_BT: Tensor) -> Tensor:
    """Nats of every token but the first, each predicted before it was learnt from: (B, T - 1)."""
    state = fresh_state(config, weights, len(ids_BT))
    scores = []
    for piece in torch.split(ids_BT, PIECE_TOKENS, dim=1):
        part, state = observe(config, weights, piece, state)
        scores.append(part)
    logits_BTV = torch.cat(scores, dim=1)[:, :-1]
    targets_BT = ids_BT[:, 1:]
    nats = nnf.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none")
    return nats.view_as(targets_BT)
