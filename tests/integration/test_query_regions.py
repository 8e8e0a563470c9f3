"""Query regions: box, foreground and multi-crop, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import lookalike as la
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from lookalike.types import ImageArray
from tests.integration.test_cli import lookalike

SIDE = 96
PLACE = (128, 128)
"""Corner of the pasted item in the cluttered photo."""


def drawing(number: int, side: int = SIDE) -> Image.Image:
    """Nine colored squares that fill the image."""
    rng = np.random.default_rng(number)
    colors = rng.integers(0, 256, (3, 3, 3), np.uint8)
    return Image.fromarray(colors).resize((side, side), Image.Resampling.NEAREST)


def on_white(number: int, side: int, corner: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", (SIDE, SIDE), "white")
    page.paste(drawing(number, side), corner)
    return page


def clutter() -> Image.Image:
    rng = np.random.default_rng(99)
    page = Image.new("RGB", (256, 256), (40, 60, 40))
    pen = ImageDraw.Draw(page)
    for _ in range(80):
        x, y, radius = (int(v) for v in rng.integers((0, 0, 8), (256, 256, 40)))
        color = tuple(int(v) for v in rng.integers(0, 120, 3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return page


def gallery_of(folder: Path, encoder: str, pictures: dict[str, Image.Image]) -> Gallery:
    shop = folder / "shop"
    shop.mkdir()
    for name, picture in pictures.items():
        picture.save(shop / f"{name}.png")
    source = open_source(shop)
    gallery = Gallery.create(
        folder / "shop.gallery", encoder=open_encoder(encoder, sample_images(source))
    )
    gallery.sync(source)
    return gallery


@pytest.fixture
def shop(tmp_path: Path) -> Gallery:
    """Twenty drawings that fill their images, encoded as pixels."""
    return gallery_of(tmp_path, "pixels", {f"{i:02}": drawing(i) for i in range(20)})


@pytest.fixture
def cluttered() -> ImageArray:
    """Drawing 7 on half of each side of a cluttered photo."""
    page = clutter()
    page.paste(drawing(7, 128), PLACE)
    return np.asarray(page)


def ids(hits: la.Hits) -> list[str]:
    return [hit.id.removeprefix("shop:").removesuffix(".png") for hit in hits]


def test_a_box_equals_the_cropped_image(shop: Gallery, cluttered: ImageArray) -> None:
    boxed = shop.search(cluttered, box=(128, 128, 128, 100), k=20)
    cropped = shop.search(np.ascontiguousarray(cluttered[128:228, 128:256]), k=20)
    assert boxed.rows == cropped.rows
    assert ids(boxed)[0] == "07"
    whole = shop.search(cluttered, box=(0, 0, 256, 256), k=20)
    assert whole.rows == shop.search(cluttered, k=20).rows
    assert whole.rows != boxed.rows


def test_a_box_on_a_large_jpeg_is_in_the_pixels_of_the_file(shop: Gallery, tmp_path: Path) -> None:
    page = Image.new("RGB", (3000, 2400), "black")
    page.paste(drawing(3, 600), (2300, 1700))
    page.save(tmp_path / "large.jpg", quality=95)
    boxed = shop.search(tmp_path / "large.jpg", box=(2300, 1700, 600, 600))
    whole = shop.search(drawing(3, 600))
    assert boxed[0].id == whole[0].id
    assert boxed[0].distance == pytest.approx(whole[0].distance, abs=0.02)


@pytest.mark.parametrize(
    "box", [(200, 0, 57, 10), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (0, 250, 5, 7)]
)
def test_a_box_outside_the_image_is_refused(
    shop: Gallery, cluttered: ImageArray, box: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="lie inside the image, which is 256x256 pixels"):
        shop.search(cluttered, box=box)


@pytest.mark.parametrize(
    "region", [{"box": (0, 0, 5, 5)}, {"foreground": True}, {"multi_crop": True}]
)
def test_a_text_query_has_no_region(shop: Gallery, region: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a text query has no image to crop"):
        shop.search(text="shoe", **region)


def test_an_indexed_image_with_a_box_is_encoded_again(shop: Gallery) -> None:
    box = (10, 0, 50, 96)
    boxed = shop.search(id="shop:03.png", box=box, k=20)
    image = np.asarray(drawing(3))
    cropped = shop.search(np.ascontiguousarray(image[:, 10:60]), k=20)
    assert len(boxed) == 19
    assert "03" not in ids(boxed)
    assert ids(boxed) == [name for name in ids(cropped) if name != "03"]
    expected = {hit.id: hit.distance for hit in cropped}
    assert all(hit.distance == pytest.approx(expected[hit.id]) for hit in boxed)
    assert boxed.query == "shop:03.png"
    with pytest.raises(InputError, match="which is 96x96 pixels"):
        shop.search(id="shop:03.png", box=(90, 0, 10, 10))


def test_foreground_matches_a_moved_item(tmp_path: Path) -> None:
    pages = {f"{i:02}": on_white(i, 60, (18, 18)) for i in range(12)}
    pages["small"] = on_white(40, 24, (3, 3))
    gallery = gallery_of(tmp_path, "pixels", pages)
    moved = np.asarray(on_white(5, 30, (4, 4)))
    assert ids(gallery.search(moved))[0] == "small"
    assert ids(gallery.search(moved, foreground=True))[0] == "05"


def test_multi_crop_finds_a_small_item_in_clutter(shop: Gallery, cluttered: ImageArray) -> None:
    plain = shop.search(cluttered, k=20)
    cropped = shop.search(cluttered, k=20, multi_crop=True)
    assert ids(plain)[0] != "07"
    assert ids(cropped)[0] == "07"
    assert cropped[0].distance < 0.01
    before = {hit.id: hit.distance for hit in plain}
    assert all(hit.distance <= before[hit.id] + 1e-6 for hit in cropped)
    boxed = shop.search(cluttered, box=(64, 64, 192, 192), multi_crop=True)
    assert boxed.query == plain.query


def test_regions_on_the_command_line(shop: Gallery, cluttered: ImageArray, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(cluttered).save(photo)

    def search(*options: object) -> list[dict[str, object]]:
        done = lookalike("search", shop.path, photo, *options, "--json", "-k", 5)
        assert (done.returncode, done.stderr) == (0, "")
        hits: list[dict[str, object]] = json.loads(done.stdout)["hits"]
        return hits

    boxed = search("--box", "128,128,128,128")
    assert [hit["id"] for hit in boxed] == [
        hit.id for hit in shop.search(cluttered, k=5, box=(128, 128, 128, 128))
    ]
    assert search()[0]["id"] != "shop:07.png"
    assert search("--multi-crop")[0]["id"] == "shop:07.png"
    ranked = shop.search(cluttered, k=5, rerank="k-reciprocal+aqe", foreground=True)
    hits = search("--rerank", "k-reciprocal+aqe", "--foreground")
    assert [(hit["rank"], hit["id"]) for hit in hits] == [(hit.rank, hit.id) for hit in ranked]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--box", "1,2,3"), "--box 1,2,3 must be x,y,w,h in whole pixels"),
        (("--box", "1,2,3,4.5"), "must be x,y,w,h in whole pixels"),
        (("--box", "200,200,200,200"), "which is 256x256 pixels"),
        (("--rerank", "recipocal"), "k-reciprocal"),
    ],
)
def test_errors_are_one_line(
    shop: Gallery, cluttered: ImageArray, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    Image.fromarray(cluttered).save(tmp_path / "photo.png")
    done = lookalike("search", shop.path, tmp_path / "photo.png", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert message in line
