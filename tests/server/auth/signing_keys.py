"""Keys that sign the tokens of tests."""

from __future__ import annotations

from credentials import (
    ec_key,
    rsa_key,
)

RSA, EC = rsa_key(), ec_key()
