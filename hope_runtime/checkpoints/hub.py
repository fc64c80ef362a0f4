"""Models of the Hugging Face Hub: names -> a directory or a GGUF file in the hub's local cache.

    org/name                    the repository's safetensors
    org/name@revision           the same at a branch, a tag or a commit
    org/name:file.gguf          one GGUF file; a part of its name is enough, such as Q4_K_M

What an earlier run fetched is used without network, and with HF_HUB_OFFLINE nothing else is. Code
from a repository is never run. Needs the library huggingface_hub; gated repositories need HF_TOKEN.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hope_runtime.errors import ModelError, ModelNotFoundError
from hope_runtime.models.decoder.family import Progress

# What of a repository is needed; some also hold the same weights in other formats.
_DIRECTORY = ("*.json", "*.safetensors", "*.jinja")
_NAME = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?(?::([\w./-]+))?")
_PART = re.compile(r"-\d+-of-\d+\.gguf$")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository, and where given its revision and (a part of) the name of a GGUF file."""

    repository: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, name: str) -> HubName | None:
        """The name, or None for what can only be a path."""
        found = _NAME.fullmatch(name)
        if found is None or (name.endswith(".gguf") and found[3] is None):
            return None
        return cls(*found.groups())

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{revision}" + (f":{self.file}" if self.file else "")


def fetch(name: HubName, report: Progress) -> Path:
    """The directory or file that a name stands for, fetched if need be.

    Raises ModelNotFoundError, and ModelError when the disk has no room for it.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelNotFoundError(
            f"{name} does not exist here; to download it from the Hugging Face Hub, run: pip "
            "install huggingface_hub"
        ) from error
    patterns = ("*.gguf",) if name.file else _DIRECTORY

    def snapshot(**options: Any) -> Path:
        place = huggingface_hub.snapshot_download(
            name.repository, revision=name.revision, **options
        )
        return Path(place).resolve()

    with contextlib.suppress(Exception):  # the ways to say "not here" differ between versions
        local = snapshot(allow_patterns=list(patterns), local_files_only=True)
        found = _in_directory(name, local)
        if found is not None:
            return found
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelNotFoundError(
            f"{name} was not downloaded before, and HF_HUB_OFFLINE is set; unset it or give a path"
        )
    report(0.0, f"fetching {name}")
    try:
        files = _files(huggingface_hub, name)
        if files is not None:
            if name.file:
                patterns = (_chosen(name, [file for file in files if file.endswith(".gguf")]),)
            _check_room(huggingface_hub, name, files, patterns)
        found = _in_directory(name, snapshot(allow_patterns=list(patterns)))
    except ModelError:
        raise
    except Exception as error:  # network, name, access: the library has many of its own
        raise _refusal(name, error) from error
    if found is None:
        raise ModelNotFoundError(_without_model(name, files or {}))
    return found


def name_of_snapshot(path: Path) -> str | None:
    """Name of the repository whose snapshot in the hub's cache a directory is, without its owner;
    the directory itself is called by its commit."""
    repository = path.parent.parent.name
    if path.parent.name != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.rpartition("--")[2]


def _in_directory(name: HubName, directory: Path) -> Path | None:
    """The directory or file that is wanted of a snapshot, or None where it is not in it."""
    if name.file is None:
        return directory if (directory / "config.json").is_file() else None
    files = [file.relative_to(directory).as_posix() for file in directory.rglob("*.gguf")]
    return directory / _chosen(name, files) if files else None


def _chosen(name: HubName, files: Iterable[str]) -> str:
    """The GGUF file that is meant. Raises ModelNotFoundError, which names those that there are."""
    wanted = (name.file or "").lower()
    whole = sorted(file for file in files if not _PART.search(file))
    exact = [file for file in whole if file.lower() == wanted]
    found = exact or [file for file in whole if wanted in file.lower()]
    if len(found) != 1:
        raise ModelNotFoundError(
            f"{name} names {len(found) or 'no'} GGUF file{'s' if len(found) > 1 else ''}; "
            f"choose one of: {', '.join(found or whole) or 'none there'}"
        )
    return found[0]


def _files(library: Any, name: HubName) -> dict[str, int] | None:
    """Size in bytes of every file of a repository; None where the hub does not say."""
    try:
        about = library.HfApi().model_info(
            name.repository, revision=name.revision, files_metadata=True
        )
        return {file.rfilename: file.size or 0 for file in about.siblings}
    except Exception as error:
        if _known(error) is not None:
            raise
        return None  # then fetching says what is wrong


def _check_room(
    library: Any, name: HubName, files: dict[str, int], patterns: Iterable[str]
) -> None:
    """Raise ModelError when the hub's cache has no room for the files."""
    needed = sum(
        size for file, size in files.items() if any(fnmatch(file, pattern) for pattern in patterns)
    )
    place = Path(library.constants.HF_HUB_CACHE)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ModelError(
            f"{name} takes {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free in "
            f"{place}; make room or choose another directory with HF_HOME"
        )


def _known(error: Exception) -> str | None:
    """The end of a sentence for a refusal of the hub, or None for another error."""
    # By name: the library has moved its classes between versions.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return "is gated; accept its terms on the Hugging Face Hub and set HF_TOKEN"
    if "RevisionNotFoundError" in kinds:
        return "has no such revision on the Hugging Face Hub; check what stands behind the @"
    if "RepositoryNotFoundError" in kinds:
        return (
            "is neither a file nor a directory, and the Hugging Face Hub shows no such repository; "
            "check the name, or set HF_TOKEN if it is private"
        )
    return None


def _refusal(name: HubName, error: Exception) -> ModelNotFoundError:
    if (known := _known(error)) is not None:
        return ModelNotFoundError(f"{name} {known}")
    return ModelNotFoundError(
        f"{name} is neither a file nor a directory, and downloading it from the Hugging Face "
        f"Hub failed ({type(error).__name__}); check the name and the network, or give a "
        "directory"
    )


def _without_model(name: HubName, files: Iterable[str]) -> str:
    gguf = sorted(file for file in files if file.endswith(".gguf"))
    hint = f"; name one of its GGUF files, such as {name}:{gguf[0]}" if gguf else ""
    return f"{name} does not contain config.json{hint}"
