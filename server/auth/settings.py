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
        description="Address to listen on; other than loopback it requires TLS and authentication.",
    )
    port: int = Field(50051, ge=0, le=65535, description="Port to listen on; 0 picks a free port.")
    tls_cert_file: Path | None = Field(None, description="Certificate chain of the server (PEM).")
    tls_key_file: Path | None = Field(
        None, description="Private key of the server certificate (PEM)."
    )
    tls_client_ca_file: Path | None = Field(
        None,
        description=(
            "Require client certificates issued by this authority (PEM). Without tokens, the "
            "certificate's common name is the user."
        ),
    )
    token_key_file: Path | None = Field(
        None, description="File with the shared key that verifies bearer tokens (JWT, HS256)."
    )
    token_jwks_file: Path | None = Field(
        None,
        description="JWKS file with the public keys that verify bearer tokens (RS256 or ES256).",
    )
    token_audience: str = Field(
        "hope-server", min_length=1, description="Required `aud` claim of bearer tokens."
    )
    token_issuer: str | None = Field(
        None, description="Required `iss` claim of bearer tokens, if set."
    )
    token_user_claim: str = Field(
        "sub",
        min_length=1,
        description=(
            "Claim of bearer tokens that names the user; the issuer must give no two users the "
            "same value, nor let users choose it."
        ),
    )
    api_key_file: Path | None = Field(
        None,
        description="Bearers of these API keys come in too. A line for each: SHA-256, user.",
    )
    http_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the OpenAI-compatible HTTP gateway (the extra http); 0 picks a free "
        "one, unset: none.",
    )
    http_hosts: str = Field(
        "",
        description="Names, apart by commas, that HTTP clients call the server by, beside loopback "
        "and its address. Only needed without authentication.",
    )
    http_cors_origins: str = Field(
        "",
        description="Origins, apart by commas, whose web pages may use the HTTP gateway, such as "
        "https://chat.example.org.",
    )
    admin_host: str = Field("127.0.0.1", description="Address of the admin service.")
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the admin service; must differ from the users' port.",
    )
    admin_token_file: Path | None = Field(
        None,
        description="File with the only bearer token that the admin service accepts.",
    )

    @model_validator(mode="after")
    def _says_all_or_nothing(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file must be set together")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise ValueError("tls_client_ca_file requires tls_cert_file and tls_key_file")
        if self.token_key_file and self.token_jwks_file:
            raise ValueError(
                "token_key_file and token_jwks_file are mutually exclusive; set one of them"
            )
        if self.token_issuer and not self.checks_tokens:
            raise ValueError("token_issuer requires token_key_file or token_jwks_file")
        if self.token_user_claim != "sub" and not self.checks_tokens:
            raise ValueError("token_user_claim requires token_key_file or token_jwks_file")
        if (self.admin_port is None) != (self.admin_token_file is None):
            raise ValueError("admin_port and admin_token_file must be set together")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("admin_port must differ from port")
        if self.http_port and self.http_port in (self.port, self.admin_port):
            raise ValueError("http_port must be another port than port and admin_port")
        if self.http_port is not None and self.tls_client_ca_file and not self.takes_bearers:
            raise ValueError(
                "http_port needs api_key_file, token_key_file or token_jwks_file beside "
                "tls_client_ca_file: certificates of clients name users over gRPC only"
            )
        return self

    @model_validator(mode="after")
    def _strangers_only_with_credentials(self) -> Self:
        missing = []
        if not self.tls_cert_file:
            missing.append("TLS (tls_cert_file and tls_key_file)")
        if not self.authenticates:
            missing.append(
                "authentication (api_key_file, token_key_file, token_jwks_file or "
                "tls_client_ca_file)"
            )
        if missing and not _is_loopback(self.host):
            raise ValueError(
                f"host must be a loopback address without {' and without '.join(missing)}"
            )
        if not self.tls_cert_file and not _is_loopback(self.admin_host):
            raise ValueError("admin_host must be a loopback address unless TLS is configured")
        return self

    @property
    def checks_tokens(self) -> bool:
        return bool(self.token_key_file or self.token_jwks_file)

    @property
    def takes_bearers(self) -> bool:
        """Whether a bearer's token or API key names the user."""
        return self.checks_tokens or bool(self.api_key_file)

    @property
    def authenticates(self) -> bool:
        """Whether callers need credentials."""
        return self.takes_bearers or bool(self.tls_client_ca_file)

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
