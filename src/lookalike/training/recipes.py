"""Recipes by name: network, objective and schedule, as frozen data. torch is not loaded here.

The general recipes are here, those that reproduce the report in :mod:`.report_recipes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lookalike.errors import UnknownNameError
from lookalike.training.recipe import Recipe
from lookalike.training.report_recipes import REPORT_RECIPES

__all__ = ["RECIPES", "Recipe", "find_recipe"]

_CONTRASTIVE = Recipe(
    "contrastive",
    "views and neighbors brought together; with fine HOG, 256 dimensions",
    "tower",
    objective="contrastive",
    augment="objects",
    batch=512,
    learning_rate=3e-3,
    weight_decay=1e-4,
    one_cycle=True,
    epochs=3,
    least_steps=350,
    whole_batches=True,
    size=None,
)
_DENOISING = replace(
    _CONTRASTIVE,
    name="denoising",
    summary="an autoencoder shown a distorted view and asked for the clean image, code 128",
    objective="reconstruction",
    batch=256,
    epochs=5,
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (_CONTRASTIVE, _DENOISING, *REPORT_RECIPES)
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UnknownNameError: there is none; the nearest is offered.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
