"""Bearer tokens: a JWT in, its user out (RFC 7519, with the advice of RFC 8725).

What is taken is fixed by the keys and never by the token: a shared key means HS256, a key of the
JWKS file RS256 or ES256 after its kind. So a token that asks for `none`, or that was signed with a
public key as if it were shared, meets a key that does not fit it.

Covered: expired, unsigned, forged, cut and oversized tokens, other audiences and issuers, weak
keys. Not covered: a token that was stolen, which is good until it expires, so let them expire soon;
taking back a single one. Keys are read once: a changed file needs a restart.

Nothing of a token is ever part of an error or a log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from server.auth.caller import USER_ID
from server.crypto.files import KeyFileError, read_key_file

# gRPC holds all metadata of a call within 8 KiB.
MAX_TOKEN_BYTES = 4096
# A shared key no shorter than the hash (RFC 7518, section 3.2).
MIN_SHARED_KEY_BYTES = 32
MIN_RSA_BITS = 2048
# How far the clocks of issuer and server may be apart.
LEEWAY_SECONDS = 10


class UnauthenticatedError(Exception):
    """The call carries no credential that this server takes."""


@dataclass(frozen=True, slots=True)
class _Key:
    key: Any
    algorithm: str
    id: str | None = None


class TokenVerifier:
    """Checks tokens against the keys of one issuer. Make one with `shared` or `public`."""

    def __init__(self, keys: tuple[_Key, ...], audience: str, issuer: str | None) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer

    @classmethod
    def shared(cls, path: Path, *, audience: str, issuer: str | None = None) -> TokenVerifier:
        """For HS256, with the file's bytes as the key; white space around them does not count.
        Raises KeyFileError."""
        key = read_key_file(path).strip()
        if key.startswith(b"-----BEGIN"):
            raise KeyFileError(f"{path} contains a PEM key, but HS256 needs a file of random bytes")
        if len(key) < MIN_SHARED_KEY_BYTES:
            raise KeyFileError(
                f"{path} has {len(key)} bytes; a shared key needs at least {MIN_SHARED_KEY_BYTES}"
            )
        return cls((_Key(key, "HS256"),), audience, issuer)

    @classmethod
    def public(cls, path: Path, *, audience: str, issuer: str | None = None) -> TokenVerifier:
        """For RS256 and ES256, with the public keys of a JWKS file. Raises KeyFileError."""
        try:
            entries = json.loads(read_key_file(path))["keys"]
            keys = tuple(_public_key(entry, path) for entry in entries)
        except (ValueError, TypeError, LookupError) as error:
            if isinstance(error, KeyFileError):
                raise
            raise KeyFileError(f"{path} is not a JWKS file (RFC 7517, section 5)") from None
        if not keys:
            raise KeyFileError(f"{path} contains no keys")
        ids = [key.id for key in keys]
        if len(keys) > 1 and (None in ids or len(set(ids)) < len(ids)):
            raise KeyFileError(
                f"{path} contains several keys, so each of them needs a distinct kid"
            )
        return cls(keys, audience, issuer)

    def user(self, token: str) -> str:
        """The user that the token speaks for, its `sub`. Raises UnauthenticatedError."""
        if len(token) > MAX_TOKEN_BYTES:
            raise UnauthenticatedError(f"the bearer token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            key = self._key_for(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "sub", *(["iss"] if self._issuer else [])]},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the bearer token has expired; get a new one") from None
        except jwt.InvalidAudienceError:
            raise UnauthenticatedError("the bearer token was issued for another audience") from None
        except (jwt.PyJWTError, ValueError, TypeError, UnicodeError, RecursionError):
            # The library's own words may quote the token.
            raise UnauthenticatedError("the bearer token is not valid for this server") from None
        user = claims["sub"]
        if not isinstance(user, str) or not USER_ID.fullmatch(user):
            raise UnauthenticatedError("the subject of the bearer token is not a valid user id")
        return user

    def _key_for(self, header: Mapping[str, Any]) -> _Key:
        wanted = header.get("kid")
        fitting = [key for key in self._keys if key.id == wanted or key.id is None]
        if not fitting and wanted is None and len(self._keys) == 1:
            fitting = list(self._keys)
        if not fitting:
            raise jwt.InvalidKeyError
        return fitting[0]


def _public_key(entry: Mapping[str, Any], path: Path) -> _Key:
    if not isinstance(entry, Mapping):
        raise TypeError
    name = f"key {entry.get('kid', '')!r} of {path}"
    if entry.get("kty") not in ("RSA", "EC"):
        raise KeyFileError(
            f"{name} is neither an RSA nor an EC key; put shared keys into token_key_file"
        )
    if "d" in entry:
        raise KeyFileError(f"{name} is a private key; publish only the public part to the server")
    if entry.get("use", "sig") != "sig":
        raise KeyFileError(f"{name} is not a signature key")
    try:
        key = jwt.PyJWK(dict(entry)).key
    except jwt.PyJWTError:
        raise KeyFileError(f"{name} cannot be decoded") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        algorithm = "RS256"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = "ES256"
    else:
        raise KeyFileError(
            f"{name} must be an RSA key of at least {MIN_RSA_BITS} bits or a P-256 key"
        )
    if entry.get("alg", algorithm) != algorithm:
        raise KeyFileError(
            f"{name} declares the algorithm {entry['alg']!r}; only RS256 and ES256 are supported"
        )
    return _Key(key, algorithm, entry.get("kid"))
