"""Names of the Hugging Face Hub, against a hub on this disk."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hope_runtime.checkpoints import find_source, load_base_model
from hope_runtime.checkpoints.hub import HubName
from hope_runtime.errors import ModelError, ModelNotFoundError


class GatedRepoError(Exception):
    """By the name of the library's."""


class RepositoryNotFoundError(Exception):
    """By the name of the library's."""


@dataclass
class Hub:
    """A repository `org/name`, its copy in the local cache, and what was asked of it."""

    files: dict[str, bytes]
    cache: Path
    refuses: Exception | None = None
    asked: list[tuple[str | None, bool]] = field(default_factory=list)

    @property
    def snapshot(self) -> Path:
        return self.cache / "models--org--name" / "snapshots" / "0123abc"

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None = None,
        allow_patterns: Sequence[str] = (),
        local_files_only: bool = False,
    ) -> str:
        self.asked.append((revision, local_files_only))
        if local_files_only:
            if not self.snapshot.exists():
                raise FileNotFoundError("not in the cache")
            return str(self.snapshot)
        if self.refuses is not None:
            raise self.refuses
        for file, content in self.files.items():
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                place = self.snapshot / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        return str(self.snapshot)

    def model_info(self, name: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert name == "org/name"
        assert files_metadata
        if self.refuses is not None:
            raise self.refuses
        siblings = [
            SimpleNamespace(rfilename=file, size=len(content))
            for file, content in self.files.items()
        ]
        return SimpleNamespace(siblings=siblings)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, bytes]], Hub]:
    """A factory of hubs that the library asks instead of the real one."""
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def make(files: dict[str, bytes]) -> Hub:
        made = Hub(files, tmp_path / "hub")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
        api = SimpleNamespace(model_info=made.model_info)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(made.cache))
        return made

    return make


GGUF_FILES = {
    "name-Q4_K_M.gguf": b"4",
    "name-Q8_0.gguf": b"8",
    "big/name-F16-00001-of-00002.gguf": b"1",
    "README.md": b"",
}


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("org/name", HubName("org/name")),
        ("org/na.me-1", HubName("org/na.me-1")),
        ("org/name@v1.0", HubName("org/name", "v1.0")),
        ("org/name:Q4_K_M", HubName("org/name", None, "Q4_K_M")),
        ("org/name@main:a/b.gguf", HubName("org/name", "main", "a/b.gguf")),
        ("models/file.gguf", None),
        ("./org/name", None),
        ("/org/name", None),
        ("~/name", None),
        ("name", None),
        ("a/b/c", None),
    ],
)
def test_names(name: str, parsed: HubName | None) -> None:
    assert HubName.parse(name) == parsed
    assert parsed is None or str(parsed) == name


def test_a_directory_is_fetched_once_at_its_revision(
    tiny_llama: Any, hub: Callable[[dict[str, bytes]], Hub], tmp_path: Path
) -> None:
    reference, directory = tiny_llama()
    here = hub({file.name: file.read_bytes() for file in directory.iterdir()} | {"x.bin": b"no"})
    for _ in range(2):
        model = load_base_model("org/name@v1", dtype="float32", cache_dir=tmp_path / "cache")
    assert torch.equal(
        model.weights.embedding, reference.get_input_embeddings().weight.to(torch.float32)
    )
    assert here.asked == [("v1", True), ("v1", False), ("v1", True)]
    assert not (here.snapshot / "x.bin").exists()
    # Called by its name, not by the commit, which the manifest keeps.
    assert model.name == "name"
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    assert "0123abc" in manifest.read_text()


@pytest.mark.parametrize("wanted", ["Q4_K_M", "q4_k_m", "name-Q4_K_M.gguf"])
def test_one_gguf_file_of_several(hub: Callable[[dict[str, bytes]], Hub], wanted: str) -> None:
    here = hub(GGUF_FILES)
    assert find_source(f"org/name:{wanted}").name == "name-Q4_K_M.gguf"
    assert [file.name for file in here.snapshot.iterdir()] == ["name-Q4_K_M.gguf"]
    assert find_source(f"org/name:{wanted}").read_bytes() == b"4"
    assert here.asked[-1] == (None, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/name:Q5", r"names no GGUF file; choose one of: name-Q4_K_M\.gguf, name-Q8_0\.gguf"),
        ("org/name:name", r"names 2 GGUF files; choose one of: name-Q4_K_M\.gguf, name-Q8"),
        ("org/name", r"does not contain config\.json; name one .* org/name:big/name-F16"),
    ],
)
def test_a_file_that_is_not_clear(
    hub: Callable[[dict[str, bytes]], Hub], name: str, message: str
) -> None:
    hub(GGUF_FILES)
    with pytest.raises(ModelNotFoundError, match=message):
        find_source(name)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (GatedRepoError(), "org/name is gated; accept its terms .* and set HF_TOKEN"),
        (RepositoryNotFoundError(), "no such repository; check the name, or set HF_TOKEN"),
        (ConnectionError("no network"), r"org/name is neither .* \(ConnectionError\)"),
    ],
)
def test_what_the_hub_refuses(
    hub: Callable[[dict[str, bytes]], Hub], refusal: Exception, message: str
) -> None:
    hub(GGUF_FILES).refuses = refusal
    for name in ("org/name", "org/name:Q4_K_M"):
        with pytest.raises(ModelNotFoundError, match=message.replace("org/name", name)):
            find_source(name)


def test_offline_asks_nothing(
    hub: Callable[[dict[str, bytes]], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hub(GGUF_FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="not downloaded before, and HF_HUB_OFFLINE"):
        find_source("org/name:Q4_K_M")
    assert here.asked == [(None, True)]


def test_a_disk_without_room_is_said_before_anything_is_fetched(
    hub: Callable[[dict[str, bytes]], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = hub(GGUF_FILES | {"config.json": b"{}", "model.safetensors": b"12345"})
    free = SimpleNamespace(free=6)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    with pytest.raises(ModelError, match=r"org/name takes 0\.0 GB, but only 0\.0 GB are free"):
        find_source("org/name")
    assert here.asked == [(None, True)]
    assert find_source("org/name:Q8_0").name == "name-Q8_0.gguf"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelNotFoundError, match="pip install huggingface_hub"):
        find_source("org/name")
