"""Settings to what gRPC needs: the server's credentials, and who says whom a call comes from.

Reads every file once, at start, and refuses what could not work with the file's name.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.auth.settings import AccessSettings
from server.auth.tokens import MIN_SHARED_KEY_BYTES, KeyFileError, TokenVerifier, read_key_file
from server.grpc_api.interceptors.identity import (
    Authenticator,
    anybody,
    by_certificate,
    by_operator_token,
    by_token,
)


def user_authenticator(settings: AccessSettings) -> Authenticator:
    """Identity of users: the token's subject where tokens are asked for, else the certificate's
    name, else whom they say. Raises KeyFileError."""
    audience, issuer = settings.token_audience, settings.token_issuer
    if settings.token_key_file:
        shared = TokenVerifier.shared(settings.token_key_file, audience=audience, issuer=issuer)
        return by_token(shared)
    if settings.token_jwks_file:
        public = TokenVerifier.public(settings.token_jwks_file, audience=audience, issuer=issuer)
        return by_token(public)
    return by_certificate if settings.tls_client_ca_file else anybody


def operator_authenticator(path: Path) -> Authenticator:
    """Identity of operators: holders of the token in this file. Raises KeyFileError."""
    token = read_key_file(path).strip()
    if len(token) < MIN_SHARED_KEY_BYTES:
        raise KeyFileError(
            f"{path} has {len(token)} bytes; an operator token needs at least "
            f"{MIN_SHARED_KEY_BYTES}"
        )
    return by_operator_token(token)


def server_credentials(settings: AccessSettings) -> grpc.ServerCredentials | None:
    """The server's certificate, and whose clients it asks for one; None without TLS.
    Raises KeyFileError."""
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
