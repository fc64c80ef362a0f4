"""Learning of levels: the Learner, its recipes, and their training data."""

from hope_runtime.learning.consolidation import Consolidation
from hope_runtime.learning.learner import Learner

__all__ = ["Consolidation", "Learner"]
