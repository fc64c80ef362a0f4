"""Bearer tokens: a JWT in, its user out (RFC 7519, with the advice of RFC 8725).

What is taken is fixed by the keys and never by the token: a shared key means HS256, a key of the
JWKS file RS256 or ES256 after its kind. So a token that asks for `none`, or that was signed with a
public key as if it were shared, meets a key that does not fit it. Keys of the file that are for
something else (encryption, other algorithms, kinds that are not known here) are left out, as RFC
7517 has it; a file from which no key is left is refused.

Covered: expired, unsigned, forged, cut and oversized tokens, other audiences and issuers, weak
keys. Not covered: a token that was stolen, which is good until it expires, so let them expire soon;
taking back a single one. Keys are read once: a changed file needs a restart.

Nothing of a token is ever part of an error or a log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from server.auth.users import MAX_SUBJECT_BYTES, user_id_of
from server.crypto.files import KeyFileError, read_key_file

_log = logging.getLogger(__name__)

# gRPC holds all metadata of a call within 8 KiB.
MAX_TOKEN_BYTES = 4096
# A shared key no shorter than the hash (RFC 7518, section 3.2).
MIN_SHARED_KEY_BYTES = 32
MIN_RSA_BITS = 2048
# How far the clocks of issuer and server may be apart.
LEEWAY_SECONDS = 10


class UnauthenticatedError(Exception):
    """The call carries no credential that this server takes."""


class _UnusableKeyError(Exception):
    """A key of a JWKS file that cannot check tokens here; the message says why."""


@dataclass(frozen=True, slots=True)
class _Key:
    key: Any
    algorithm: str
    id: str | None = None


class TokenVerifier:
    """Checks tokens against the keys of one issuer. Make one with `shared` or `public`."""

    def __init__(
        self, keys: tuple[_Key, ...], audience: str, issuer: str | None, user_claim: str
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._user_claim = user_claim

    @classmethod
    def shared(
        cls, path: Path, *, audience: str, issuer: str | None = None, user_claim: str = "sub"
    ) -> TokenVerifier:
        """For HS256, with the file's bytes as the key; white space around them does not count.
        Raises KeyFileError."""
        key = read_key_file(path).strip()
        if key.startswith(b"-----BEGIN"):
            raise KeyFileError(f"{path} contains a PEM key, but HS256 needs a file of random bytes")
        if len(key) < MIN_SHARED_KEY_BYTES:
            raise KeyFileError(
                f"{path} has {len(key)} bytes; a shared key needs at least {MIN_SHARED_KEY_BYTES}"
            )
        return cls((_Key(key, "HS256"),), audience, issuer, user_claim)

    @classmethod
    def public(
        cls, path: Path, *, audience: str, issuer: str | None = None, user_claim: str = "sub"
    ) -> TokenVerifier:
        """For RS256 and ES256, with the public keys of a JWKS file. Raises KeyFileError."""
        try:
            entries = json.loads(read_key_file(path))["keys"]
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                raise TypeError
        except KeyFileError:
            raise
        except (ValueError, TypeError, LookupError, RecursionError):
            raise KeyFileError(f"{path} is not a JWKS file (RFC 7517, section 5)") from None
        return cls(_public_keys(entries, path), audience, issuer, user_claim)

    def user(self, token: str) -> str:
        """Id of the user that the token speaks for. Raises UnauthenticatedError."""
        if len(token) > MAX_TOKEN_BYTES:
            raise UnauthenticatedError(f"the bearer token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the bearer token has expired; get a new one") from None
        except jwt.InvalidAudienceError:
            raise UnauthenticatedError("the bearer token was issued for another audience") from None
        except (jwt.PyJWTError, ValueError, TypeError, UnicodeError, RecursionError):
            # The library's own words may quote the token.
            raise UnauthenticatedError("the bearer token is not valid for this server") from None
        subject = claims[self._user_claim]
        try:
            if not isinstance(subject, str):
                raise ValueError
            return user_id_of(subject)
        except ValueError:
            raise UnauthenticatedError(
                f"the claim '{self._user_claim}' of the bearer token must name one user in 1 to "
                f"{MAX_SUBJECT_BYTES} bytes of text"
            ) from None

    def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of the keys signed. Raises PyJWTError."""
        required = ["exp", "aud", self._user_claim, *(["iss"] if self._issuer else [])]
        for key in self._keys_for(jwt.get_unverified_header(token)):
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": required},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
                continue  # of several keys under one kid, or without one, another may fit
        raise jwt.InvalidKeyError

    def _keys_for(self, header: Mapping[str, Any]) -> list[_Key]:
        wanted = header.get("kid")
        if wanted is None and len(self._keys) == 1:
            return list(self._keys)
        return [key for key in self._keys if key.id is None or key.id == wanted]


def _public_keys(entries: Iterable[Mapping[str, Any]], path: Path) -> tuple[_Key, ...]:
    """The keys of a JWKS file that check tokens. Raises KeyFileError when there is none."""
    keys, left_out = [], []
    for entry in entries:
        kid = entry.get("kid", "")
        if entry.get("kty") in ("RSA", "EC") and "d" in entry:
            raise KeyFileError(
                f"key {kid!r} of {path} is a private key; give the server only the public part"
            )
        try:
            keys.append(_public_key(entry))
        except _UnusableKeyError as error:
            left_out.append(f"key {kid!r} {error}")
            _log.info("key %r of %s is ignored because it %s", kid, path, error)
    if not keys:
        why = f" ({', '.join(left_out)})" if left_out else ""
        raise KeyFileError(
            f"{path} contains no keys that verify RS256 or ES256 signatures{why}; publish one"
        )
    return tuple(keys)


def _public_key(entry: Mapping[str, Any]) -> _Key:
    """A key that checks tokens. Raises _UnusableKeyError for any other."""
    if entry.get("kty") not in ("RSA", "EC"):
        raise _UnusableKeyError(
            "is neither an RSA nor an EC key (shared keys belong in token_key_file)"
        )
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or "verify" not in operations:
        raise _UnusableKeyError("is not a signature key")
    if entry.get("alg", "RS256") not in ("RS256", "ES256"):
        raise _UnusableKeyError(
            f"declares the algorithm {entry['alg']!r} (only RS256 and ES256 are supported)"
        )
    try:
        # By its kind alone: whether its algorithm fits the kind is checked below.
        key = jwt.PyJWK({name: entry[name] for name in entry if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        raise _UnusableKeyError("cannot be decoded") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        algorithm = "RS256"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = "ES256"
    else:
        raise _UnusableKeyError(
            f"is neither an RSA key of at least {MIN_RSA_BITS} bits nor a P-256 key"
        )
    if entry.get("alg", algorithm) != algorithm:
        raise _UnusableKeyError(
            f"declares the algorithm {entry['alg']!r}, which does not fit its kind"
        )
    kid = entry.get("kid")
    return _Key(key, algorithm, kid if isinstance(kid, str) else None)
