"""Chat templates as these models have them: where what may be learnt stands, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import family_templates as templates
import pytest
from small_tokenizers import bpe, byte_level
from tokenizers import AddedToken

from hope_runtime.checkpoints.huggingface_tokenizer import read_tokenizer
from hope_runtime.engine.prompt import Message, chat_problems, turn_record
from hope_runtime.errors import InvalidRequestError
from hope_runtime.learning.recipes.replay.examples import _chat_form
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY
from hope_runtime.tokenizer import Tokenizer

SYSTEM = Message("system", "Be brief.")
USER = Message("user", "My cat is called Bruno.")
MORE = Message("user", "And I like tea.")
MARKERS = (
    *("<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    *("[INST]", "[/INST]"),
)


def tokenizer(name: str) -> Tokenizer:
    backend = byte_level()
    backend.add_special_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    return Tokenizer(
        backend.to_str(),
        eos_tokens=["</s>", "<end_of_turn>", "<|im_end|>"],
        bos_token="<s>",
        chat_template=templates.SOURCES[name],
    )


def record_of(made: Tokenizer, messages: list[Message], *, later: bool = False) -> Record:
    memory = SessionMemory.fresh("base", DEFAULT_POLICY)
    if later:
        before = turn_record(made, memory, "c", [Message("user", "Hi")], learn=True)
        answer = Segment(Speaker.ASSISTANT, (tuple(made.encode("Hello.")),))
        end = Segment(Speaker.TEMPLATE, (tuple(made.encode_template("<|im_end|>")),))
        whole = Record(RecordKind.TURN, "c", (*before.segments, answer, end))
        memory = observe(memory, whole, window_tokens=512)
    return turn_record(made, memory, "c", messages, learn=True)


def learnable(made: Tokenizer, record: Record) -> list[str]:
    return [made.decode(each.tokens).strip() for each in record.segments if each.learnable]


@pytest.mark.parametrize("name", templates.SOURCES)
def test_every_template_serves_system_prompts_and_later_turns(name: str) -> None:
    made = tokenizer(name)
    assert chat_problems(made) == []
    for later in (False, True):
        for said in ([USER], [SYSTEM, USER], [USER, MORE], [SYSTEM, USER, MORE]):
            record = record_of(made, said, later=later)
            taught = [message.content for message in said if message.role == "user"]
            assert learnable(made, record) == taught
            text = made.decode(record.tokens)
            assert all(text.count(message.content) == 1 for message in said)
            assert all(not each.learnable for each in record.segments if each.speaker != "user")


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_system_prompt_without_a_role_stands_in_the_users_turn(name: str) -> None:
    made = tokenizer(name)
    record = record_of(made, [SYSTEM, USER])
    assert made.decode(record.tokens) == (
        "<s><start_of_turn>user\nBe brief.\n\nMy cat is called Bruno.<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    assert [each.speaker for each in record.segments] == [
        Speaker.TEMPLATE,
        Speaker.SYSTEM,
        Speaker.TEMPLATE,
        Speaker.USER,
        Speaker.TEMPLATE,
    ]
    # The system prompt stays when the window hops.
    assert made.decode(record.tokens[: record.pinned]).endswith("Be brief.\n\n")


def test_neighbours_of_one_role_are_joined_where_roles_take_turns() -> None:
    made = tokenizer("mistral")
    record = record_of(made, [USER, MORE])
    assert made.decode(record.tokens) == (
        "<s>[INST] My cat is called Bruno.\n\nAnd I like tea. [/INST]"
    )
    # Where they need not, nothing is joined.
    qwen = tokenizer("qwen3")
    text = qwen.decode(record_of(qwen, [USER, MORE]).tokens)
    assert text.count("<|im_start|>user") == 2


def test_a_model_that_can_think_does_not_and_its_replays_say_so() -> None:
    made = tokenizer("qwen3")
    block = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert made.decode(record_of(made, [USER]).tokens).endswith(block)
    user, assistant = made.fields("user"), made.fields("assistant")
    assert user.after.endswith(block)
    assert assistant.before.endswith(block)
    assert assistant.after == "<|im_end|>\n"
    # The block opens a reply and is no part of what is learnt of it.
    form = _chat_form(made)
    assert made.decode(form.assistant).endswith("<think>\n\n</think>\n\n")
    assert made.decode(form.end) == "<|im_end|>"


def test_what_is_learnt_does_not_depend_on_the_day() -> None:
    made = tokenizer("dated")
    assert "01 January 2025" in made.fields("user").before
    rendered = made.render([{"role": "user", "content": "Hi"}])
    assert "01 January 2025" not in rendered


def test_a_template_that_refuses_for_another_reason_is_still_heard() -> None:
    made = Tokenizer(
        byte_level().to_str(),
        eos_tokens=["</s>"],
        chat_template="{{ raise_exception('never') }}",
    )
    with pytest.raises(InvalidRequestError, match="never"):
        record_of(made, [SYSTEM, USER, MORE])


def test_runs_of_white_space_are_words_in_both_kinds_of_files(tmp_path: Path) -> None:
    """Gemma's tokenizer.json has them as added tokens, which no text of a user's spells."""
    described = json.loads(bpe("never").to_str())
    vocabulary, merges = described["model"]["vocab"], described["model"]["merges"]
    for run in ("▁▁", "▁▁▁"):
        vocabulary.setdefault(run, len(vocabulary))
        merges.insert(0, ["▁" * (len(run) - 1), "▁"])
    index = vocabulary["▁▁▁"]
    described["added_tokens"].append(
        {
            "id": index,
            "content": "▁▁▁",
            "special": False,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    gemma = read_tokenizer(tmp_path, {"model_type": "gemma3_text"})
    assert index in gemma.encode("a   b")
    assert gemma.decode(gemma.encode("a   b")) == "a   b"
    # Llama's stay what they were, and so do fingerprints.
    assert index not in read_tokenizer(tmp_path, {"model_type": "llama"}).encode("a   b")
