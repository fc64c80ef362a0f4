"""Hostile texts: as long as wanted, the same for a seed, and as surprising as they claim."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from hope_lab.evaluate.data.attacks import ATTACKS, attack
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_of_its_seed_and_its_length(name: str, chat_model: BaseModel) -> None:
    text = attack(name, chat_model, 100, seed=0)
    assert text == attack(name, chat_model, 100, seed=0)
    assert text != attack(name, chat_model, 100, seed=1)
    assert 100 <= len(chat_model.tokenizer.encode(text)) < 200


def test_one_sentence_is_repeated(chat_model: BaseModel) -> None:
    sentences = attack("repeated", chat_model, 100, seed=0).split(". ")
    assert len(sentences) > 5
    assert len({sentence.rstrip(".") for sentence in sentences}) == 1


@torch.no_grad()
def test_the_base_expects_gibberish_more_than_what_should_surprise(base_model: BaseModel) -> None:
    def nats(name: str) -> float:
        ids_BT = torch.tensor([base_model.tokenizer.encode(attack(name, base_model, 60, seed=0))])
        logits_TV = logits(base_model, forward(base_model, ids_BT)[:, :-1])[0].float()
        return float(cross_entropy(logits_TV, ids_BT[0, 1:]))

    assert nats("surprising") > nats("gibberish") + 3
