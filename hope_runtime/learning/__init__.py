"""How levels learn: the Learner, its recipes, and what they train on."""

from hope_runtime.learning.learner import Consolidation, Learner

__all__ = ["Consolidation", "Learner"]
