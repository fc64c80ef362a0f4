"""A chat template of a file in place of a model's own, or for a model that has none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hope_runtime.errors import ModelError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.tokenizer import Tokenizer

_Model = TypeVar("_Model", bound=BaseModel | HopeModel)


def with_chat_template(model: _Model, file: Path) -> _Model:
    """The same model, by fingerprint too, whose conversations are written by the Jinja template in
    `file`.

    Raises ModelError when the file cannot be read, CorruptModelError when it is not Jinja.
    """
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ModelError(f"cannot read the chat template {file} ({reason}); check the path") from (
            error
        )
    stored = json.loads(model.tokenizer.to_json()) | {"chat_template": source}
    return replace(model, tokenizer=Tokenizer.from_json(stored))
