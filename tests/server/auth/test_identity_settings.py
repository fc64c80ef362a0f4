"""Settings of identity that contradict each other or cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from credentials import (
    Authority,
)

from server.auth.access import server_credentials
from server.crypto.files import KeyFileError
from server.main import main
from server.settings import Settings

FILES = {
    "cert": ("--tls-cert-file", "cert.pem"),
    "key": ("--tls-key-file", "key.pem"),
    "ca": ("--tls-client-ca-file", "ca.pem"),
    "shared": ("--token-key-file", "token.key"),
    "jwks": ("--token-jwks-file", "jwks.json"),
}


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        ("", ["--host", "0.0.0.0"], "without TLS"),
        ("cert key", ["--host", "0.0.0.0"], "without authentication"),
        ("shared", ["--host", "192.168.1.1"], "without TLS"),
        ("jwks", ["--host", "::"], "without TLS"),
        ("cert", [], "together"),
        ("key", [], "together"),
        ("ca", [], "tls_client_ca_file requires"),
        ("shared jwks", [], "mutually exclusive"),
        ("", ["--token-issuer", "us"], "token_issuer requires"),
        ("", ["--token-user-claim", "email"], "token_user_claim requires"),
        ("", ["--admin-port", "1"], "together"),
        ("", ["--admin-token-file", "x"], "together"),
        (
            "",
            ["--port", "7", "--admin-port", "7", "--admin-token-file", "x"],
            "must differ from port",
        ),
        ("", ["--admin-host", "0.0.0.0"], "admin_host"),
    ],
)
def test_what_is_said_by_half_is_refused(
    given: str, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part for name in given.split() for part in FILES[name]]
    assert main([*arguments, *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    other_chain, other_key = authority.write("other", authority.ca.issue_cert("localhost"))
    text = tmp_path / "text"
    text.write_text("no PEM")

    def refusal(**files: Path) -> str:
        with pytest.raises(KeyFileError) as caught:
            server_credentials(Settings(**authority.settings | files))
        return str(caught.value)

    assert server_credentials(Settings(**authority.settings)) is not None
    assert server_credentials(Settings()) is None
    assert "does not belong to" in refusal(tls_key_file=other_key)
    assert "does not belong to" in refusal(tls_cert_file=other_chain)
    assert str(text) in refusal(tls_cert_file=text)
    assert str(text) in refusal(tls_key_file=text)
    assert str(text) in refusal(tls_client_ca_file=text)
    assert "cannot read" in refusal(tls_key_file=tmp_path / "absent")
