"""The recipe `specific_replay`: what is learnt stays where it belongs, and can be corrected."""

from hope_runtime.learning.recipes.specific.recipe import SpecificRecipe

__all__ = ["SpecificRecipe"]
