"""Tasks that measure what memories learn; `hope evaluate TASK` on the command line."""

from hope_lab.evaluate.cli import main

__all__ = ["main"]
