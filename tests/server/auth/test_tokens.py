"""Which tokens are taken, which are refused, and with which keys a server does not start."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from credentials import (
    AUDIENCE,
    SHARED_KEY,
    claims,
    ec_key,
    jwk,
    jwks_file,
    public_pem,
    rsa_key,
    shared_key_file,
    token,
)
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.auth.tokens import TokenVerifier, UnauthenticatedError
from server.crypto.files import KeyFileError

RSA, EC = rsa_key(), ec_key()


@pytest.fixture
def shared(tmp_path: Path) -> TokenVerifier:
    return TokenVerifier.shared(shared_key_file(tmp_path), audience=AUDIENCE)


@pytest.fixture
def public(tmp_path: Path) -> TokenVerifier:
    path = jwks_file(tmp_path, jwk(RSA, kid="old"), jwk(EC, kid="new", use="sig", alg="ES256"))
    return TokenVerifier.public(path, audience=AUDIENCE)


def signed(key: Any, algorithm: str, kid: str, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid})


def by_hand(header: dict[str, Any], body: dict[str, Any], key: bytes | None) -> str:
    """A token as an attacker makes it, past every check of a library; unsigned without a key."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, body))
    signature = b"" if key is None else hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{encoded(signature)}"


def refusal(verifier: TokenVerifier, value: str) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.user(value)
    message = str(caught.value)
    assert "." not in message
    assert len(value) < 9 or value not in message
    # Tracebacks are logged; the library's own errors may quote what they were given.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def test_a_good_token_names_its_user(shared: TokenVerifier, public: TokenVerifier) -> None:
    assert shared.user(token("ada")) == "ada"
    assert shared.user(token("ada", aud=["other", AUDIENCE])) == "ada"
    assert public.user(signed(RSA, "RS256", "old")) == "ada"
    assert public.user(signed(EC, "ES256", "new", sub="bob")) == "bob"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exp": time.time() - 60}, "expired"),
        ({"aud": "another"}, "audience"),
        ({"aud": None}, "not valid"),
        ({"exp": None}, "not valid"),
        ({"sub": None}, "not valid"),
        ({"nbf": time.time() + 3600}, "not valid"),
        ({"iat": "soon"}, "not valid"),
        ({"exp": "never"}, "not valid"),
        ({"sub": ""}, "subject"),
        ({"sub": "ada/sessions/x"}, "subject"),
        ({"sub": "a" * 65}, "subject"),
        ({"sub": "ada\n"}, "subject"),
    ],
)
def test_claims_that_are_refused(shared: TokenVerifier, changes: Any, words: str) -> None:
    assert words in refusal(shared, token(**changes))


def test_the_issuer_counts_where_one_is_set(tmp_path: Path) -> None:
    verifier = TokenVerifier.shared(shared_key_file(tmp_path), audience=AUDIENCE, issuer="us")
    assert verifier.user(token(iss="us")) == "ada"
    assert "not valid" in refusal(verifier, token(iss="them"))
    assert "not valid" in refusal(verifier, token())


def test_the_key_and_not_the_token_says_the_algorithm(
    shared: TokenVerifier, public: TokenVerifier
) -> None:
    for verifier in (shared, public):
        for name in ("none", "None", "NONE", "HS256", "RS256", ""):
            for kid in ({}, {"kid": "old"}, {"kid": "new"}, {"kid": 7}, {"kid": None}):
                refusal(verifier, by_hand({"alg": name, **kid}, claims(), None))
    # A public key as if it were shared: the attack of RFC 8725, section 2.1.
    for pem, kid in ((public_pem(RSA), "old"), (public_pem(EC), "new")):
        for key in (pem, pem.strip()):
            refusal(public, by_hand({"alg": "HS256", "kid": kid}, claims(), key))
    assert shared.user(by_hand({"alg": "HS256"}, claims(), SHARED_KEY)) == "ada"
    refusal(shared, token(key=SHARED_KEY * 2, algorithm="HS512"))
    refusal(shared, signed(RSA, "RS256", "old"))
    refusal(public, signed(RSA, "RS512", "old"))
    refusal(public, signed(RSA, "PS256", "old"))
    # The right kind of key, and not the one that the token names.
    refusal(public, signed(rsa_key(), "RS256", "old"))
    refusal(public, signed(RSA, "RS256", "new"))
    refusal(public, signed(RSA, "RS256", "unknown"))
    refusal(public, token(key=RSA, algorithm="RS256"))


def test_what_is_no_token_is_refused(shared: TokenVerifier) -> None:
    good = token()
    head, body, signature = good.split(".")
    for value in (
        "",
        ".",
        "..",
        "x",
        good[:-1],
        f"{good}.",
        f"{head}.{body}.",
        f"{head}..{signature}",
    ):
        refusal(shared, value)
    assert "longer" in refusal(shared, token(padding="x" * 4096))
    assert "longer" in refusal(shared, "x" * 5000)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_no_mutated_token_is_taken(shared: TokenVerifier, data: st.DataObject) -> None:
    """Every change of a token is refused, or leaves its user as it was (spare bits of base64)."""
    good = token("ada")
    place = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.characters(codec="ascii"))
    try:
        user = shared.user(good[:place] + other + good[place + 1 :])
    except UnauthenticatedError:
        return
    assert user == "ada"


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
        ([jwk(rsa_key(1024))], "2048"),
        ([jwk(ec_key(ec.SECP384R1()))], "P-256"),
        ([jwk(RSA, alg="RS512")], "RS512"),
        ([jwk(RSA, use="enc")], "signature key"),
        ([jwk(RSA) | {"d": "AQAB"}], "private"),
        ([jwk(RSA) | {"n": "!"}], "cannot be decoded"),
        ([jwk(RSA), jwk(EC, kid="b")], "kid"),
        ([jwk(RSA, kid="a"), jwk(EC, kid="a")], "kid"),
        (["text"], "not a JWKS"),
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
