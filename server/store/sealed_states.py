"""Sealed states of sessions, read from a store and opened with the keys of their users."""

from __future__ import annotations

import dataclasses

from server.crypto.cipher import Cipher
from server.crypto.keys import KeyStore
from server.store.base import Head, SessionKey, SessionStore, VersionNotFoundError
from server.store.sealed_head import SealedHead
from server.store.sealing import damage, key_errors, open_head


class SealedStates:
    """States in `store`, which users' keys in `keys` open."""

    def __init__(self, store: SessionStore, keys: KeyStore) -> None:
        self._store = store
        self._keys = keys

    async def cipher(self, user: str, *, make: bool = False) -> Cipher:
        """Cipher with the key of a user, made if it is missing and `make` is set.

        Raises UnsealError for a key that is missing, and StoreError."""
        with key_errors():
            return await self._keys.cipher(user, make=make)

    async def cipher_of(self, key: SessionKey, name: str = "head") -> Cipher:
        """Cipher for `name` of a session. Raises CorruptBlobError without a key, and StoreError."""
        with damage(key, name):
            return await self.cipher(key.user)

    async def state(
        self, key: SessionKey, version: int | None = None
    ) -> tuple[Cipher, Head, SealedHead]:
        """The head as it is stored, with the state that it, or a kept version, seals; for a
        version, the head has its number, fingerprint and policy."""
        head = await self._store.head(key)
        cipher = await self.cipher_of(key)
        if version is None:
            return cipher, head, open_head(cipher, key, head)
        for info in await self._store.versions(key):
            if info.version == version:
                shown = dataclasses.replace(
                    head, version=version, fingerprint=info.fingerprint, policy=info.policy
                )
                return cipher, shown, open_head(cipher, key, info)
        raise VersionNotFoundError(f"version {version} of session {key} does not exist")
