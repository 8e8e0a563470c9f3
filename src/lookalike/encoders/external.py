"""Encoders made of a function or a model of the user: any function, scikit-learn, torch.

:func:`from_callable` wraps them. Such an encoder is saved by its name, length, preprocessing and
the user's fingerprint, never with code: it is opened again with the same call, and a gallery with
``encoder=``. Until then a gallery can be searched by vector and by id.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lookalike.arguments import checked
from lookalike.documents import Fields
from lookalike.encoders.base import (
    MAX_DIM,
    MAX_SIDE,
    Encoder,
    Preprocessing,
    check_batch_size,
    fingerprint,
)
from lookalike.errors import InputError, SettingError
from lookalike.images.decode import to_channels
from lookalike.types import Embeddings, ImageArray, check_embeddings
from lookalike.vectors import as_numbers, unit_rows

_LONGEST_NAME = 500

Images = Sequence[ImageArray] | NDArray[np.uint8]

_evaluating = threading.Lock()
"""A torch module is in evaluation mode as a whole, so one thread at a time uses one."""


@dataclass(frozen=True, repr=False)
class ExternalEncoder(Encoder):
    """A function or model of the user, or the encoder of vectors made elsewhere, without one.

    Args:
        name: of the encoder.
        dim: length of an embedding.
        user_fingerprint: whatever tells its versions apart, in the user's words.
        normalized: embeddings are scaled to unit length.
        channels: 1 (gray) or 3 (RGB), of images without ``preprocessing``.
        preprocessing: to images of one size, if the function wants that.
        function: returns embeddings ``(n, dim)`` of n decoded images; None if it is not here.
        batch_size: images for one call of the function.
    """

    kind: ClassVar[str] = "external"

    name: str
    dim: int
    user_fingerprint: str = ""
    normalized: bool = False
    channels: int = 3
    preprocessing: Preprocessing | None = None
    function: Callable[[Images], object] | None = field(default=None, compare=False)
    batch_size: int = field(default=64, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise SettingError("{name} must be the name of the encoder", name=self.name)
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            raise SettingError(
                f"{{name}} must be at most {_LONGEST_NAME} printable characters", name=None
            )
        if isinstance(self.dim, bool) or not isinstance(self.dim, int | np.integer):
            raise SettingError("{dim} must be the length of an embedding", dim=self.dim)
        if not 1 <= self.dim <= MAX_DIM:
            raise SettingError(f"{{dim}} must be from 1 to {MAX_DIM:,}", dim=self.dim)
        if not isinstance(self.user_fingerprint, str):
            raise SettingError("{fingerprint} must be a text", fingerprint=self.user_fingerprint)
        if self.channels not in (1, 3):
            raise SettingError("{channels} must be 1 (gray) or 3 (RGB)", channels=self.channels)
        check_batch_size(self.batch_size)

    @property
    def is_available(self) -> bool:
        """Whether its function is here."""
        return self.function is not None

    def encode_batch(self, images: Images) -> Embeddings:
        """Return ``(n, dim)`` float32 for n images, each ``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            InputError: the function is not here, or returns something else than ``(n, dim)`` finite
                numbers.
        """
        if self.function is None:
            raise InputError(
                f"encoder {self.name!r} has no function here, since functions are not saved; open "
                "the gallery with it: Gallery.open(..., encoder=from_callable(...)); search by "
                "vector or id works without"
            )
        out = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            out[batch] = self._checked(self.function(images[batch]), len(images[batch]))
        return unit_rows(out) if self.normalized else out

    def _checked(self, output: Any, count: int) -> Embeddings:
        """Return a function's output as ``(count, dim)`` float32."""
        what = f"encoder {self.name!r}"
        expected = f"its function must return numbers of shape ({count}, {self.dim})"
        try:
            values = as_numbers(output)
        except ValueError as error:
            raise InputError(f"{what}: {expected}, not {type(output).__name__}") from error
        if values.shape != (count, self.dim):
            raise InputError(f"{what}: {expected}, not {values.shape}, for {count} images")
        with np.errstate(over="ignore"):  # infinite values are refused
            return check_embeddings(values, dim=self.dim, what=f"{what}: output of its function")

    def files(self) -> Mapping[str, bytes]:
        """Return nothing: the function is not saved."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """Return kind, name, length, preprocessing and the user's fingerprint."""
        p = self.preprocessing
        return {
            "kind": self.kind,
            "name": self.name,
            "dim": int(self.dim),
            "user_fingerprint": self.user_fingerprint,
            "normalized": self.normalized,
            "channels": self.channels,
            **({} if p is None else {"preprocessing": p.as_dict()}),
        }

    @classmethod
    def restore(cls, description: Fields, files: Mapping[str, bytes]) -> ExternalEncoder:
        """Restore from :meth:`describe`, without the function.

        Raises:
            ArtifactError: a field is missing or invalid.
        """
        del files
        channels = description.integer("channels", 1, 3)
        if channels == 2:
            raise description.invalid("channels", "1 or 3")
        has_size = description.has("preprocessing")
        return cls(
            description.text("name"),
            description.integer("dim", 1, MAX_DIM),
            description.text("user_fingerprint"),
            description.flag("normalized"),
            channels,
            Preprocessing.restore(description.object("preprocessing")) if has_size else None,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of name, length, preprocessing and the user's fingerprint."""
        return fingerprint(self.describe(), {})


def has_function(encoder: Encoder) -> bool:
    """Return whether an encoder, or a part of it, is a user's function, which no file holds."""
    return _describes_function(encoder.describe())


def _describes_function(description: Mapping[str, Any]) -> bool:
    parts = description.get("parts", ())
    return description.get("kind") == ExternalEncoder.kind or any(map(_describes_function, parts))


@checked
def from_callable(  # noqa: PLR0913 - keywords of a public function
    fn: Any,
    *,
    dim: int,
    name: str,
    fingerprint: str = "",
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    normalized: bool = False,
    batch_size: int = 64,
) -> ExternalEncoder:
    """Make an encoder of a function, a scikit-learn transformer or pipeline, or a torch module.

    What ``fn`` is called with, for n images (at most ``batch_size``):

    - A function without ``size``: a list of n arrays ``(H, W, 3)`` uint8, RGB, gray images too;
      with ``channels=1`` arrays ``(H, W)``. With ``size``: one array ``(n, height, width, 3)``
      uint8, or ``(n, height, width)``.
    - A scikit-learn transformer, that is an object with a method ``transform``: an array
      ``(n, height * width * channels)`` float32 in [0, 1]. It needs ``size``, and must be fitted.
    - A torch module: a tensor ``(n, channels, height, width)`` float32 in [0, 1], less ``mean`` and
      divided by ``std`` of each channel, on the module's device and of its type. It needs ``size``.
      It runs in evaluation mode without gradients; its mode is restored after each call.

    It returns ``(n, dim)`` finite numbers, as an array, a tensor, a sparse matrix or lists.

    The encoder is saved without ``fn``, so the user answers for it being the same: galleries are
    opened with ``encoder=`` and an encoder of the same ``fingerprint`` and other arguments.

    Args:
        fn: the function or model.
        dim: length of an embedding.
        name: of the encoder.
        fingerprint: whatever tells versions apart, such as ``v2`` or the hash of a file of weights;
            change it with whatever changes the embeddings.
        size: input size in pixels, ``(height, width)`` or one number for both; images are stretched
            to it.
        channels: 3 for RGB, 1 for gray.
        mean: subtracted from each channel's values in [0, 1]; for torch modules.
        std: divisor of each channel after that; for torch modules.
        normalized: scale embeddings to unit length.
        batch_size: images for one call.

    Raises:
        SettingError: a parameter is out of range, or ``size`` is missing.
        InputError: ``fn`` cannot be called.
    """
    torch = sys.modules.get("torch")
    is_module = torch is not None and isinstance(fn, torch.nn.Module)
    transform = None if is_module else getattr(fn, "transform", None)
    if isinstance(fn, type) or not (is_module or callable(transform) or callable(fn)):
        raise InputError(
            "fn: expected a function, a fitted scikit-learn transformer or a torch module, not "
            f"{'the class ' + fn.__name__ if isinstance(fn, type) else type(fn).__name__}"
        )
    if (len(mean) or len(std)) and not is_module:
        raise SettingError("{mean} and {std} are for torch modules", mean=None, std=None)
    preprocessing = _preprocessing(size, channels, mean, std)
    call: Callable[[Images], object]
    if preprocessing is None:
        if is_module or transform is not None:
            what = "a torch module" if is_module else "a scikit-learn transformer"
            raise SettingError(f"{{size}} of its input is needed for {what}", size=size)
        call = partial(_call_with_list, fn, channels)
    elif is_module:
        call = partial(_call_module, fn, preprocessing)
    elif transform is not None:
        call = partial(_call_transform, transform, preprocessing)
    else:
        call = partial(_call_with_array, fn, preprocessing)
    return ExternalEncoder(
        name, dim, fingerprint, normalized, channels, preprocessing, call, batch_size
    )


def _preprocessing(
    size: int | tuple[int, int] | None,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Preprocessing | None:
    if channels not in (1, 3):
        raise SettingError("{channels} must be 1 (gray) or 3 (RGB)", channels=channels)
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int | np.integer) else size
    try:
        height, width = (int(side) for side in sides)
        preprocessing = Preprocessing(
            height, width, channels, mean=_numbers(mean), std=_numbers(std)
        )
    except (TypeError, ValueError):
        raise SettingError(
            f"{{size}} must be a number of pixels from 1 to {MAX_SIDE:,}, or (height, width)",
            size=size,
        ) from None
    for which, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (0, channels) or not np.isfinite(values).all():
            raise SettingError(f"{{{which}}} must be {channels} numbers", **{which: values})
    if not all(value > 0 for value in preprocessing.std):
        raise SettingError("{std} must be above 0", std=std)
    return preprocessing


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _call_with_list(fn: Callable[..., object], channels: int, images: Images) -> object:
    converted = [to_channels(image, channels) for image in images]
    return fn([image[..., 0] for image in converted] if channels == 1 else converted)


def _call_with_array(fn: Callable[..., object], p: Preprocessing, images: Images) -> object:
    pixels = p.apply(images)
    return fn(pixels[..., 0] if p.channels == 1 else pixels)


def _call_transform(fn: Callable[..., object], p: Preprocessing, images: Images) -> object:
    values = p.apply(images).astype(np.float32) / np.float32(255)
    return fn(values.reshape(len(images), -1))


def _call_module(module: Any, p: Preprocessing, images: Images) -> object:
    """Run a torch module in evaluation mode; restore the mode of each of its parts."""
    torch: Any = sys.modules["torch"]
    values = torch.from_numpy(p.scaled(p.apply(images)))
    parameter = next(module.parameters(), None)
    if parameter is not None:
        values = values.to(parameter.device, parameter.dtype)
    with _evaluating:
        training = [part for part in module.modules() if part.training]
        try:
            module.eval()
            with torch.no_grad():
                return module(values)
        finally:
            for part in training:
                part.training = True
