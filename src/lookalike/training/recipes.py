"""All recipes by name, and the two general ones; does not import torch.

Those that reproduce the report of 2020 are in :mod:`.report_recipes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lookalike.errors import UnknownNameError
from lookalike.training.recipe import Recipe
from lookalike.training.report_recipes import REPORT_RECIPES

__all__ = ["RECIPES", "Recipe", "find_recipe"]

_CONTRASTIVE = Recipe(
    name="contrastive",
    summary="contrastive network plus fine HOG; 256 dimensions",
    network="tower",
    objective="contrastive",
    augment="objects",
    batch=512,
    learning_rate=3e-3,
    weight_decay=1e-4,
    one_cycle=True,
    epochs=3,
    min_steps=350,
    drop_last=True,
    size=None,
)
_DENOISING = replace(
    _CONTRASTIVE,
    name="denoising",
    summary="denoising autoencoder; 128 dimensions",
    objective="reconstruction",
    batch=256,
    epochs=5,
)

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe for recipe in (_CONTRASTIVE, _DENOISING, *REPORT_RECIPES)
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        UnknownNameError: no such recipe; the message suggests the nearest name.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    return RECIPES[name]
