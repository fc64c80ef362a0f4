"""Documents that tests of `hope ingest` read, and its command line."""

from __future__ import annotations

ADA, REX, IDA = b"My cat is called Ada.\n", b"My dog is called Rex.\n", b"My cat is called Ida.\n"


def words(*files: object, **options: object) -> list[str]:
    return ["ingest", *map(str, files), "--session", "diary", *map(str, options.get("more", ()))]
