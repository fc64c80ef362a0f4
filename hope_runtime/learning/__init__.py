"""Learning of levels: the Learner, its recipes, and their training data."""

from hope_runtime.learning.learner import Consolidation, Learner

__all__ = ["Consolidation", "Learner"]
