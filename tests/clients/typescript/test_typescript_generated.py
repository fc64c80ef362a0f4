"""The generated part of the TypeScript client follows from the protos."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typescript_build

GENERATED = Path("src/generated")


def test_what_is_generated_is_fresh(tmp_path: Path) -> None:
    package = typescript_build.installed()
    buf = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["npm", "run", "generate", "--", "--output", str(tmp_path)],
        cwd=package,
        env=os.environ | {"PATH": buf},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*.ts")}
    kept = {path.relative_to(package): path for path in (package / GENERATED).rglob("*.ts")}
    assert made.keys() == kept.keys()
    assert GENERATED / "hope/v1/sessions.ts" in made
    for name, path in made.items():
        assert path.read_bytes() == kept[name].read_bytes(), f"{name} is stale: run `make protos`"
