"""Language modelling of local text files: windows of tokens, packed without padding.

Files are read once and laid end to end; a window may start anywhere and cross files. The last part
of each file is kept for the test. Knows bytes and our Tokenizer; no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hope_lab.train.tasks.base import Batch, LanguageTask
from hope_runtime.errors import InvalidRequestError
from hope_runtime.tokenizer import PLAIN_TEMPLATE, Tokenizer, byte_tokenizer


class TextTask(LanguageTask):
    """Predict the next byte, or the next token of a tokenizer.json.

    `files` are read as UTF-8 where a tokenizer is given, else as bytes. `window` tokens are read
    at a time, and the last `held_out` of each file (a share) are only tested on. Raises
    InvalidRequestError for files that cannot be read or are too short.
    """

    name = "text"

    def __init__(
        self,
        *,
        files: Sequence[str | Path],
        tokenizer: str | Path | None = None,
        window: int = 256,
        held_out: float = 0.05,
    ) -> None:
        if not (isinstance(window, int) and window >= 2 and 0 < held_out < 1):
            raise ValueError("window must be at least 2, and held_out between 0 and 1")
        if isinstance(files, str) or not files:
            raise InvalidRequestError("files must be a list of paths", field="files")
        self.window = window
        encoder = None
        if tokenizer is not None:
            text = _text(Path(tokenizer))
            encoder = Tokenizer(text, eos_tokens=(), chat_template=PLAIN_TEMPLATE)
        self.tokenizer = encoder or byte_tokenizer()
        self.vocab_size = self.tokenizer.vocab_size
        learnt, tested = [], []
        for file in files:
            ids = _ids(Path(file), encoder)
            cut = len(ids) - int(len(ids) * held_out)
            learnt.append(ids[:cut])
            tested.append(ids[cut:])
        self.learnt, self.tested = torch.cat(learnt), torch.cat(tested)
        if min(len(self.learnt), len(self.tested)) <= window:
            raise InvalidRequestError(
                f"the text has {len(self.learnt)} tokens for training and {len(self.tested)} for "
                f"testing; each part needs more than a window of {window}",
                field="window",
            )

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        return self._windows(self.learnt, rows, generator)

    def tests(self, rows: int, generator: torch.Generator) -> dict[str, Batch]:
        return {"held_out": self._windows(self.tested, rows, generator)}

    def _windows(self, ids: Tensor, rows: int, generator: torch.Generator) -> Batch:
        starts = torch.randint(0, len(ids) - self.window, (rows, 1), generator=generator)
        cut = ids[starts + torch.arange(self.window + 1)]
        return Batch(cut[:, :-1], cut[:, 1:], torch.ones(rows, self.window, dtype=torch.bool))


def _ids(file: Path, encoder: Tokenizer | None) -> Tensor:
    if encoder is None:
        try:
            return torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).long()
        except (OSError, ValueError) as error:
            raise InvalidRequestError(f"{file} cannot be read: {error}", field="files") from error
    return torch.tensor(encoder.encode(encoder.opening(_text(file))), dtype=torch.int64)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file} cannot be read: {error}", field="files") from error
