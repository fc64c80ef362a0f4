"""Credentials that tests give to servers and callers, made anew for every test."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

AUDIENCE = "hope-server"
SHARED_KEY = b"0123456789abcdef0123456789abcdef-tests"


def claims(user: str = "ada", **changes: Any) -> dict[str, Any]:
    """What a good token says, with `changes`; None leaves a claim out."""
    now = int(time.time())
    # Some tokens are made when tests are collected, and the suite takes its time.
    all_claims = {"sub": user, "aud": AUDIENCE, "exp": now + 6 * 3600, "iat": now} | changes
    return {name: value for name, value in all_claims.items() if value is not None}


def token(
    user: str = "ada", key: Any = SHARED_KEY, algorithm: str = "HS256", **changes: Any
) -> str:
    """A signed token; keyword arguments change its claims."""
    return jwt.encode(claims(user, **changes), key, algorithm=algorithm)


def bearer(value: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {value}"),)


def shared_key_file(directory: Path) -> Path:
    path = directory / "token.key"
    path.write_bytes(SHARED_KEY + b"\n")
    return path


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def jwk(private: Any, **members: str) -> dict[str, Any]:
    """The public half as an entry of a JWKS file."""
    name = "RSAAlgorithm" if isinstance(private, rsa.RSAPrivateKey) else "ECAlgorithm"
    algorithm = getattr(jwt.algorithms, name)
    return json.loads(algorithm.to_jwk(private.public_key())) | members  # type: ignore[no-any-return]


def public_pem(private: Any) -> bytes:
    """The public half as text, which attackers know."""
    return private.public_key().public_bytes(  # type: ignore[no-any-return]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwks_file(directory: Path, *entries: dict[str, Any]) -> Path:
    path = directory / "jwks.json"
    path.write_text(json.dumps({"keys": entries}), encoding="utf-8")
    return path


@dataclass
class Authority:
    """A certificate authority with a certificate for 127.0.0.1."""

    directory: Path

    def __post_init__(self) -> None:
        self.ca = trustme.CA()
        self.root = self.ca.cert_pem.bytes()
        self.ca_file = self.directory / "ca.pem"
        self.ca_file.write_bytes(self.root)
        server = self.ca.issue_cert("127.0.0.1", "localhost")
        self.cert_file, self.key_file = self.write("server", server)

    def client(self, user: str) -> trustme.LeafCert:
        return self.ca.issue_cert(f"{user}@example.org", common_name=user)

    def write(self, name: str, leaf: trustme.LeafCert) -> tuple[Path, Path]:
        chain, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        chain.write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return chain, key

    @property
    def settings(self) -> dict[str, Path]:
        """TLS as settings of a server."""
        return {"tls_cert_file": self.cert_file, "tls_key_file": self.key_file}
