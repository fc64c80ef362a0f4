"""The table of recipes by the names that policies give them.

A recipe that is not here ("none", and "streamed" of native models) trains nothing at a boundary.
"""

from collections.abc import Callable, Mapping

from hope_runtime.learning.recipe import Recipe, Resources
from hope_runtime.learning.recipes.replay.recipe import ReplayRecipe
from hope_runtime.learning.recipes.specific import SpecificRecipe
from hope_runtime.learning.recipes.summed_gradient import SummedGradientRecipe

RECIPES: Mapping[str, Callable[[Resources], Recipe]] = {
    "replay": ReplayRecipe,
    "specific_replay": SpecificRecipe,
    "summed_gradient": SummedGradientRecipe,
}
