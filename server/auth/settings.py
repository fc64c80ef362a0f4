"""Settings of the server's addresses and of access to it.

Incomplete settings are refused: a certificate without its key, two kinds of tokens, an address that
others reach without TLS and authentication.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings


class AccessSettings(BaseSettings):
    """Settings of addresses, certificates and tokens."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; other than loopback only with TLS and authentication.",
    )
    port: int = Field(50051, ge=0, le=65535, description="Port; 0 picks a free one.")
    tls_cert_file: Path | None = Field(None, description="Certificate chain (PEM) of the server.")
    tls_key_file: Path | None = Field(None, description="Its private key (PEM).")
    tls_client_ca_file: Path | None = Field(
        None,
        description="Clients need a certificate of this authority (PEM); without tokens its "
        "common name is the user.",
    )
    token_key_file: Path | None = Field(
        None, description="Bearer tokens (JWT) are checked by HS256 with this file's bytes."
    )
    token_jwks_file: Path | None = Field(
        None, description="Bearer tokens are checked by RS256 or ES256 with these public keys."
    )
    token_audience: str = Field(
        "hope-server", min_length=1, description="`aud` that a token must have."
    )
    token_issuer: str | None = Field(None, description="`iss` that a token must have, if given.")
    admin_host: str = Field("127.0.0.1", description="Address of the admin service.")
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the admin service, apart from users'."
    )
    admin_token_file: Path | None = Field(
        None, description="The admin service takes the bearer token in this file, and no other."
    )

    @model_validator(mode="after")
    def _says_all_or_nothing(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file must be given together")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file")
        if self.token_key_file and self.token_jwks_file:
            raise ValueError("token_key_file and token_jwks_file exclude each other")
        if self.token_issuer and not self.checks_tokens:
            raise ValueError("token_issuer needs token_key_file or token_jwks_file")
        if (self.admin_port is None) != (self.admin_token_file is None):
            raise ValueError("admin_port and admin_token_file must be given together")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("admin_port must be another port than port")
        return self

    @model_validator(mode="after")
    def _strangers_only_with_credentials(self) -> Self:
        missing = []
        if not self.tls_cert_file:
            missing.append("TLS (tls_cert_file and tls_key_file)")
        if not self.authenticates:
            missing.append("authentication (token_key_file, token_jwks_file or tls_client_ca_file)")
        if missing and not _is_loopback(self.host):
            raise ValueError(
                f"host must be a loopback address without {' and without '.join(missing)}"
            )
        if not self.tls_cert_file and not _is_loopback(self.admin_host):
            raise ValueError("admin_host must be a loopback address without TLS")
        return self

    @property
    def checks_tokens(self) -> bool:
        return bool(self.token_key_file or self.token_jwks_file)

    @property
    def authenticates(self) -> bool:
        """Whether callers need credentials."""
        return self.checks_tokens or bool(self.tls_client_ca_file)

    @property
    def address(self) -> str:
        return _address(self.host, self.port)

    @property
    def admin_address(self) -> str:
        return _address(self.admin_host, self.admin_port or 0)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
