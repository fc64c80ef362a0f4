"""The conversions in the cache: which of them are of one model, and which nobody needs any more.

A model that changes is converted anew, because the identity of a conversion is that of its source's
files. What was learnt on it stays valid as long as weights and tokenisation are the same, so a new
conversion takes over the fingerprints of those before it; then the older ones of its source go.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hope_runtime.checkpoints.converted_cache import (
    FORMER,
    IDENTITY,
    NAME,
    SOURCE,
    TEMPLATE,
    is_converted,
    load_converted,
    read_manifest,
    remove_converted,
    write_manifest,
)
from hope_runtime.errors import ModelError

_log = logging.getLogger(__name__)


def note_source(directory: Path, source: Path, name: str) -> None:
    """Adds to a conversion of before what it was made from, where it does not say so yet."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        manifest = read_manifest(directory)
        if SOURCE not in manifest:
            write_manifest(directory, {NAME: name, **manifest, SOURCE: str(source)})


def succeed(directory: Path, source: Path) -> None:
    """Lets a new conversion take over from those of the same model, and removes older ones of the
    same source. Says so when the chat template is another one.

    Other processes may do the same: each adds what it finds, and a conversion that one of them is
    using stays readable to it.
    """
    try:
        mine = read_manifest(directory)
    except (OSError, ValueError, TypeError):
        return  # somebody removed it meanwhile
    former = {*mine.get(FORMER, ())}
    older = []
    for other, manifest in _others(directory):
        same_source = manifest.get(SOURCE) == str(source)
        if same_source:
            older.append(other)
        if _identity(other, manifest, mine) != mine[IDENTITY]:
            continue
        former |= {str(manifest["fingerprint"]), *manifest.get(FORMER, ())}
        if same_source and manifest.get(TEMPLATE) != mine[TEMPLATE]:
            _log.warning(
                "the chat template of %s has changed (%s to %s); sessions now use the new one",
                source,
                _short(manifest.get(TEMPLATE)),
                _short(mine[TEMPLATE]),
            )
    former.discard(mine["fingerprint"])
    if former != {*mine.get(FORMER, ())}:
        try:
            write_manifest(directory, mine | {FORMER: sorted(former)})
        except OSError as error:
            _log.warning("could not take over the fingerprints of older conversions: %s", error)
            return  # then those conversions are still needed
    for place in older:
        remove_converted(place)


def name_of(models: Path, fingerprint: str) -> str | None:
    """Name of the model of a fingerprint, if a conversion in the cache has it."""
    for _, manifest in _manifests(models):
        known = {manifest.get(IDENTITY), manifest["fingerprint"], *manifest.get(FORMER, ())}
        if fingerprint in known and manifest.get(NAME):
            return str(manifest[NAME])
    return None


def _others(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    return (each for each in _manifests(directory.parent) if each[0] != directory)


def _manifests(models: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for place in sorted(models.glob("*/manifest.json")):
        if not place.parent.name.startswith(".") and is_converted(place.parent):
            with contextlib.suppress(OSError, ValueError, TypeError):
                manifest = read_manifest(place.parent)
                if isinstance(manifest.get("fingerprint"), str):
                    yield place.parent, manifest


def _identity(place: Path, manifest: dict[str, Any], mine: dict[str, Any]) -> str | None:
    """The fingerprint of another conversion. One of before says none; its weights are read when
    they can be the same."""
    if IDENTITY in manifest:
        return str(manifest[IDENTITY])
    if manifest.get("weights_bytes") != mine.get("weights_bytes"):
        return None
    try:
        model = load_converted(place)
    except (ModelError, json.JSONDecodeError):
        return None
    manifest[TEMPLATE] = model.tokenizer.template_digest
    return model.fingerprint


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "none"
