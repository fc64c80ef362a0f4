"""A folder of texts, read into a session one after the other.

    python examples/ingest_folder.py FOLDER [SESSION]

Run again, it goes on where it stopped: the server knows how far each document was read.
"""

import os
import sys
from pathlib import Path

from hope_client import SyncHopeClient

KINDS = {".txt", ".md"}


def main(folder: str, session: str = "library") -> None:
    """Reads what the session has not read yet."""
    with SyncHopeClient(os.environ.get("HOPE_SERVER", "127.0.0.1:50051")) as client:
        client.sessions.get_or_create(session)
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix not in KINDS:
                continue
            name = path.relative_to(folder).as_posix()
            known = client.sessions.document(session, name)
            if known and known.ended:
                print(f"{name}: read before")
                continue
            read = client.ingest(
                session, path, document=name, resume_at_bytes=known.committed_bytes if known else 0
            )
            print(f"{name}: {read.tokens} tokens, memory version {read.memory_version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
