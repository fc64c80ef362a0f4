"""Which tokens are taken, which are refused, and whom they name."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
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
from signing_keys import EC, RSA

from server.auth.tokens import TokenVerifier, UnauthenticatedError
from server.auth.users import is_user_id, subject_of, user_id_of


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


def refusal(verifier: TokenVerifier, value: str, *, dots: int | None = 0) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.user(value)
    message = str(caught.value)
    assert dots is None or message.count(".") == dots
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
        ({"sub": ""}, "claim 'sub'"),
        ({"sub": "a" * 257}, "claim 'sub'"),
        ({"sub": "é" * 129}, "claim 'sub'"),
        ({"sub": "ada\ud800"}, "claim 'sub'"),
        ({"sub": 7}, "not valid"),
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


# Entries that identity providers publish beside the keys that sign.
FOREIGN: dict[str, dict[str, Any]] = {
    "Keycloak's key for encryption": jwk(rsa_key(), kid="enc", use="enc", alg="RSA-OAEP"),
    "Ed25519": {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg", "kid": "ed"},
    "a kind from the future": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x", "kid": "pq"},
    "another algorithm": jwk(rsa_key(), kid="ps", use="sig", alg="PS256"),
    "another curve": jwk(ec_key(ec.SECP521R1()), kid="p521", use="sig"),
    "a short key": jwk(rsa_key(1024), kid="short", use="sig"),
    "half a key": {"kty": "RSA", "kid": "half", "use": "sig", "e": "AQAB"},
    "nothing": {},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_keys_of_a_jwks_file_are_left_out(tmp_path: Path, name: str) -> None:
    foreign = FOREIGN[name]
    path = jwks_file(tmp_path, foreign, jwk(RSA, kid="sig", use="sig", alg="RS256"), foreign)
    verifier = TokenVerifier.public(path, audience=AUDIENCE)
    assert verifier.user(signed(RSA, "RS256", "sig")) == "ada"
    refusal(verifier, signed(rsa_key(), "RS256", foreign.get("kid", "")))


def test_keys_without_an_id_or_with_the_same_are_tried_in_turn(tmp_path: Path) -> None:
    other, stranger = rsa_key(), rsa_key()
    for members in ({}, {"kid": "same"}):
        keys = [jwk(each, **members) for each in (other, EC, RSA)]
        verifier = TokenVerifier.public(jwks_file(tmp_path, *keys), audience=AUDIENCE)
        for key, algorithm in ((RSA, "RS256"), (EC, "ES256"), (other, "RS256")):
            assert verifier.user(signed(key, algorithm, "same")) == "ada"
        refusal(verifier, signed(stranger, "RS256", "same"))
        refusal(verifier, signed(RSA, "RS512", "same"))
        assert "expired" in refusal(verifier, signed(RSA, "RS256", "same", exp=1))


SUBJECTS = {
    "ada": "ada",
    "f81d4fae-7dec-11d0-a765-00a0c91e6bf6": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    "A_b.c-9": "A_b.c-9",
    "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ" * 2: "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ"
    * 2,
    "auth0|5f7c8ec7c33c6c004bbafe82": "auth0%7C5f7c8ec7c33c6c004bbafe82",
    "ada@example.com": "ada%40example.com",
    "system:serviceaccount:default:bot": "system%3Aserviceaccount%3Adefault%3Abot",
    "spiffe://example.org/ns/a": "spiffe%3A%2F%2Fexample.org%2Fns%2Fa",
    "CN=Ada Lovelace,O=x": "CN%3DAda%20Lovelace%2CO%3Dx",
    "ada%7Cbob": "ada%257Cbob",
    "@me": "%40me",
    "~ada": "%7Eada",
    "zoë": "zo%C3%AB",
    "ada\n\0": "ada%0A%00",
    "ada/sessions/x": "ada%2Fsessions%2Fx",
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_any_subject_is_served_under_an_id(shared: TokenVerifier, subject: str) -> None:
    user = shared.user(token(subject))
    assert user == SUBJECTS[subject]
    assert subject_of(user) == subject


@given(st.text(min_size=1, max_size=64).filter(lambda text: len(text.encode()) <= 256))
def test_an_id_says_its_subject_whole(subject: str) -> None:
    user = user_id_of(subject)
    assert subject_of(user) == subject
    assert re.fullmatch(r"[A-Za-z0-9_.%-]{1,768}", user)


@pytest.mark.parametrize(
    "user", ["", "@me", "a b", "a|b", "%7c", "%", "%4", "%41", "a%2Ea", "%FF", "%C3", "a" * 257]
)
def test_no_subject_has_two_ids(user: str) -> None:
    assert not is_user_id(user)
    with pytest.raises(ValueError, match=r"the id of a user must|a subject must|codec"):
        subject_of(user)


@pytest.mark.parametrize("name", ["email", "preferred_username", "oid", "https://example.org/user"])
def test_another_claim_may_name_the_user(tmp_path: Path, name: str) -> None:
    verifier = TokenVerifier.shared(shared_key_file(tmp_path), audience=AUDIENCE, user_claim=name)
    assert verifier.user(token("x", **{name: "ada@example.com"})) == "ada%40example.com"
    assert verifier.user(token(sub=None, **{name: "ada"})) == "ada"
    assert "not valid" in refusal(verifier, token("ada"))
    for value in (7, True, "", ["ada"], {"name": "ada"}):
        assert f"claim '{name}'" in refusal(verifier, token("ada", **{name: value}), dots=None)


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
