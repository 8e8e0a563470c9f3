"""Which part of a query is looked at: a box, the foreground, parts; in Python and on the shell."""

from __future__ import annotations

import json
from pathlib import Path

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
"""Where the pasted item begins in the cluttered photograph; its side is half of that."""


def drawing(number: int, side: int = SIDE) -> Image.Image:
    """Nine squares of colors of their own, on the whole of the picture."""
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
    """Twenty drawings that fill their pictures, compared pixel by pixel."""
    return gallery_of(tmp_path, "pixels", {f"{i:02}": drawing(i) for i in range(20)})


@pytest.fixture
def cluttered() -> ImageArray:
    """Drawing 7, at half of the sides of a photograph full of other things."""
    page = clutter()
    page.paste(drawing(7, 128), PLACE)
    return np.asarray(page)


def ids(hits: la.Hits) -> list[str]:
    return [hit.id.removeprefix("shop:").removesuffix(".png") for hit in hits]


def test_a_box_is_the_cut_image(shop: Gallery, cluttered: ImageArray) -> None:
    found = shop.search(cluttered, box=(128, 128, 128, 100), k=20)
    cut = shop.search(np.ascontiguousarray(cluttered[128:228, 128:256]), k=20)
    assert found.rows == cut.rows
    assert ids(found)[0] == "07"
    whole = shop.search(cluttered, box=(0, 0, 256, 256), k=20)
    assert whole.rows == shop.search(cluttered, k=20).rows
    assert whole.rows != found.rows


def test_a_box_on_a_large_jpeg_is_in_the_pixels_of_the_file(shop: Gallery, tmp_path: Path) -> None:
    page = Image.new("RGB", (3000, 2400), "black")
    page.paste(drawing(3, 600), (2300, 1700))
    page.save(tmp_path / "large.jpg", quality=95)
    found = shop.search(tmp_path / "large.jpg", box=(2300, 1700, 600, 600))
    whole = shop.search(drawing(3, 600))
    assert found[0].id == whole[0].id
    assert found[0].distance == pytest.approx(whole[0].distance, abs=0.02)


@pytest.mark.parametrize(
    "box", [(200, 0, 57, 10), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (0, 250, 5, 7)]
)
def test_a_box_outside_the_image_is_refused(
    shop: Gallery, cluttered: ImageArray, box: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="lie inside the image, which is 256x256 pixels"):
        shop.search(cluttered, box=box)


@pytest.mark.parametrize(
    "look", [{"box": (0, 0, 5, 5)}, {"foreground": True}, {"multi_crop": True}]
)
def test_words_have_no_parts(shop: Gallery, look: dict[str, object]) -> None:
    with pytest.raises(InputError, match="a text query has no image to crop"):
        shop.search(text="shoe", **look)  # type: ignore[arg-type]


def test_a_row_with_a_box_is_encoded_again(shop: Gallery) -> None:
    box = (10, 0, 50, 96)
    found = shop.search(id="shop:03.png", box=box, k=20)
    image = np.asarray(drawing(3))
    cut = shop.search(np.ascontiguousarray(image[:, 10:60]), k=20)
    assert len(found) == 19
    assert "03" not in ids(found)
    assert ids(found) == [name for name in ids(cut) if name != "03"]
    expected = {hit.id: hit.distance for hit in cut}
    assert all(hit.distance == pytest.approx(expected[hit.id]) for hit in found)
    assert found.query == "shop:03.png"
    with pytest.raises(InputError, match="which is 96x96 pixels"):
        shop.search(id="shop:03.png", box=(90, 0, 10, 10))


def test_foreground_finds_an_item_that_was_moved(tmp_path: Path) -> None:
    pages = {f"{i:02}": on_white(i, 60, (18, 18)) for i in range(12)}
    pages["small"] = on_white(40, 24, (3, 3))
    gallery = gallery_of(tmp_path, "pixels", pages)
    moved = np.asarray(on_white(5, 30, (4, 4)))
    assert ids(gallery.search(moved))[0] == "small"
    assert ids(gallery.search(moved, foreground=True))[0] == "05"


def test_parts_find_a_small_item_in_clutter(shop: Gallery, cluttered: ImageArray) -> None:
    plain = shop.search(cluttered, k=20)
    found = shop.search(cluttered, k=20, multi_crop=True)
    assert ids(plain)[0] != "07"
    assert ids(found)[0] == "07"
    assert found[0].distance < 0.01
    before = {hit.id: hit.distance for hit in plain}
    assert all(hit.distance <= before[hit.id] + 1e-6 for hit in found)
    boxed = shop.search(cluttered, box=(64, 64, 192, 192), multi_crop=True)
    assert boxed.query == plain.query


def test_the_shell_takes_parts_of_queries(
    shop: Gallery, cluttered: ImageArray, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(cluttered).save(photo)

    def found(*options: object) -> list[dict[str, object]]:
        done = lookalike("search", shop.path, photo, *options, "--json", "-k", 5)
        assert (done.returncode, done.stderr) == (0, "")
        hits: list[dict[str, object]] = json.loads(done.stdout)["hits"]
        return hits

    boxed = found("--box", "128,128,128,128")
    assert [hit["id"] for hit in boxed] == [
        hit.id for hit in shop.search(cluttered, k=5, box=(128, 128, 128, 128))
    ]
    assert found()[0]["id"] != "shop:07.png"
    assert found("--multi-crop")[0]["id"] == "shop:07.png"
    ranked = shop.search(cluttered, k=5, rerank="k-reciprocal+aqe", foreground=True)
    hits = found("--rerank", "k-reciprocal+aqe", "--foreground")
    assert [(hit["rank"], hit["id"]) for hit in hits] == [(hit.rank, hit.id) for hit in ranked]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--box", "1,2,3"), "--box 1,2,3 must be x,y,w,h in whole pixels"),
        (("--box", "1,2,3,4.5"), "must be x,y,w,h in whole pixels"),
        (("--box", "200,200,200,200"), "which is 256x256 pixels"),
        (("--rerank", "recipocal"), "k-reciprocal"),
    ],
)
def test_mistakes_are_one_line(
    shop: Gallery, cluttered: ImageArray, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    Image.fromarray(cluttered).save(tmp_path / "photo.png")
    done = lookalike("search", shop.path, tmp_path / "photo.png", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert said in line
