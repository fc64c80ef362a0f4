"""What identifies a base model, and how conversions of the same one succeed each other."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hope_runtime.checkpoints as checkpoints
from hope_runtime.checkpoints import converted_cache as native
from hope_runtime.checkpoints import load_base_model, model_name_of
from hope_runtime.checkpoints.fast_memory import shipped_fast_memory
from hope_runtime.models.decoder.weights import BaseModel, fingerprint_of, first_fingerprint_of


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def template(directory: Path, source: str) -> None:
    (directory / "chat_template.jinja").write_text(source)


def ends_elsewhere(directory: Path) -> None:
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))


def more_positions(directory: Path) -> None:
    edit(directory / "config.json", lambda c: c.update({"max_position_embeddings": 512}))


def not_special(directory: Path) -> None:
    edit(directory / "tokenizer.json", lambda t: t["added_tokens"][0].update({"special": False}))


def other_decoder(directory: Path) -> None:
    edit(directory / "tokenizer.json", lambda t: t["decoder"].update({"trim_offsets": False}))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: template(d, "{# a comment #}{{ messages[0].content }}"),
        lambda d: template(d, "{{ messages[-1].content }}"),
        ends_elsewhere,
        more_positions,
        not_special,
        other_decoder,
    ],
)
def test_what_changes_no_memory_keeps_the_fingerprint(
    tiny_llama: Any, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    _, directory = tiny_llama()
    template(directory, "{{ messages[0].content }}")
    before = load_base_model(directory, cache_dir=tmp_path)
    change(directory)
    after = load_base_model(directory, cache_dir=tmp_path)
    assert after.fingerprint == before.fingerprint
    assert after.former > before.former  # the new conversion's own, and those of the old one


def set_config(key: str, value: Any) -> Callable[[Path], None]:
    return lambda d: edit(d / "config.json", lambda c: c.update({key: value}))


def other_vocabulary(directory: Path) -> None:
    def swap(described: dict[str, Any]) -> None:
        vocabulary = described["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    edit(directory / "tokenizer.json", swap)


@pytest.mark.parametrize(
    "change",
    [
        set_config("rms_norm_eps", 1e-4),
        set_config("rope_parameters", {"rope_type": "default", "rope_theta": 77.0}),
        other_vocabulary,
        lambda d: edit(d / "tokenizer.json", lambda t: t["model"].update({"merges": []})),
        lambda d: edit(d / "tokenizer.json", lambda t: t.update({"normalizer": {"type": "NFC"}})),
        lambda d: edit(
            d / "tokenizer.json", lambda t: t["pre_tokenizer"].update({"use_regex": False})
        ),
        lambda d: edit(d / "tokenizer.json", lambda t: t["added_tokens"].pop(0)),
    ],
)
def test_what_changes_tokens_or_numbers_changes_the_fingerprint(
    tiny_llama: Any, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    _, directory = tiny_llama()
    before = load_base_model(directory, cache_dir=tmp_path)
    change(directory)
    after = load_base_model(directory, cache_dir=tmp_path)
    assert after.fingerprint != before.fingerprint
    assert not after.is_known_as(before.fingerprint)
    assert not after.former & before.former


def test_the_fingerprint_of_before_is_what_it_was(base_model: BaseModel) -> None:
    """The trained branch of the package names the default model by its first fingerprint."""
    model = base_model
    assert shipped_fast_memory(model) is not None
    assert shipped_fast_memory(replace(model, former=frozenset())) is None
    first = first_fingerprint_of(model.config, model.weights, model.tokenizer)
    assert first in model.former
    assert fingerprint_of(model.config, model.weights, model.tokenizer) == model.fingerprint


def conversions(cache_dir: Path) -> list[Path]:
    return sorted((cache_dir / "models").iterdir())


def as_of_before(place: Path) -> dict[str, Any]:
    """The manifest as programs wrote it that knew one fingerprint only."""
    manifest = native.read_manifest(place)
    kept = ("format", "version", "fingerprint", "weights_bytes")
    native.write_manifest(place, {key: manifest[key] for key in kept})
    return manifest


def test_a_conversion_of_before_is_completed(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    first = load_base_model(directory, cache_dir=tmp_path)
    (place,) = conversions(tmp_path)
    written = as_of_before(place)
    again = load_base_model(directory, cache_dir=tmp_path)
    assert (again.fingerprint, again.former) == (first.fingerprint, first.former)
    completed = native.read_manifest(place)
    assert completed[native.IDENTITY] == written[native.IDENTITY]
    assert completed[native.SOURCE] == str(directory)
    # Given as the source itself, it need not be writable.
    as_of_before(place)
    refuse = pytest.MonkeyPatch()
    with refuse.context() as patch:
        patch.setattr(native, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError("read")))
        assert load_base_model(place).fingerprint == first.fingerprint


def test_a_new_conversion_takes_over_and_the_older_goes(
    tiny_llama: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, directory = tiny_llama()
    seen: set[str] = set()
    for number in range(3):
        template(directory, f"{number}{{{{ messages[0].content }}}}")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model = load_base_model(directory, cache_dir=tmp_path)
        assert ("has changed" in caplog.text) == (number > 0)
        seen |= model.former
        assert model.former == seen
        assert len(seen) == number + 1
        assert len(conversions(tmp_path)) == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_base_model(directory, cache_dir=tmp_path)
    assert not caplog.records


def test_one_of_before_hands_over_too(tiny_llama: Any, tmp_path: Path) -> None:
    """Its manifest does not say what it was made from, so it stays; its weights are compared."""
    _, directory = tiny_llama()
    first = load_base_model(directory, cache_dir=tmp_path)
    (place,) = conversions(tmp_path)
    as_of_before(place)
    template(directory, "{{ messages[0].content }}")
    second = load_base_model(directory, cache_dir=tmp_path)
    assert second.former > first.former
    assert len(conversions(tmp_path)) == 2


def test_another_model_hands_nothing_over(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    first = load_base_model(directory, cache_dir=tmp_path)
    reference, _ = tiny_llama()
    reference.save_pretrained(directory)
    second = load_base_model(directory, cache_dir=tmp_path)
    assert second.fingerprint != first.fingerprint
    assert not second.is_known_as(first.fingerprint)
    assert not second.former & first.former
    assert len(conversions(tmp_path)) == 1  # what the path held before is gone


def test_the_same_model_in_another_place_stays(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    one = load_base_model(directory, cache_dir=tmp_path / "cache")
    template(copy, "{{ messages[0].content }}")
    two = load_base_model(copy, cache_dir=tmp_path / "cache")
    assert one.fingerprint == two.fingerprint
    assert two.former > one.former
    assert len(conversions(tmp_path / "cache")) == 2


def test_a_conversion_that_vanishes_is_made_again(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, directory = tiny_llama()
    first = load_base_model(directory, cache_dir=tmp_path)
    real = native.load_converted
    taken: list[Path] = []

    def vanishing(place: Path) -> BaseModel:
        if not taken:
            taken.append(place)
            native.remove_converted(place)  # as another process does it
        return real(place)

    monkeypatch.setattr(checkpoints, "load_converted", vanishing)
    assert load_base_model(directory, cache_dir=tmp_path).fingerprint == first.fingerprint
    assert conversions(tmp_path) == taken


def test_who_has_a_conversion_open_goes_on(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    first = load_base_model(directory, dtype="float32", cache_dir=tmp_path)
    template(directory, "{{ messages[0].content }}")
    second = load_base_model(directory, dtype="float32", cache_dir=tmp_path)
    for (name, one), (_, other) in zip(first.weights.named(), second.weights.named(), strict=True):
        assert one.equal(other), name


def _load(directory: Path, cache_dir: Path, start: Any, results: Any) -> None:
    start.wait()
    model = load_base_model(directory, cache_dir=cache_dir)
    results.put((model.fingerprint, sorted(model.former)))


def test_processes_that_convert_at_once_agree(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    first = load_base_model(directory, cache_dir=tmp_path)
    template(directory, "{{ messages[0].content }}")
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_load, args=(directory, tmp_path, start, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert {fingerprint for fingerprint, _ in found} == {first.fingerprint}
    after = load_base_model(directory, cache_dir=tmp_path)
    assert after.former > first.former
    assert len(conversions(tmp_path)) == 1


def test_models_are_named(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPE_CACHE_DIR", str(tmp_path))
    assert model_name_of("anything") is None
    _, directory = tiny_llama()
    model = load_base_model(directory)
    assert model.name == directory.name
    for fingerprint in (model.fingerprint, *model.former):
        assert model_name_of(fingerprint) == directory.name
    assert model_name_of("another") is None
