"""Emoji data sets: a tiny package of known shapes, and the real ones if they can be fetched."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resvg_py

import lookalike as la
from lookalike.datasets import emoji, registry
from lookalike.datasets.registry import EMOJI, OPENMOJI, TWEMOJI, EmojiDataset
from lookalike.download import Folder, NpmPackage, Provider
from lookalike.encoders.registry import open_encoder
from lookalike.errors import (
    FetchError,
    ImageError,
    MissingDependencyError,
    UnknownNameError,
)
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from lookalike.types import Progress
from tests.conftest import Require

LEFT_HALF = '<path fill="#c80000" d="M0 0h8v16H0z"/>'
WHOLE = '<path fill="#0000c8" d="M0 0h32v16H0z"/>'
ICONS: dict[str, dict[str, Any]] = {
    "waving-hand": {"body": LEFT_HALF},
    "waving-hand-dark-skin-tone": {"body": LEFT_HALF},
    "hand": {"body": WHOLE, "hidden": True},
    "flower": {"body": WHOLE, "width": 32},
    "axe": {"body": WHOLE},
    "shifted": {"body": LEFT_HALF, "left": 4, "top": -4, "height": 16, "width": 16},
    "no-codepoint": {"body": WHOLE},
}
CHARACTERS = {
    "1f44b": "waving-hand",
    "1f44b-1f3ff": "waving-hand-dark-skin-tone",
    "1f44c": "old-hand",
    "1f338": "flower",
    "1fa93": "axe",
    "e347": "axe",
    "1f500": "shifted",
}
CATEGORIES = {
    "Animals Nature": ["flower", "axe"],
    "Extras": ["axe", "no-codepoint"],
    "People Body": ["waving-hand", "waving-hand-dark-skin-tone", "old-hand"],
    "Symbols": ["shifted"],
}
PACKAGE = {
    "icons.json": {"icons": ICONS, "aliases": {"old-hand": {"parent": "waving-hand"}}},
    "chars.json": CHARACTERS,
    "metadata.json": {"categories": CATEGORIES},
}
SELECTED = ("flower", "shifted", "waving-hand")
FILES = {name: json.dumps(content).encode() for name, content in PACKAGE.items()}


def tiny(*providers: Provider, files: dict[str, bytes] = FILES) -> EmojiDataset:
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return EmojiDataset("tiny", "a test set", "CC0", checksums, providers)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("LOOKALIKE_OFFLINE", raising=False)
    return tmp_path / "cache" / "tiny"


@pytest.fixture
def package(tmp_path: Path) -> Folder:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return Folder(folder)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SVGs that are rendered from now on."""
    svgs: list[str] = []
    render = resvg_py.svg_to_bytes

    def listed(svg_string: str, **options: Any) -> bytes:
        svgs.append(svg_string)
        return render(svg_string, **options)

    monkeypatch.setattr(resvg_py, "svg_to_bytes", listed)
    return svgs


def expected(red_columns: slice, red_rows: slice) -> np.ndarray:
    image = np.full((64, 64, 3), 255, np.uint8)
    image[red_rows, red_columns] = (200, 0, 0)
    return image


def test_only_emoji_with_a_category_and_one_codepoint_are_selected(
    cache: Path, package: Folder
) -> None:
    split = tiny(package).load("all")
    assert tuple(split.columns["name"]) == SELECTED
    assert tuple(split.columns["codepoint"]) == ("1f338", "1f500", "1f44b")
    labels = [split.classes[label] for label in split.labels]
    assert labels == ["Animals & Nature", "Symbols", "People & Body"]
    assert split.images.shape == (3, 64, 64, 3)
    assert split.images.dtype == split.labels.dtype == np.uint8


def test_an_icon_with_two_codepoints_is_listed_under_both() -> None:
    icons = emoji.icons_by_codepoint(FILES)
    names = {codepoint: icon.name for codepoint, icon in icons.items()}
    assert names == {
        "1f44b": "waving-hand",
        "1f338": "flower",
        "1fa93": "axe",
        "e347": "axe",
        "1f500": "shifted",
    }
    assert all(icon.codepoint == codepoint for codepoint, icon in icons.items())
    assert icons["e347"].category == "Extras"
    assert icons["1f44b"].category == "People & Body"


def test_drawings_have_the_requested_size() -> None:
    hand = emoji.icons_by_codepoint(FILES)["1f44b"]
    [image] = emoji.render([hand], side=224).images
    assert image.shape == (224, 224, 3)
    np.testing.assert_array_equal(image[:, :112], np.broadcast_to((200, 0, 0), (224, 112, 3)))
    assert (image[:, 112:] == 255).all()


def test_drawings_are_placed_by_their_view_box_on_white(cache: Path, package: Folder) -> None:
    flower, shifted, hand = tiny(package).load("all").images
    np.testing.assert_array_equal(hand, expected(slice(0, 32), slice(0, 64)))
    # Its window begins 4 units right of the shape's left edge and 4 above its top edge.
    np.testing.assert_array_equal(shifted, expected(slice(0, 16), slice(16, 64)))
    # Twice as wide as high: it fills the width, with white above and below.
    blue = (flower == (0, 0, 200)).all(axis=2)
    white = (flower == 255).all(axis=2)
    assert blue[16:48].all()
    assert white[:16].all()
    assert white[48:].all()


def test_the_second_load_reads_the_cache(cache: Path, package: Folder, rendered: list[str]) -> None:
    reports: list[Progress] = []
    first = tiny(package).load("all", reports.append)
    assert len(rendered) == len(SELECTED)
    assert [(p.done, p.total) for p in reports] == [(1, 3), (2, 3), (3, 3)]
    second = tiny().load("all")
    assert len(rendered) == len(SELECTED)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.labels.tolist() == second.labels.tolist()
    assert (first.classes, first.columns) == (second.classes, second.columns)
    assert sorted(p.name for p in cache.iterdir()) == sorted([*FILES, "drawings.npz"])


def flip_a_byte(path: Path) -> None:
    """Change one byte in the middle of the images' compressed data."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("images.npy")
        sizes = (30, len(member.filename), len(member.extra), member.compress_size // 2)
    data = bytearray(path.read_bytes())
    data[member.header_offset + sum(sizes)] ^= 0xFF
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def change(path: Path, **arrays: np.ndarray) -> None:
    with np.load(path) as cached:
        changed = {**cached, **arrays}
    np.savez_compressed(path, **changed)


def hold_a_pickle(path: Path) -> None:
    change(path, images=np.array([{"not": "an array"}], dtype=object))


def hold_one_image(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.zeros((1, 64, 64, 3), np.uint8))
    path.with_suffix(".npy").replace(path)


blacken = functools.partial(change, images=np.zeros((3, 64, 64, 3), np.uint8))
rename = functools.partial(change, texts=np.array([["a", "b", "c"]] * 3))


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut_short, empty, hold_a_pickle, hold_one_image, blacken, rename]
)
def test_a_damaged_cache_is_rendered_again(
    damage: Callable[[Path], None], cache: Path, package: Folder, rendered: list[str]
) -> None:
    first = tiny(package).load("all")
    damage(cache / "drawings.npz")
    second = tiny().load("all")
    assert len(rendered) == 2 * len(SELECTED)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.columns == second.columns
    tiny().load("all")
    assert len(rendered) == 2 * len(SELECTED)


def test_another_package_or_renderer_version_is_rendered_again(
    cache: Path,
    package: Folder,
    rendered: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    tiny(package).load("all")
    other = {**FILES, "icons.json": FILES["icons.json"].replace(b"#c80000", b"#00c800")}
    (package.path / "icons.json").write_bytes(other["icons.json"])
    assert tiny(package, files=other).load("all").images[2, 0, 0].tolist() == [0, 200, 0]
    assert len(rendered) == 2 * len(SELECTED)
    monkeypatch.setattr(resvg_py, "__resvg_version__", "99")
    tiny(package, files=other).load("all")
    assert len(rendered) == 3 * len(SELECTED)


def test_items_have_codepoint_and_name_and_can_be_sliced_and_searched(
    cache: Path, package: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "DATASETS", {"tiny": tiny(package)})
    source = open_source("dataset:tiny/all")
    hand = {"label": "People & Body", "codepoint": "1f44b", "name": "waving-hand"}
    assert source[2].metadata == hand
    part = open_source("dataset:tiny/all[1:]")
    assert [(item.id, item.metadata["codepoint"]) for item in part] == [
        ("tiny/all:1", "1f500"),
        ("tiny/all:2", "1f44b"),
    ]
    assert part[1].metadata == hand
    np.testing.assert_array_equal(part[1].image(), source[2].image())
    encoder = open_encoder("color", sample_images(source))
    gallery = la.Gallery.create(tmp_path / "tiny.gallery", encoder=encoder)
    assert gallery.sync(source).added == 3
    hit = gallery.search(source[2].image(), k=1)[0]
    assert (hit.id, dict(hit.metadata)) == ("tiny/all:2", hand)


def test_without_the_renderer_the_error_names_the_extra(
    cache: Path, package: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingDependencyError, match=r"dataset:tiny.*pip install .*\[emoji\]"):
        tiny(package).load("all")
    assert not cache.exists()


def test_errors_of_fetching_rendering_and_caching(
    cache: Path, package: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="available: all"):
        tiny(package).load("train")
    with pytest.raises(ImageError, match="emoji bad: resvg"):
        emoji.render([emoji.Icon("bad", "1f600", "Symbols", {"body": "<svg"})])
    monkeypatch.setenv("LOOKALIKE_OFFLINE", "1")
    with pytest.raises(FetchError, match=r"LOOKALIKE_OFFLINE is set.*icons\.json"):
        tiny(NpmPackage("@scope/tiny", "1.0.0", "package")).load("all")
    cache.parent.mkdir()
    cache.write_bytes(b"a file where the folder should be")
    assert len(tiny(package).load("all").images) == len(SELECTED)  # not cached, but drawn


def test_cached_package_files_may_be_gzipped(cache: Path) -> None:
    cache.mkdir(parents=True)
    for name, data in FILES.items():
        (cache / f"{name}.gz").write_bytes(gzip.compress(data))
    assert len(tiny().load("all").images) == len(SELECTED)


def test_a_scoped_npm_package_is_fetched_by_its_full_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = tmp_path / "package.tgz"
    with tarfile.open(tarball, "w:gz") as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        '#!/bin/sh\n[ "$*" = "pack --silent @scope/tiny@1.0.0" ] || exit 3\n'
        f"cp '{tarball}' scope-tiny-1.0.0.tgz\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    assert len(tiny(NpmPackage("@scope/tiny", "1.0.0", "package")).load("all").images) == 3


@pytest.mark.parametrize("dataset", EMOJI, ids=lambda dataset: dataset.name)
def test_the_real_packages_match_their_summaries(dataset: EmojiDataset, require: Require) -> None:
    try:
        split = dataset.load("all")
    except FetchError as error:
        require(False, f"{dataset.name} could not be fetched: {error}")
        raise
    assert dataset.summary.startswith(f"{len(split.images):,} emoji")
    codepoints = split.columns["codepoint"]
    assert len(set(codepoints)) == len(set(split.columns["name"])) == len(codepoints)
    assert not [c for c in codepoints if any(t in c for t in ("1f3fb", "1f3fd", "1f3ff"))]
    assert {"Animals & Nature", "Food & Drink", "People & Body"} <= set(split.classes)
    darkest = split.images.min(axis=(1, 2, 3))
    assert darkest.max() < 250, "a drawing is blank"
    black = (split.images < 30).all(axis=3).mean(axis=(1, 2))
    assert (black > 0.6).sum() <= 1, "more is black than the black square"
    if dataset is TWEMOJI:
        counts = Counter(split.classes[label] for label in split.labels)
        assert (counts["Animals & Nature"], counts["Flags"], counts["Symbols"]) == (160, 270, 250)
        strawberry = split.images[list(codepoints).index("1f353")]
        red, green, blue = strawberry[32:40, 28:36].mean(axis=(0, 1))
        assert red > 150 > 100 > max(green, blue)


@pytest.mark.slow
def test_the_shared_split_has_the_same_order_at_all_vendors(require: Require) -> None:
    try:
        first, second = (dataset.load("shared") for dataset in (TWEMOJI, OPENMOJI))
    except FetchError as error:
        require(False, f"an emoji package could not be fetched: {error}")
        raise
    for split in (first, second):
        assert split.images.shape == (1594, 224, 224, 3)
        assert split.images.dtype == np.uint8
        assert len(split.labels) == len(split.columns["name"]) == 1594
    codepoints = first.columns["codepoint"]
    assert codepoints == second.columns["codepoint"]
    assert list(codepoints) == sorted(set(codepoints))
    assert (first.images != second.images).any(axis=(1, 2, 3)).all(), (
        "two vendors have an identical image"
    )
