"""Chat templates of a file in place of a model's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from hope_runtime.checkpoints.chat_template_file import with_chat_template
from hope_runtime.engine.prompt import chat_problems, turn_end
from hope_runtime.errors import CorruptModelError, ModelError
from hope_runtime.models.decoder.weights import BaseModel

SHIPPED = Path(__file__).parents[2] / "examples" / "chat_templates" / "question_answer.jinja"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Ada."},
    {"role": "user", "content": "Why?"},
]


def test_a_model_without_a_template_gets_one(tiny_model: BaseModel) -> None:
    assert not tiny_model.tokenizer.has_chat_template
    model = with_chat_template(tiny_model, SHIPPED)
    tokenizer = model.tokenizer
    assert chat_problems(tokenizer) == []
    parts = tokenizer.render(CHAT).split("Ada.")
    assert parts[0].endswith("Be brief.\n\nQuestion: Who?\nAnswer: ")
    end, rest = parts[1].split("\n\n")
    assert rest == "Question: Why?\nAnswer:"
    # The token that ends a text ends a reply.
    assert turn_end(tokenizer) == tuple(tokenizer.encode_template(end))
    assert set(turn_end(tokenizer)) <= tokenizer.eos_ids
    # What it was taught stays valid, and texts have the tokens that they had.
    assert model.fingerprint == tiny_model.fingerprint
    assert tokenizer.tokenisation_json() == tiny_model.tokenizer.tokenisation_json()
    assert model.weights is tiny_model.weights


def test_a_models_own_template_gives_way(small_model: BaseModel, tmp_path: Path) -> None:
    file = tmp_path / "other.jinja"
    file.write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}", encoding="utf-8")
    changed = with_chat_template(small_model, file).tokenizer
    assert changed.render(CHAT[1:2]) == "<Who?>"
    assert changed.template_digest != small_model.tokenizer.template_digest


def test_files_that_are_no_templates(tiny_model: BaseModel, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jinja"
    with pytest.raises(ModelError, match=r"missing\.jinja \(No such file or directory\); check"):
        with_chat_template(tiny_model, missing)
    file = tmp_path / "bytes.jinja"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"bytes\.jinja \(it is not UTF-8\)"):
        with_chat_template(tiny_model, file)
    file.write_text("{% for %}", encoding="utf-8")
    with pytest.raises(CorruptModelError, match="the chat template cannot be read"):
        with_chat_template(tiny_model, file)
