"""Product-like photographs of items on white, and synthetic street photos and drawings of them.

A stand-in for a shop and its customers' photos: the items are the photographs among Tux Paint's
stamps, on white; the queries are made by :mod:`lookalike.images.compositing`, on photographs that
come with scikit-learn and scikit-image, and by :mod:`lookalike.images.stylization`, each with a
fixed seed.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.array_files import read_archive
from lookalike.artifacts import write_cache
from lookalike.config import settings
from lookalike.datasets.base import Split, check_split
from lookalike.download import AptPackage, Folder, Provider, fetch
from lookalike.errors import MissingDependencyError
from lookalike.images.compositing import DEFAULT_PHOTO, compose_photo
from lookalike.images.decode import decode, pad_image, resize_image, shrink_image
from lookalike.images.stylization import restyle
from lookalike.types import ImageArray, Progress, ProgressCallback, ignore_progress

SHOP, STREETS, DRAWN = "shop", "street", "drawn"
SIDE = 256
"""Height and width of a shop image in pixels."""

IMAGES_PER_ITEM: Mapping[str, int] = {SHOP: 1, STREETS: 3, DRAWN: 2}
"""Images of each item, by split."""

_SEED = 2018
_CACHE_VERSION = 1
"""Raise it when the composition of images changes: cached images are then made again."""

_BACKGROUND_FILES = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "rocket.jpg",
)
"""Photographs that come with scikit-image."""


@dataclass(frozen=True, slots=True)
class StampsDataset:
    """The items as ``shop`` images, and as ``street`` and ``drawn`` queries.

    The column ``item`` is the same for all images of an item; the label is its kind, the
    outermost folder of the package.
    """

    name: str
    summary: str
    license: str
    providers: tuple[Provider, ...]
    splits: tuple[str, ...] = tuple(IMAGES_PER_ITEM)

    def load(self, split: str, on_progress: ProgressCallback = ignore_progress) -> Split:
        """Return one split: fetched and composed the first time, then read from the cache.

        Raises:
            UnknownNameError: no such split.
            MissingDependencyError: scikit-image, for the background photographs, is not installed.
            FetchError: no provider has the files with the pinned checksums.
        """
        check_split(self, split)
        names = sorted(_checksums())
        path = settings().data / self.name / f"{split}-{_cache_key(split)}.npz"
        images = _read(path)
        if images is None:
            backgrounds = background_photos() if split == STREETS else []
            files = fetch(self.name, _checksums(), self.providers, names, on_progress)
            items = [_item(files[name], name) for name in names]
            make = {SHOP: _shop, STREETS: _street(backgrounds), DRAWN: _drawing}[split]
            images = _compose_all(items, make, IMAGES_PER_ITEM[split], on_progress)
            write_cache(path, _to_bytes(images))
        kinds = [name.partition("/")[0] for name in names]
        classes, labels = np.unique(np.repeat(kinds, IMAGES_PER_ITEM[split]), return_inverse=True)
        owners = np.repeat([name.removesuffix(".png") for name in names], IMAGES_PER_ITEM[split])
        columns = {"item": owners.tolist()}
        return Split(images, labels.astype(np.uint8), tuple(classes.tolist()), columns)


@dataclass(frozen=True, slots=True)
class _Item:
    """A cut-out on white, longer side 256 pixels, and its mask ``(H, W)`` float32 in [0, 1]."""

    image: ImageArray
    mask: NDArray[np.float32]


_Make = Callable[[_Item, np.random.Generator], ImageArray]


def _item(data: bytes, name: str) -> _Item:
    image = shrink_image(decode(data, name=name), SIDE)
    with Image.open(io.BytesIO(data)) as picture:
        alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
    mask = resize_image(np.ascontiguousarray(alpha), *image.shape[:2])
    return _Item(image, np.asarray(mask / np.float32(255), np.float32))


def _shop(item: _Item, rng: np.random.Generator) -> ImageArray:
    del rng
    return resize_image(pad_image(item.image, 1, "white"), SIDE, SIDE)


def _street(backgrounds: list[ImageArray]) -> _Make:
    def make(item: _Item, rng: np.random.Generator) -> ImageArray:
        background = backgrounds[int(rng.integers(len(backgrounds)))]
        return compose_photo(item.image, background, rng, mask=item.mask).image

    return make


def _drawing(item: _Item, rng: np.random.Generator) -> ImageArray:
    drawing = restyle(item.image, rng, mask=item.mask)
    return resize_image(pad_image(drawing, 1, "white"), SIDE, SIDE)


def _compose_all(
    items: list[_Item], make: _Make, per_item: int, on_progress: ProgressCallback
) -> NDArray[np.uint8]:
    images: list[ImageArray] = []
    for number, item in enumerate(items):
        generators = (np.random.default_rng([_SEED, number, index]) for index in range(per_item))
        images += [make(item, rng) for rng in generators]
        on_progress(Progress("make images of stamps", number + 1, len(items), "items"))
    return np.stack(images)


def background_photos() -> list[ImageArray]:
    """Return the photographs of scikit-image and scikit-learn, as backgrounds of street photos.

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingDependencyError("scikit-image", "dataset:stamps/street", "stamps")
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise MissingDependencyError("scikit-learn", "dataset:stamps/street", "stamps") from None

    folder = Path(spec.origin).parent / "data"
    return [*(decode(folder / name) for name in _BACKGROUND_FILES), *load_sample_images().images]


@cache
def _checksums() -> Mapping[str, str]:
    """Return the SHA-256 of each photograph among the stamps, by file name.

    These are the stamps of more than 1,500 colors outside the cartoon folders, without drawings of
    as many colors, road signs and duplicates.
    """
    text = importlib.resources.files("lookalike.datasets").joinpath("stamps.json").read_text()
    checksums: dict[str, str] = json.loads(text)
    return checksums


def _cache_key(split: str) -> str:
    parts = [
        _CACHE_VERSION,
        split,
        IMAGES_PER_ITEM[split],
        SIDE,
        astuple(DEFAULT_PHOTO),
        _SEED,
        sorted(_checksums().items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _read(path: Path) -> NDArray[np.uint8] | None:
    """Return cached images, None if there are none or the file is damaged."""
    try:
        images = read_archive(path)["images"]
        return images if images.dtype == np.uint8 and images.ndim == 4 else None
    except (OSError, ValueError, KeyError):
        return None


def _to_bytes(images: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, images=images)
    return file.getvalue()


_FOLDER = "usr/share/tuxpaint/stamps"
STAMPS = StampsDataset(
    name="stamps",
    summary="307 photographed items on white, 256x256 color; synthetic street photos and drawings",
    license="GPL-2.0 (Tux Paint Stamps)",
    providers=(Folder(Path("/", _FOLDER)), AptPackage("tuxpaint-stamps-default", _FOLDER)),
)
