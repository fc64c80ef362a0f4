"""Credentials from the command line, in the form that the client takes.

Files are read here; a token's before every call, so that one that expires can be replaced.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import grpc

from hope_client.client import HopeClient
from hope_client.names import ME
from hope_client.transport import RetryPolicy, Token


class CredentialsError(Exception):
    """The options about credentials do not fit together."""


def connect(
    args: argparse.Namespace, *, timeout_seconds: float | None, retry: RetryPolicy | None = None
) -> HopeClient:
    """The client that the global options describe.

    Raises:
        OSError: a file cannot be read.
        CredentialsError: a token would leave this machine in clear text, or half of a pair is
            missing.
    """
    credentials, token = _credentials(args), _token(args)
    if token is not None:
        # The token names its user, by a claim and in a form that only the server knows.
        args.user = ME
    try:
        return HopeClient(
            args.server,
            user=args.user,
            timeout_seconds=timeout_seconds,
            credentials=credentials,
            token=token,
            retry=retry,
        )
    except ValueError:
        raise CredentialsError(
            "a token is only sent over TLS; give --tls or --ca-file as well"
        ) from None


def _credentials(args: argparse.Namespace) -> grpc.ChannelCredentials | None:
    if bool(args.cert_file) != bool(args.key_file):
        raise CredentialsError("--cert-file and --key-file must be given together")
    if not (args.tls or args.ca_file or args.cert_file):
        return None
    roots = args.ca_file.read_bytes() if args.ca_file else None
    if not args.cert_file:
        return grpc.ssl_channel_credentials(roots)
    return grpc.ssl_channel_credentials(
        roots, args.key_file.read_bytes(), args.cert_file.read_bytes()
    )


def _token(args: argparse.Namespace) -> Token | None:
    path: Path | None = args.token_file
    if path is None:
        # On a command line everybody on the machine could read it, so there is no option for it.
        return os.environ.get("HOPE_TOKEN") or None
    path.read_bytes()  # what is missing is said now
    return lambda: path.read_text(encoding="utf-8").strip()
