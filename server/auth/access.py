"""Authenticators made from settings, and the server's own certificate.

An authenticator knows credentials and no transport: whoever serves calls takes `Credentials` out of
them. Every file is read once, at start; one that cannot work is refused by its name.
"""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.auth.api_keys import read_api_keys, user_of
from server.auth.caller import ANYBODY, Caller
from server.auth.settings import AccessSettings
from server.auth.tokens import MIN_SHARED_KEY_BYTES, TokenVerifier, UnauthenticatedError
from server.auth.users import user_id_of
from server.crypto.files import KeyFileError, read_key_file

_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials of a call: the values of its `authorization` header, and the common names in the
    client's certificate, which TLS has verified."""

    authorization: tuple[str | bytes, ...] = ()
    certificate_names: tuple[bytes, ...] = ()


class Authenticator(Protocol):
    """Names the caller of a call. Raises UnauthenticatedError."""

    def __call__(self, credentials: Credentials) -> Caller: ...


def anybody(credentials: Credentials) -> Caller:
    """Accept every call, without authentication: on loopback, names in requests are trusted."""
    return ANYBODY


def by_token(verifier: TokenVerifier) -> Authenticator:
    """Take whom the bearer token names for the user."""

    def authenticate(credentials: Credentials) -> Caller:
        return Caller(verifier.user(_bearer_token(credentials)))

    return authenticate


def by_api_key(users: Mapping[str, str], otherwise: Authenticator | None) -> Authenticator:
    """Take the user of the bearer's API key. What is no such key is left to `otherwise`."""

    def authenticate(credentials: Credentials) -> Caller:
        if credentials.authorization or otherwise is None:
            user = user_of(users, _bearer_token(credentials))
            if user is not None:
                return Caller(user)
        if otherwise is None:
            raise UnauthenticatedError("the API key is not valid on this server")
        return otherwise(credentials)

    return authenticate


def by_certificate(credentials: Credentials) -> Caller:
    """Take the common name in the client's certificate, which TLS has verified, for the user."""
    try:
        (name,) = credentials.certificate_names
        return Caller(user_id_of(name.decode()))
    except ValueError:
        raise UnauthenticatedError(
            "the common name of the client certificate must name one user; use another certificate"
        ) from None


def by_operator_token(expected: bytes) -> Authenticator:
    """Accept calls with this token as an operator's, who may use every user's names."""

    def authenticate(credentials: Credentials) -> Caller:
        if not hmac.compare_digest(_bearer_token(credentials).encode(), expected):
            raise UnauthenticatedError("the bearer token is not the operator token of this server")
        return ANYBODY

    return authenticate


def _bearer_token(credentials: Credentials) -> str:
    found = credentials.authorization
    if len(found) != 1 or not isinstance(found[0], str):
        raise UnauthenticatedError(
            "a bearer token is required; send the metadata 'authorization: Bearer TOKEN'"
        )
    if not found[0][: len(_SCHEME)].lower() == _SCHEME:
        raise UnauthenticatedError("the metadata 'authorization' must have the form 'Bearer TOKEN'")
    return found[0][len(_SCHEME) :].strip()


def user_authenticator(settings: AccessSettings) -> Authenticator:
    """Authenticator of users: by API key or token where the settings name keys, else by
    certificate, else anybody. Raises KeyFileError."""
    others = _token_or_certificate(settings)
    if settings.api_key_file:
        users = read_api_keys(settings.api_key_file)
        return by_api_key(users, None if others is anybody else others)
    return others


def _token_or_certificate(settings: AccessSettings) -> Authenticator:
    for path, verifier in (
        (settings.token_key_file, TokenVerifier.shared),
        (settings.token_jwks_file, TokenVerifier.public),
    ):
        if path:
            return by_token(
                verifier(
                    path,
                    audience=settings.token_audience,
                    issuer=settings.token_issuer,
                    user_claim=settings.token_user_claim,
                )
            )
    return by_certificate if settings.tls_client_ca_file else anybody


def operator_authenticator(path: Path) -> Authenticator:
    """Authenticator of operators: by the token in a file. Raises KeyFileError."""
    token = read_key_file(path).strip()
    if len(token) < MIN_SHARED_KEY_BYTES:
        raise KeyFileError(
            f"{path} has {len(token)} bytes; an operator token needs at least "
            f"{MIN_SHARED_KEY_BYTES}"
        )
    return by_operator_token(token)


def server_credentials(settings: AccessSettings) -> grpc.ServerCredentials | None:
    """The server's certificate, and the authority of its clients' certificates if it asks for
    them; None without TLS. Raises KeyFileError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    chain, key = read_key_file(settings.tls_cert_file), read_key_file(settings.tls_key_file)
    leaf = _certificates(chain, settings.tls_cert_file)[0]
    try:
        public = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError):
        raise KeyFileError(
            f"{settings.tls_key_file} does not contain a private key in PEM format"
        ) from None
    if public != leaf.public_key():
        raise KeyFileError(
            f"the private key in {settings.tls_key_file} does not belong to the certificate in "
            f"{settings.tls_cert_file}"
        )
    if leaf.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise KeyFileError(f"the certificate in {settings.tls_cert_file} has expired")
    authority = None
    if settings.tls_client_ca_file is not None:
        authority = read_key_file(settings.tls_client_ca_file)
        _certificates(authority, settings.tls_client_ca_file)
    return grpc.ssl_server_credentials(
        [(key, chain)], root_certificates=authority, require_client_auth=authority is not None
    )


def _certificates(data: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise KeyFileError(f"{path} does not contain a certificate in PEM format") from None
