"""Runnable comparisons: the demonstration and the published figures."""

import sys
from pathlib import Path

# The store's real servers are those of the tests, whose modules are no package.
sys.path.append(str(Path(__file__).parent.parent / "tests"))
