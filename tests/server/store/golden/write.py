"""Write the golden file of the present format: python write.py

Run once when the format changes, by the program as it is released; a golden file
is never written again.
"""

import asyncio
import gzip
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


async def main() -> None:
    from test_sqlite_file import fill_golden

    from server.store.sqlite import SQLiteStore

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store.db"
        async with SQLiteStore(path, clock=lambda: 1_700_000_000.0) as store:
            await fill_golden(store)
            version = store.schema_version
        golden = HERE / f"store_v{version}.db.gz"
        if golden.exists():
            sys.exit(f"{golden.name} is there already")
        golden.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


asyncio.run(main())
