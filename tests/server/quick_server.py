"""A server whose sessions learn often, so that tests need little text:

python quick_server.py [arguments of `hope serve`]
"""

from __future__ import annotations

import sys

from hope_runtime.session.policy import POLICIES, LearningPolicy, LevelConfig
from server.main import main

QUICK = LearningPolicy(
    name="quick",
    levels=(
        LevelConfig(period_tokens=32, rank=4, learning_rate=1e-2),
        LevelConfig(period_tokens=64, rank=2, learning_rate=1e-2),
        LevelConfig(period_tokens=128, rank=1, learning_rate=1e-2),
    ),
    recipe="summed_gradient",
)

if __name__ == "__main__":
    POLICIES[QUICK.name] = QUICK
    sys.exit(main())
