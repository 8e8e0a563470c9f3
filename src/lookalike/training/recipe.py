"""What a recipe is, apart from the recipes: frozen data, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a network in words: what it does, its output's shape, how many weights it has.

    ``is_embedding`` marks the one whose output is the embedding.
    """

    name: str
    output: str
    weights: int
    is_embedding: bool = False

    @property
    def title(self) -> str:
        """The name, and whether its output is the embedding."""
        return f"{self.name} (embedding)" if self.is_embedding else self.name


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an encoder is trained.

    Args:
        name: what ``--recipe`` takes.
        summary: one line for people.
        network: a key of :data:`lookalike.training.tasks.NETWORKS`, or "tower".
        layers: of the network; none where they depend on the size of the images.
        objective: "reconstruction" or "contrastive".
        augment: the augmentation preset unless another is chosen; None for not at all.
        batch: images a step.
        learning_rate: Adam's; the highest one of the cycle if there is one.
        weight_decay: AdamW's; 0 for Adam.
        one_cycle: whether the learning rate rises and falls, or is constant.
        epochs: passes over the images unless ``--epochs`` says otherwise.
        least_steps: so many steps at least, by more epochs; for small collections.
        whole_batches: leave out the images that do not fill a last batch.
        size: images are brought to this many pixels a side, gray; None for any size and color.
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
    least_steps: int = 1
    whole_batches: bool = False
    size: int | None = 28
