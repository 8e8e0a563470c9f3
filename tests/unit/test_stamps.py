"""The stamps data set: a tiny package, and the real one if it can be fetched."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.datasets import stamps
from lookalike.datasets.base import Split
from lookalike.datasets.registry import open_dataset
from lookalike.datasets.stamps import IMAGES_PER_ITEM, STAMPS, StampsDataset
from lookalike.download import Folder, _join_names
from lookalike.errors import FetchError, MissingDependencyError, UnknownNameError
from lookalike.types import Progress
from tests.conftest import Require

pytestmark = pytest.mark.slow


@functools.cache
def real(split: str) -> Split:
    return STAMPS.load(split)


@pytest.fixture
def package(require: Require) -> None:
    require(find_spec("skimage"), "scikit-image is not installed")
    installed = Path("/usr/share/tuxpaint/stamps").is_dir()
    tools = shutil.which("apt-get") and shutil.which("dpkg-deb")
    require(installed or tools, "neither tuxpaint-stamps-default nor apt-get is installed")
    try:
        real("shop")
    except FetchError as error:
        require(False, f"the stamps could not be fetched: {error}")


@pytest.mark.parametrize(
    ("split", "count", "side"), [("shop", 307, 256), ("street", 921, 320), ("drawn", 614, 256)]
)
def test_the_real_splits(package: None, split: str, count: int, side: int) -> None:
    loaded = real(split)
    assert loaded.images.shape == (count, side, side, 3)
    assert loaded.images.dtype == np.uint8
    items = list(loaded.columns["item"])
    assert len(items) == len(loaded.labels) == count == 307 * IMAGES_PER_ITEM[split]
    shop = list(real("shop").columns["item"])
    assert len(set(shop)) == 307
    assert set(items) == set(shop)
    assert items == [item for item in shop for _ in range(IMAGES_PER_ITEM[split])]
    kinds = [loaded.classes[label] for label in loaded.labels]
    assert kinds == [item.partition("/")[0] for item in items]
    assert {"animals", "food", "plants", "vehicles"} <= set(loaded.classes)
    assert loaded.images[:, ::8, ::8].std(axis=(1, 2, 3)).min() > 3, "an image is blank"


def test_shop_images_have_white_corners(package: None) -> None:
    images = real("shop").images
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all(axis=(1, 2)).mean() > 0.8


def test_the_second_load_reads_the_cache(package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = real("shop")

    def refuse(*_: object) -> None:
        raise AssertionError("not read from the cache")

    monkeypatch.setattr(stamps, "fetch", refuse)
    again = STAMPS.load("shop")
    np.testing.assert_array_equal(again.images, first.images)
    assert (again.classes, again.columns) == (first.classes, first.columns)


def png(color: tuple[int, int, int], width: int, height: int) -> bytes:
    """Return an item that fills the middle half of a transparent image, both ways."""
    rgba = np.zeros((height, width, 4), np.uint8)
    inside = np.s_[height // 4 : -(height // 4), width // 4 : -(width // 4)]
    rgba[inside] = (*color, 255)
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    return file.getvalue()


FILES = {
    "animals/dogs/red.png": png((220, 20, 20), 80, 40),
    "food/blue.png": png((20, 20, 220), 60, 60),
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StampsDataset:
    def checksums() -> Mapping[str, str]:
        return {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}

    for name, data in FILES.items():
        (tmp_path / "package" / name).parent.mkdir(parents=True)
        (tmp_path / "package" / name).write_bytes(data)
    monkeypatch.setattr(stamps, "_checksums", checksums)
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    return StampsDataset("tiny", "", "", (Folder(tmp_path / "package"),))


def test_shop_images_are_square_with_the_item_centered(tiny: StampsDataset) -> None:
    split = tiny.load("shop")
    assert split.images.shape == (2, 256, 256, 3)
    red, blue = split.images.astype(int)
    np.testing.assert_array_equal(red[128, 128], (220, 20, 20))
    np.testing.assert_array_equal(blue[128, 128], (20, 20, 220))
    assert (red[:90] == 255).all(), "not padded with white"
    assert (red[166:] == 255).all()
    assert split.columns == {"item": ["animals/dogs/red", "food/blue"]}
    assert (split.classes, split.labels.tolist()) == (("animals", "food"), [0, 1])


def test_drawings_are_cached_and_reproducible(
    tiny: StampsDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Progress] = []
    first = tiny.load("drawn", reports.append)
    assert [(p.done, p.total) for p in reports[-2:]] == [(1, 2), (2, 2)]
    assert first.columns["item"] == ["animals/dogs/red"] * 2 + ["food/blue"] * 2
    assert (first.images[0] != first.images[1]).any()
    count = len(reports)
    np.testing.assert_array_equal(tiny.load("drawn", reports.append).images, first.images)
    assert len(reports) == count
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "other"))
    np.testing.assert_array_equal(tiny.load("drawn", reports.append).images, first.images)
    assert len(reports) > count


def test_street_photos_contain_the_items(tiny: StampsDataset, require: Require) -> None:
    require(find_spec("skimage"), "scikit-image is not installed")
    split = tiny.load("street")
    assert split.images.shape == (6, 320, 320, 3)
    means = split.images.reshape(6, -1, 3).astype(int)
    redder = ((means[:, :, 0] - means[:, :, 2]) > 90).mean(axis=1)
    bluer = ((means[:, :, 2] - means[:, :, 0]) > 60).mean(axis=1)
    assert redder[:3].min() > 0.02
    assert bluer[3:].min() > 0.02


def test_errors_name_the_split_the_files_and_the_extra(
    tiny: StampsDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_dataset("stamps") is STAMPS
    with pytest.raises(UnknownNameError, match="split of dataset:stamps 'shops': did you mean"):
        STAMPS.load("shops")
    with pytest.raises(FetchError, match=r"Put animals/dogs/red\.png, food/blue\.png \(or"):
        StampsDataset("none", "", "", (Folder(tmp_path / "none"),)).load("shop")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"scikit-image.*lookalike\[stamps\]"):
        tiny.load("street")


def test_long_lists_of_missing_files_are_abbreviated() -> None:
    assert _join_names(["a", "b"]) == "a, b"
    assert _join_names(list("abcdef")) == "a, b, c, d, e, f"
    assert _join_names(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
