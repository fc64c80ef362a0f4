"""Writes the Python modules of protos/hope/v1 beside their sources.

    python protos/generate.py [DIRECTORY]

The result is checked in, so that installing needs no compiler; a test proves it fresh.
"""

import os
import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent


def generate(target: Path) -> None:
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("hope/v1/*.proto"))
    # protoc looks for its plugins on the path; they are installed beside this interpreter.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    well_known = Path(protoc.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, *sources]) != 0:
        raise SystemExit("protoc failed; its own message stands above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
