"""Files that are nearly a model: whatever is wrong with one, the error is typed.

The quick tests look at a few of the mutations, those marked heavy at 200 of each kind.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hope_runtime.checkpoints.gguf import read_gguf
from hope_runtime.checkpoints.huggingface import read_huggingface
from hope_runtime.engine.prompt import Message, chat_problems, turn_record
from hope_runtime.errors import HopeError, InvalidRequestError, ModelError
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY
from hope_runtime.session.spans import SpanReader
from hope_runtime.tokenizer import Tokenizer

QUICK = settings(max_examples=15, suppress_health_check=list(HealthCheck))
THOROUGH = settings(max_examples=200, suppress_health_check=list(HealthCheck))

PLAIN: list[Any] = [None, True, -1, 0, 1, 2**31, 2**64, 1e300, "", "x", "▁", "\ud800", [], {}, [[]]]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim }}"
    "{% elif m['role'] == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{% generation %}"
    "{{ m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


def run(examples: settings, strategy: st.SearchStrategy[Any], body: Callable[[Any], None]) -> None:
    examples(given(strategy)(body))()


def both(function: Callable[..., None]) -> Callable[..., None]:
    cases = [
        pytest.param(QUICK, id="quick"),
        pytest.param(THOROUGH, id="thorough", marks=pytest.mark.heavy),
    ]
    return pytest.mark.parametrize("examples", cases)(function)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, of long ones only the first few entries."""
    found = [at]
    if isinstance(value, dict):
        for key in list(value)[:20]:
            found += paths(value[key], (*at, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 5)):
            found += paths(value[index], (*at, index))
    return found


def changed(value: Any, at: tuple[Any, ...], new: Any, how: str) -> Any:
    """A copy of a JSON value with one place replaced, or taken away."""
    if not at:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and how == "drop":
        del copied[at[0]]
    else:
        copied[at[0]] = changed(value[at[0]], at[1:], new, how)
    return copied


def mutations(value: Any, most: int = 3) -> st.SearchStrategy[Any]:
    """The JSON value with up to `most` places changed, one after the other."""
    step = st.tuples(st.randoms(), st.sampled_from(["put", "put", "drop"]), st.sampled_from(PLAIN))

    def apply(steps: list[tuple[Any, str, Any]]) -> Any:
        now = value
        for random, how, new in steps:
            now = changed(now, random.choice(paths(now)[1:] or [()]), new, how)
        return now

    return st.lists(step, min_size=1, max_size=most).map(apply)


def use(tokenizer: Tokenizer) -> None:
    """What a server does with a tokenizer; only the caller's errors may come of it."""
    chat_problems(tokenizer)
    tokenizer.decode(tokenizer.encode("Hello <|im_end|> wörld"))
    memory = SessionMemory.fresh("base", DEFAULT_POLICY)
    with contextlib.suppress(InvalidRequestError):
        turn_record(tokenizer, memory, "c", [Message("user", "Hi there.")], learn=True)


def check(read: Callable[[], Tokenizer], said: str) -> None:
    """What `read` returns can be used; otherwise its error is typed and says where."""
    refused = ""
    try:
        tokenizer = read()
    except ModelError as error:
        refused = str(error)
    if refused:
        assert said in refused
    else:
        use(tokenizer)


@both
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_settings_of_hugging_face(
    tiny_llama: Any, tmp_path: Path, examples: settings, name: str
) -> None:
    _, directory = tiny_llama()
    place = tmp_path / "model"
    shutil.copytree(directory, place)
    (place / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": "<|endoftext|>",
                "eos_token": {"content": "<|im_end|>"},
                "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}},
                "additional_special_tokens": ["<|im_end|>"],
                "chat_template": TEMPLATE,
            }
        )
    )
    whole = json.loads((place / name).read_text())

    def body(value: Any) -> None:
        (place / name).write_text(json.dumps(value))
        check(lambda: read_huggingface(place, lambda *_: None)[2], "")

    run(examples, mutations(whole), body)


@both
def test_chat_templates(tiny_tokenizer_json: str, examples: settings) -> None:
    pieces = [
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "'",
        "|",
        "(",
        ")",
        "for",
        "endfor",
        "m",
        "loop",
        "generation",
    ]

    def body(edits: list[tuple[int, int, str]]) -> None:
        source = TEMPLATE
        for at, length, new in edits:
            at %= len(source) + 1
            source = source[:at] + new + source[at + length :]
        ends = ["<|im_end|>"]
        check(
            lambda: Tokenizer(tiny_tokenizer_json, eos_tokens=ends, chat_template=source),
            "chat template",
        )

    edit = st.tuples(
        st.integers(0, 10**6), st.integers(0, 12), st.sampled_from(pieces) | st.text(max_size=4)
    )
    run(examples, st.lists(edit, min_size=1, max_size=4), body)


@both
def test_headers_of_gguf(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path, examples: settings
) -> None:
    content = gguf_spec(tiny_llama()[0]).write(tmp_path / "whole.gguf").read_bytes()
    header = content.index(b"blk.1.ffn_norm.weight") + 64
    numbers = [0, 1, 2, 8, 9, 255, 2**31, 2**63 - 1, 2**64 - 1]

    def body(edits: list[tuple[int, int, int]]) -> None:
        changed = bytearray(content)
        for at, size, number in edits:
            at %= header - 8
            changed[at : at + size] = (number % 256**size).to_bytes(size, "little")
        path = tmp_path / "mutated.gguf"
        path.write_bytes(changed)
        check(lambda: read_gguf(path, lambda *_: None)[2], "mutated.gguf")

    number = st.sampled_from(numbers) | st.integers(0, 2**64 - 1)
    edit = st.tuples(st.integers(0, 10**6), st.sampled_from([1, 4, 8]), number)
    run(examples, st.lists(edit, min_size=1, max_size=4), body)


@both
def test_metadata_of_gguf(
    tiny_llama: Any, gguf_spec: Any, tmp_path: Path, examples: settings
) -> None:
    spec = gguf_spec(tiny_llama()[0])
    whole = dict(spec.metadata)
    values = st.sampled_from(
        [True, 0, 1, 2**32 - 1, 0.0, -1.0, float("nan"), "", "x", ["x"], [1, 2]]
    )

    def body(edits: list[tuple[str, Any]]) -> None:
        spec.metadata = whole | dict(edits)
        path = spec.write(tmp_path / "mutated.gguf")
        check(lambda: read_gguf(path, lambda *_: None)[2], "mutated.gguf")

    keys = st.sampled_from([*whole, "general.alignment", "general.architecture", "llama.new"])
    run(examples, st.lists(st.tuples(keys, values), min_size=1, max_size=3), body)


@both
def test_documents(tiny_tokenizer_json: str, examples: settings) -> None:
    tokenizer = Tokenizer(tiny_tokenizer_json, eos_tokens=["<|im_end|>"])
    text = ("The dog, e.g. Rex, sleeps. Ünïcode — 日本語 👩‍👩‍👧!\n\n" * 20).encode()

    def body(edits: list[tuple[int, int, bytes]]) -> None:
        document = text
        for at, length, new in edits:
            at %= len(document) + 1
            document = document[:at] + new + document[at + length :]
        reader, read, refused = SpanReader(), "", ""
        try:
            for start in range(0, len(document), 97):
                for span in reader.feed(document[start : start + 97]):
                    read += tokenizer.decode(tokenizer.encode(span))
            for span in reader.feed(b"", final=True):
                read += tokenizer.decode(tokenizer.encode(span))
        except HopeError as error:
            refused = str(error)
        if refused:
            assert "not valid UTF-8" in refused
            with pytest.raises(UnicodeDecodeError):
                document.decode()
        else:
            assert read == document.decode()

    odd = [b"<|im_end|>", b"\x00", b"\xff\xfe", b"\r\n", b" " * 2000, b"x" * 3000]
    new = st.binary(max_size=8) | st.sampled_from(odd)
    edit = st.tuples(st.integers(0, 10**6), st.integers(0, 40), new)
    run(examples, st.lists(edit, min_size=1, max_size=4), body)
