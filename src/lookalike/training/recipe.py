"""The fields of a training recipe, as frozen data; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

LOSSES = {"reconstruction": "mean squared error per pixel", "contrastive": "NT-Xent loss"}
"""The name of the loss that each objective minimizes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a network, for tables: its description, output shape and number of parameters.

    ``is_embedding`` marks the layer whose output is the embedding.
    """

    name: str
    output: str
    parameters: int
    is_embedding: bool = False

    @property
    def title(self) -> str:
        """The name, marked if the output is the embedding."""
        return f"{self.name} (embedding)" if self.is_embedding else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Network, objective, augmentation and schedule of a training run.

    Args:
        name: of the recipe.
        summary: one line of help.
        network: a key of :data:`lookalike.training.tasks.NETWORKS`, or "tower".
        layers: of the network; empty if they depend on the image size.
        objective: a key of :data:`LOSSES`.
        augment: the default augmentation preset; None for no augmentation.
        batch: images per step.
        learning_rate: of Adam; with ``one_cycle`` its maximum.
        weight_decay: of AdamW; 0 for Adam.
        one_cycle: one-cycle learning rate schedule instead of a constant rate.
        epochs: default number of epochs.
        min_steps: minimum number of steps; small collections train for more epochs.
        drop_last: skip the last batch of an epoch if it is incomplete.
        size: side in pixels of the gray images that the network takes; None for any size and color.
    """

    name: str
    summary: str
    network: str
    layers: tuple[Layer, ...] = ()
    objective: str = "reconstruction"
    augment: str | None = None
    batch: int = 20
    learning_rate: float = 0.01
    weight_decay: float = 0
    one_cycle: bool = False
    epochs: int = 1
    min_steps: int = 1
    drop_last: bool = False
    size: int | None = 28
