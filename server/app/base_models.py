"""The base model that sessions belong to, and the refusal of sessions of another one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from hope_runtime.engine.base import ServedModel
from hope_runtime.errors import FingerprintMismatchError
from server.store.base import SessionStore, StoreError

_log = logging.getLogger(__name__)

SHORT = 12
"""Characters of a fingerprint that are shown to people."""


class ServedBase:
    """The base model that a server runs.

    `name_of` finds what another model is called by its fingerprint, where that is known.
    """

    def __init__(
        self, model: ServedModel, name_of: Callable[[str], str | None] = lambda fingerprint: None
    ) -> None:
        self.fingerprint = model.fingerprint
        self.former = model.former
        self._name = model.name
        self._name_of = name_of

    @property
    def known(self) -> frozenset[str]:
        """Fingerprints under which sessions of this model are stored."""
        return self.former | {self.fingerprint}

    def others(self, counts: Mapping[str, int]) -> str:
        """A sentence about sessions of other base models, by how many there are of each
        fingerprint; empty when there are none."""
        others = {each: count for each, count in counts.items() if each not in self.known}
        if not others:
            return ""
        of_each = ", ".join(
            f"{count} of {_shown(self._name_of(each), each)}" for each, count in others.items()
        )
        return (
            f"{sum(others.values())} of {sum(counts.values())} sessions belong to another base "
            f"model and cannot be served here: {of_each}"
        )

    def check(self, what: str, fingerprint: str, remedy: str = "serve that model") -> None:
        """Raises FingerprintMismatchError, naming both models, if `what` belongs to another one."""
        if fingerprint in self.known:
            return
        theirs = _shown(self._name_of(fingerprint), fingerprint)
        mine = _shown(self._name, self.fingerprint)
        raise FingerprintMismatchError(
            f"{what} was learnt on another base model, {theirs}, but this server runs {mine}; "
            f"{remedy}"
        )


@contextlib.asynccontextmanager
async def telling_of_others(base: ServedBase, store: SessionStore) -> AsyncIterator[None]:
    """Looks through the store once, while the block runs, and logs what belongs to other models."""

    async def look() -> None:
        try:
            if told := base.others(await store.fingerprints()):
                _log.warning("%s", told)
        except StoreError as error:
            _log.warning("could not count sessions of other base models: %s", error)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _shown(name: str | None, fingerprint: str) -> str:
    short = fingerprint[:SHORT]
    return f"'{name}' ({short})" if name else f"an unknown model ({short})"
