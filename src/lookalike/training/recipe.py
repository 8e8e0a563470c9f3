"""What a training recipe is, as frozen data; does not import torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from lookalike.errors import SettingError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from lookalike.training.custom import Batch

LOSSES = {"reconstruction": "mean squared error per pixel", "contrastive": "NT-Xent loss"}
"""What each built-in loss is called in reports."""

TOWER = "tower"
REPORT_NETWORKS = ("linear", "conv", "conv-bn")
"""Built-in networks: one for any size and color, and those of the report."""

MAX_WIDTH = 4096
"""Maximum code size, and width of a layer."""

MAX_HIDDEN = 8
"""Maximum number of hidden layers of the linear autoencoder."""

NetworkFactory = Callable[[int, int, int], "nn.Module"]
"""Makes a network for images of so many channels, rows and columns."""

Loss = Callable[["nn.Module", "Batch"], "Tensor"]
"""Returns the loss of a network for a batch, a scalar."""

Augment = Callable[["Tensor", "Generator"], "Tensor"]
"""Returns a random view of each image ``(n, c, h, w)`` in [0, 1], of the same shape."""

EmbeddingFunction = Callable[["nn.Module", "Tensor"], "Tensor"]
"""Returns a network's embeddings ``(n, dim)`` of images ``(n, c, h, w)`` in [0, 1]."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    """Network, loss, augmentations and schedule of a training run.

    A custom recipe has functions as ``network`` and ``loss``. It is passed to
    :func:`lookalike.train`, or named by an entry point in the group ``lookalike.recipes``. Random
    numbers that its functions draw from torch depend only on seed and step, so that its runs resume
    exactly, too.

    Args:
        name: of the recipe and of its encoders: letters, digits, ``.``, ``_``, ``-``.
        network: ``network(channels, height, width)`` returns a ``torch.nn.Module`` for images
            ``(n, channels, height, width)`` float32 in [0, 1]; or the name of a built-in one.
        loss: ``loss(network, batch)`` returns a scalar tensor; ``batch`` is a
            :class:`~lookalike.training.custom.Batch`. Or "reconstruction", the mean squared error
            of a network with an ``encoder`` and a ``decoder``.
        embedding: ``embedding(network, images)`` returns ``(n, dim)``, what is exported; by
            default the network's output; with "reconstruction" always that of its ``encoder``.
        normalized: scale embeddings to unit length.
        augment: ``augment(images, generator)`` returns a random view of each image; or the name of
            a preset, which ``TrainingOptions.augment`` replaces. None for no augmentation.
        summary: one line of help.
        batch: images per step.
        learning_rate: of Adam; with ``one_cycle`` its maximum.
        weight_decay: of AdamW; 0 for Adam.
        one_cycle: one-cycle learning rate schedule instead of a constant rate.
        epochs: default number of epochs.
        min_steps: minimum number of steps; small collections train for more epochs.
        drop_last: skip the last batch of an epoch if it is incomplete.
        size: side in pixels of the gray images that the network takes; None for any size and color.
        widths: of the hidden layers, for the report's networks; None for others.
        code_size: dimensions of the embedding, for the report's networks; None leaves the code of
            a convolutional one as it is.

    Raises:
        SettingError: a field is out of range, or of another type.
    """

    name: str
    network: str | NetworkFactory
    loss: str | Loss
    embedding: EmbeddingFunction | None = None
    normalized: bool = False
    augment: str | Augment | None = None
    summary: str = ""
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0
    one_cycle: bool = False
    epochs: int = 1
    min_steps: int = 1
    drop_last: bool = False
    size: int | None = None
    widths: tuple[int, ...] | None = None
    code_size: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise SettingError(
                "{name} of a recipe must be up to 64 letters, digits, dots, dashes and underscores",
                name=self.name,
            )
        self._check_parts()
        for name, least in (("batch", 2), ("epochs", 1), ("min_steps", 1)):
            value = getattr(self, name)
            if not is_integer(value) or value < least:
                raise self._error(f"{{{name}}} must be an integer of at least {least}", name)
        if not is_number(self.learning_rate) or self.learning_rate <= 0:
            raise self._error("{learning_rate} must be a number above 0", "learning_rate")
        if not is_number(self.weight_decay) or self.weight_decay < 0:
            raise self._error("{weight_decay} must be a number of at least 0", "weight_decay")
        if self.size is not None and not (is_integer(self.size) and 1 <= self.size <= MAX_WIDTH):
            raise self._error("{size} must be a number of pixels", "size")
        if self.widths is not None:
            self._check_sizes()

    @property
    def is_custom(self) -> bool:
        """Whether its network is a function instead of a built-in one."""
        return not isinstance(self.network, str)

    @property
    def loss_name(self) -> str:
        """What its loss is called, in reports."""
        return LOSSES[self.loss] if isinstance(self.loss, str) else _title(self.loss)

    @property
    def augment_name(self) -> str | None:
        """The name of its augmentations, None without any."""
        if self.augment is None or isinstance(self.augment, str):
            return self.augment
        return str(getattr(self.augment, "name", None) or _title(self.augment))

    def resized(self, code_size: int | None, widths: Sequence[int] | None) -> Self:
        """Return the recipe with another code size and other widths; None keeps its own.

        Raises:
            SettingError: its network has no such sizes, or they are out of range.
        """
        if code_size is None and widths is None:
            return self
        if self.widths is None:
            raise SettingError(
                f"{'{widths}' if code_size is None else '{code_size}'} is not allowed: recipe "
                f"{self.name!r} has a network of fixed sizes; use a report-* or fast-* recipe",
                code_size=code_size,
                widths=widths,
            )
        if widths is not None and (
            isinstance(widths, str | bytes) or not isinstance(widths, Sequence)
        ):
            raise SettingError("{widths} must be a list of integers", widths=widths)
        return replace(
            self,
            code_size=self.code_size if code_size is None else code_size,
            widths=self.widths if widths is None else tuple(widths),
        )

    def _check_parts(self) -> None:
        if not callable(self.network) and self.network not in (TOWER, *REPORT_NETWORKS):
            raise self._error(
                "{network} must be a function of channels, height and width that returns a "
                f"torch module, or one of {', '.join((TOWER, *REPORT_NETWORKS))}",
                "network",
            )
        if not callable(self.loss) and self.loss not in LOSSES:
            raise self._error(
                "{loss} must be a function of network and batch that returns a scalar tensor, or "
                f"one of {', '.join(LOSSES)}",
                "loss",
            )
        if self.is_custom and self.loss == "contrastive":
            raise self._error("{loss} is not for other networks; give a function", "loss")
        if not self.is_custom and callable(self.loss):
            raise self._error("{network} is built in; a custom loss needs another one", "network")
        if isinstance(self.loss, str) and (self.embedding or self.normalized):
            name = "embedding" if self.embedding else "normalized"
            raise self._error(f"{{{name}}} needs a custom loss", name)
        if self.embedding is not None and not callable(self.embedding):
            raise self._error("{embedding} must be a function of network and images", "embedding")
        if not (self.augment is None or isinstance(self.augment, str) or callable(self.augment)):
            raise self._error(
                "{augment} must be a function of images and generator, or the name of a preset",
                "augment",
            )
        if (self.network in REPORT_NETWORKS) != (self.widths is not None):
            raise self._error("{widths} are for the report's networks", "widths")

    def _check_sizes(self) -> None:
        """Check the widths and the code size of one of the report's networks."""
        widths = self.widths or ()
        for width in widths:
            if not (is_integer(width) and 1 <= width <= MAX_WIDTH):
                raise self._error(f"{{widths}} must be from 1 to {MAX_WIDTH:,}", "widths")
        if self.network == "linear" and len(widths) > MAX_HIDDEN:
            raise self._error(f"{{widths}} must be at most {MAX_HIDDEN} layers", "widths")
        if self.network != "linear" and len(widths) not in (1, 2):
            raise self._error("{widths} must be 1 or 2 layers, each of which halves 28", "widths")
        code_size = self.code_size
        if code_size is None and self.network == "linear":
            raise self._error("{code_size} must be given", "code_size")
        if code_size is not None and not (is_integer(code_size) and 1 <= code_size <= MAX_WIDTH):
            raise self._error(f"{{code_size}} must be from 1 to {MAX_WIDTH:,}", "code_size")

    def _error(self, message: str, name: str) -> SettingError:
        value: Any = getattr(self, name)
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        return SettingError(f"recipe {self.name!r}: {message}", **{name: value})


def _title(function: object) -> str:
    """Return the name of a function, or of the class of a callable object."""
    return str(getattr(function, "__name__", None) or type(function).__name__)


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
