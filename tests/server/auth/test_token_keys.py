"""Files of keys for tokens: which of them can be used."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from credentials import (
    AUDIENCE,
    SHARED_KEY,
    ec_key,
    jwk,
    jwks_file,
    public_pem,
    rsa_key,
)
from cryptography.hazmat.primitives.asymmetric import ec
from signing_keys import EC, RSA

from server.auth.tokens import TokenVerifier
from server.crypto.files import KeyFileError


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"short\n", "32"),
        (b"", "32"),
        (public_pem(RSA), "PEM"),
    ],
)
def test_a_shared_key_that_cannot_be_used(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=words):
        TokenVerifier.shared(path, audience=AUDIENCE)
    with pytest.raises(KeyFileError, match="cannot read"):
        TokenVerifier.shared(tmp_path / "none", audience=AUDIENCE)


OCT = {"kty": "oct", "k": base64.urlsafe_b64encode(SHARED_KEY).decode()}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "no keys"),
        ([OCT], "neither an RSA nor an EC"),
        (
            [OCT | {"kty": 7}, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "P-256"}],
            "no keys that verify",
        ),
        ([jwk(RSA, use="enc"), jwk(EC, alg="ECDH-ES"), OCT], "'ECDH-ES' .*, key '' is neither"),
        ([jwk(RSA, alg="ES256")], "does not fit its kind"),
        ([jwk(EC) | {"key_ops": ["encrypt"]}], "signature key"),
        ([jwk(rsa_key(1024))], "2048"),
        ([jwk(ec_key(ec.SECP384R1()))], "P-256"),
        ([jwk(RSA, alg="RS512")], "RS512"),
        ([jwk(RSA, use="enc")], "signature key"),
        ([jwk(RSA) | {"d": "AQAB"}], "private"),
        ([jwk(RSA) | {"n": "!"}], "cannot be decoded"),
        ([jwk(EC, kid="a"), jwk(RSA, kid="b") | {"d": "AQAB"}], "private"),
        (["text"], "not a JWKS"),
        ([jwk(RSA), None], "not a JWKS"),
    ],
)
def test_public_keys_that_cannot_be_used(tmp_path: Path, entries: Any, words: str) -> None:
    with pytest.raises(KeyFileError, match=words):
        TokenVerifier.public(jwks_file(tmp_path, *entries), audience=AUDIENCE)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": 7}', b"\xff", b'{"keys": {"a": 1}}']
)
def test_a_file_that_is_no_jwks(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="not a JWKS"):
        TokenVerifier.public(path, audience=AUDIENCE)
