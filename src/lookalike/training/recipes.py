"""All recipes by name: the two general ones, the report's and those of other packages.

Those that reproduce the report of 2020 are in :mod:`.report_recipes`. Only recipes of other
packages may import torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace

from lookalike.errors import SettingError, UnknownNameError
from lookalike.training.recipe import TOWER, Recipe
from lookalike.training.report_recipes import REPORT_RECIPES

__all__ = ["DEFAULT", "RECIPES", "Recipe", "find_recipe", "load_recipes"]

_ENTRY_POINT_GROUP = "lookalike.recipes"

DEFAULT = "contrastive"
"""The default recipe."""

_CONTRASTIVE = Recipe(
    name=DEFAULT,
    summary="contrastive network plus fine HOG; 256 dimensions",
    network=TOWER,
    loss="contrastive",
    augment="objects",
    batch=512,
    learning_rate=3e-3,
    weight_decay=1e-4,
    one_cycle=True,
    epochs=3,
    min_steps=350,
    drop_last=True,
)
_DENOISING = replace(
    _CONTRASTIVE,
    name="denoising",
    summary="denoising autoencoder; 128 dimensions",
    loss="reconstruction",
    batch=256,
    epochs=5,
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (_CONTRASTIVE, _DENOISING, *REPORT_RECIPES)
}
"""The built-in recipes, by name."""


def load_recipes() -> Mapping[str, Recipe]:
    """Return every registered recipe by name, those of other packages included.

    Raises:
        SettingError: two recipes share a name, or an entry point is none.
    """
    recipes = dict(RECIPES)
    for entry_point in importlib.metadata.entry_points(group=_ENTRY_POINT_GROUP):
        recipe = entry_point.load()
        if not isinstance(recipe, Recipe):
            raise SettingError(
                f"the entry point {entry_point.name!r} in {_ENTRY_POINT_GROUP} must be a "
                f"lookalike.Recipe; {entry_point.value} is of type {type(recipe).__name__}"
            )
        if recipe.name in recipes:
            raise SettingError(
                f"two recipes are called {recipe.name!r}; uninstall one of the packages that "
                f"register entry points in {_ENTRY_POINT_GROUP}"
            )
        recipes[recipe.name] = recipe
    return recipes


def find_recipe(recipe: str | Recipe) -> Recipe:
    """Return a recipe by name; a recipe is returned as it is.

    Raises:
        UnknownNameError: no such recipe; the message suggests the nearest name.
        SettingError: it is neither, or has the name of a built-in recipe but is another one.
    """
    if isinstance(recipe, Recipe):
        if RECIPES.get(recipe.name, recipe) != recipe:
            raise SettingError(
                f"recipe {recipe.name!r}: {{name}} is that of a built-in recipe; choose another",
                name=recipe.name,
            )
        return recipe
    if not isinstance(recipe, str):
        raise SettingError("{recipe} must be a name or a lookalike.Recipe", recipe=recipe)
    if recipe in RECIPES:
        return RECIPES[recipe]
    recipes = load_recipes()
    if recipe not in recipes:
        raise UnknownNameError("recipe", recipe, recipes)
    return recipes[recipe]
