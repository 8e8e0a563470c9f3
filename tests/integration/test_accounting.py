"""Nothing of a source is lost or left out in silence: what is skipped, failed, kept, restored."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import struct
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import (
    CancelledError,
    ImageError,
    MissingRowError,
    SettingError,
    SourceError,
)
from lookalike.gallery import uploads
from lookalike.gallery.archive import FILE
from lookalike.gallery.copy import copy
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.sync import SyncReport
from lookalike.images import formats
from lookalike.sources import ItemSource, SourceOptions, open_items, open_source
from tests.integration.test_cli import lookalike, run
from tests.integration.test_sync import write_label


def picture(number: int = 0, side: int = 12) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def encoded(kind: str, number: int = 0, **options: Any) -> bytes:
    file = io.BytesIO()
    picture(number).save(file, kind, **options)
    return file.getvalue()


def put(path: Path | str, data: bytes = b"") -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder("color", [np.asarray(picture(i)) for i in range(4)])


@pytest.fixture
def gallery(tmp_path: Path, encoder: Encoder) -> Gallery:
    return Gallery.create(tmp_path / "g", encoder=encoder)


def skipped(report: SyncReport) -> dict[str, int]:
    return {each.reason: each.count for each in report.skipped}


# --------------------------------------------------------------------------- every file counts


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as bound:  # whose addresses are at most 108 bytes long
        try:
            os.chdir(path.parent)
            bound.bind(path.name)
        finally:
            os.chdir(here)


JPEG, PNG, TIFF = encoded("JPEG"), encoded("PNG", 1), encoded("TIFF", 2)
STACK = encoded("TIFF", 3, save_all=True, append_images=[picture(4), picture(5)])
MAKERS: Mapping[str, bytes | Callable[[Path], None]] = {
    "a.jpg": JPEG,
    "B.JPEG": encoded("JPEG", 6),
    "same.jpg": JPEG,
    "scan.tif": TIFF,
    "stack.tiff": STACK,
    "new.avif": encoded("AVIF", 7),
    "old.jpe": encoded("JPEG", 8),
    "map.jp2": encoded("JPEG2000", 9),
    "png_named.jpg": PNG,
    "half.jpg": JPEG[: len(JPEG) * 2 // 3],
    "no_end.jpg": JPEG[:-2],
    "empty.jpg": b"",
    "page.png": b"<html>404</html>",
    "plain": PNG,
    "two.jpg.": PNG,
    "photo.jpg.bak": JPEG,
    "README": b"no image",
    "notes.txt": b"text",
    "a.xmp": b"<x/>",
    "clip.mp4": b"\0" * 40,
    "layers.psd": b"8BPS\0\1" + b"\0" * 50,
    "raw.cr2": b"II*\0\x10\0\0\0CR" + b"\0" * 50,
    "a.dng": b"II*\0" + b"\0" * 50,
    "x.zip": b"PK\3\4",
    ".hidden.jpg": JPEG,
    ".cache/t/1.jpg": JPEG,
    "@eaDir/1.jpg": JPEG,
    "..more/1.jpg": JPEG,
    "Metadata.CSV": b"path,year\na.jpg,2020\n",
    "metadata.json": b'{"this": "is something else"}',
    "pipe.jpg": os.mkfifo,
    "pipe": os.mkfifo,
    "socket.png": _socket,
    "dangling.jpg": _link("nowhere.jpg"),
    "dangling.txt": _link("nowhere.txt"),
    "link.jpg": _link("a.jpg"),
    "loop": _link("."),
    "zero": _link("/dev/zero"),
    "with space.jpg": PNG,
    "new\nline.jpg": encoded("PNG", 10),
    "\x1b[31mred.jpg": encoded("PNG", 11),
    "hash#1.jpg": encoded("PNG", 12),
    "img.jpg#3": encoded("PNG", 13),
    "back\\slash.jpg": encoded("PNG", 14),
    "star*[x].jpg": encoded("PNG", 15),
    "colon:x.jpg": encoded("PNG", 16),
    "-n.jpg": encoded("PNG", 17),
    "café.jpg": encoded("PNG", 18),
    unicodedata.normalize("NFD", "café.jpg"): encoded("PNG", 19),
    os.fsdecode(b"caf\xe9.jpg"): encoded("PNG", 20),
    "caf\\xe9.jpg": encoded("PNG", 21),
    os.fsdecode(b"dir\xff/1.jpg"): encoded("PNG", 22),
    "dir#2/1.jpg": encoded("PNG", 23),
    "😀/中文.jpg": encoded("PNG", 24),
}
"""Files as people have them: their content, or what makes them."""


def make(root: Path, names: list[str]) -> int:
    """Make a folder of such files, and return how many entries are no folders."""
    root.mkdir(parents=True)
    for name in names:
        path, content = root / name, MAKERS[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
    return sum(not entry.is_dir() or entry.is_symlink() for entry in root.rglob("*"))


def total(report: SyncReport) -> int:
    done = report.added + report.updated + report.unchanged + report.moved
    return done + len(report.failed) + sum(each.count for each in report.skipped)


OPTIONS = st.sampled_from(
    (
        SourceOptions(),
        SourceOptions(exclude=("*.jpg",)),
        SourceOptions(include=("*.JPG", "dir*"), exclude=("café*",)),
    )
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(sorted(MAKERS)), unique=True, max_size=14), OPTIONS)
def test_every_file_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory,
    encoder: Encoder,
    names: list[str],
    options: SourceOptions,
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    if "Metadata.CSV" in names and "a.jpg" not in names:
        names = [*names, "a.jpg"]  # the table has a row for it
    files = make(folder / "r", names)
    gallery = Gallery.create(folder / "g", encoder=encoder)
    source = open_source(folder / "r", empty=True, options=options)
    try:
        first = gallery.sync(source)
    except SourceError:
        with pytest.raises(SourceError, match="no image could be indexed"):
            gallery.sync(source)
        return
    assert total(first) == files
    assert first.added == len(gallery)
    again = gallery.sync(folder / "r", allow_removals=True)
    assert again.unchanged == first.added
    assert total(again) == files
    assert skipped(again) == skipped(first)
    json.dumps(again.as_dict(), ensure_ascii=False).encode()
    opened = gallery.items()
    assert len({item.id for item in opened}) == first.added
    for item in opened:
        assert item.image().shape[0] == 12


def test_all_odd_files_together_with_their_reasons(gallery: Gallery, tmp_path: Path) -> None:
    files = make(tmp_path / "r", list(MAKERS))
    report = gallery.sync(tmp_path / "r")
    assert total(report) == files
    counted = skipped(report)
    assert counted["hidden"] == 3
    assert counted["system folder"] == 1
    assert counted["not a regular file"] == 4
    assert counted["raw beside its JPEG or HEIC"] == 1  # a.dng beside a.jpg
    assert counted["metadata table, read for its columns"] == 1
    assert counted["metadata.json, not read"] == 1
    assert counted["unsupported: psd"] == 1
    assert counted["archive"] == 1
    assert counted["broken link"] == 1
    assert counted["link to a folder that is read anyway"] == 1
    assert counted["image with another suffix"] == 3
    assert counted["not an image"] == 4
    failed = {Path(failure.uri).name for failure in report.failed}
    assert {"empty.jpg", "page.png", "dangling.jpg"} <= failed
    assert gallery.store.get(["r:a.jpg"]).metadata == [{"year": 2020}]
    assert report.notes["truncated"] >= 1
    rows = set(gallery.store.ids())
    assert {"r:caf\\xe9.jpg", "r:caf\\x5cxe9.jpg", "r:dir\\xff/1.jpg"} <= rows


def test_a_hint_says_what_would_read_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_is_installed", lambda _: False)
    for name in ("1.HEIC", "2.heic", "3.nef", "a.png"):
        put(tmp_path / "r" / name, PNG)
    put(tmp_path / "r" / "plain", b"\0\0\0\x18ftypheic" + b"\0" * 99)
    found = {each.reason: each for each in open_source(tmp_path / "r").skipped}
    assert found["unsupported: heic"].count == 3
    assert found["unsupported: heic"].example == "1.HEIC"
    assert found["unsupported: heic"].hint == "pip install 'lookalike[heif]'"
    assert found["unsupported: nef"].hint == "pip install 'lookalike[raw]'"
    (tmp_path / "r" / "a.png").unlink()
    with pytest.raises(SourceError, match=r"3 unsupported: heic \(pip install 'lookalike\[heif\]'"):
        open_source(tmp_path / "r")


def test_the_command_line_says_what_it_skipped(tmp_path: Path) -> None:
    for name in ("a.jpg", "scan.tif", "layers.psd", "notes.txt", "a.xmp", ".hidden.jpg"):
        put(tmp_path / "trip" / name, MAKERS[name])  # type: ignore[arg-type]
    put(tmp_path / "trip" / "\x1b[31m\nred.psd", b"8BPS")
    done = lookalike("index", "g", "trip", "--encoder", "color", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "g: 2 rows; 2 added" in done.stdout
    assert "0 failed, 5 skipped" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("skipped:")] == [
        "skipped: 2  not an image      e.g. a.xmp",
        r"skipped: 2  unsupported: psd  e.g. \x1b[31m\nred.psd  convert it to PNG or TIFF",
        "skipped: 1  hidden            e.g. .hidden.jpg",
    ]
    put(tmp_path / "trip" / "broken.jpg", b"no image")
    again = lookalike("index", "g", "trip", "--json", cwd=tmp_path)
    assert again.returncode == 1
    fields = json.loads(again.stdout)
    assert fields["skipped"] == {"not an image": 2, "unsupported: psd": 2, "hidden": 1}
    assert fields["skipped_examples"][2] == {
        "reason": "hidden",
        "example": ".hidden.jpg",
        "hint": None,
    }
    assert (fields["kept"], fields["unchanged"], len(fields["failed"])) == (0, 2, 1)


def test_members_of_a_tar_and_rows_of_a_manifest_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gallery: Gallery
) -> None:
    monkeypatch.setattr(formats, "_is_installed", lambda _: False)
    members = {
        "a.jpg": JPEG, "a.json": b"{}", "a.txt": b"x", "b.heic": b"", "b.json": b"{}",
        "c.tif": TIFF, "d.json": b"{}", ".e.png": PNG, "f.exe": b"", os.fsdecode(b"g\xe9.png"): PNG,
    }  # fmt: skip
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        tar.addfile(link)
    report = gallery.sync(tmp_path / "s.tar")
    assert skipped(report) == {
        "caption or metadata without an image": 1,
        "hidden": 1,
        "not a regular file": 1,
        "not an image": 1,
        "unsupported: heic": 1,
    }
    assert gallery.store.ids() == ["s:s/a", "s:s/c", r"s:s/g\xe9"]
    assert [item.image().shape for item in gallery.items()] == [(12, 12, 3)] * 3
    excluded = open_source(tmp_path / "s.tar", options=SourceOptions(exclude=("a.*",)))
    assert [item.uri for item in open_items([item.uri for item in excluded])] == [
        gallery.store.get([row_id]).uris[0] for row_id in ("s:s/c", r"s:s/g\xe9")
    ]
    kept = gallery.sync(excluded)
    assert (kept.removed, kept.kept, skipped(kept)["excluded"]) == (0, 1, 1)
    (tmp_path / "m.csv").write_text("path,n\na.jpg,1\nb.heic,2\nsub\\c.tif,3\n")
    put(tmp_path / "a.jpg", JPEG)
    put(tmp_path / "sub" / "c.tif", TIFF)
    rows = gallery.sync(tmp_path / "m.csv")
    assert (rows.added, skipped(rows), rows.failed) == (2, {"unsupported: heic": 1}, ())


# --------------------------------------------------------------------- what is not read now stays


def test_files_that_are_not_read_now_keep_their_rows(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "mix"
    for i in range(6):
        put(root / f"{i}.tif", encoded("TIFF", i))
        put(root / f"{i}.jpg", encoded("JPEG", i))
    assert gallery.sync(root).added == 12
    (root / "0.tif").unlink()
    monkeypatch.setattr(formats.Format, "is_readable", property(lambda kind: kind.name != "TIFF"))
    report = gallery.sync(root)
    assert (report.removed, report.kept, report.unchanged, len(gallery)) == (1, 5, 6, 11)
    assert skipped(report) == {"unsupported: tif": 5}
    monkeypatch.undo()
    assert (gallery.sync(root).unchanged, len(gallery)) == (11, 11)
    excluded = gallery.sync(open_source(root, options=SourceOptions(exclude=("*.jpg",))))
    assert (excluded.removed, excluded.kept, len(gallery)) == (0, 6, 11)
    assert gallery.source_options == {"mix": {"exclude": ["*.jpg"]}}
    assert gallery.sync(root).kept == 6  # the option is remembered
    reopened = Gallery.open(gallery.path)
    assert reopened.sync(reopened.open_source(root, options={"exclude": []})).unchanged == 11
    (root / "1.tif").chmod(0)
    (root / "2.tif").unlink()
    os.mkfifo(root / "2.tif")
    assert gallery.sync(root).removed == 0


def test_a_file_that_is_read_by_another_link_has_moved(gallery: Gallery, tmp_path: Path) -> None:
    put(tmp_path / "other" / "1.png", PNG)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "b").symlink_to(tmp_path / "other")
    gallery.sync(tmp_path / "p")
    write_label(gallery, "p:b/1.png", "mine")
    (tmp_path / "p" / "a").symlink_to(tmp_path / "other")  # listed before b
    report = gallery.sync(tmp_path / "p", allow_removals=True)
    assert (report.moved, report.kept, gallery.store.ids()) == (1, 0, ["p:a/1.png"])
    assert mark(gallery, "p:a/1.png") == "mine"


def mark(gallery: Gallery, row_id: str) -> object:
    return gallery.store.get([row_id]).metadata[0].get("mark")


def test_labels_come_back_with_the_same_content(gallery: Gallery, tmp_path: Path) -> None:
    root = tmp_path / "p"
    for i in range(4):
        put(root / f"{i}.png", encoded("PNG", i))
    gallery.sync(root)
    for i in range(3):
        write_label(gallery, f"p:{i}.png", f"label {i}")
    original = (root / "0.png").read_bytes()
    (root / "0.png").write_bytes(encoded("PNG", 50))  # another content, and back
    gallery.sync(root)
    assert mark(gallery, "p:0.png") is None
    (root / "0.png").write_bytes(original)
    gallery.sync(root)
    assert mark(gallery, "p:0.png") == "label 0"
    (root / "1.png").unlink()
    gallery.sync(root)
    put(root / "again" / "one.png", encoded("PNG", 1))
    gallery.sync(root)
    assert mark(gallery, "p:again/one.png") == "label 1"
    assert gallery.remove(["p:2.png"]) == 1
    gallery.sync(root, restore_removed=True)
    assert mark(gallery, "p:2.png") == "label 2"
    assert gallery.remove_rows(source="p") == 4
    assert (gallery.sources, len(gallery)) == ({}, 0)
    copied = tmp_path / "copy"
    gallery.sync(open_source(root, options=SourceOptions(exclude=("*",)), empty=True))
    copy(gallery, copied)
    assert Gallery.open(copied).source_options == {"p": {"exclude": ["*"]}}
    gallery.sync(open_source(root, empty=True))
    for each in (gallery, Gallery.open(copied)):
        each.sync(open_source(root))
        assert mark(each, "p:again/one.png") == "label 1"
        assert mark(each, "p:3.png") is None


def test_labels_are_safe_before_rows_are_deleted(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        put(tmp_path / "p" / f"{i}.png", encoded("PNG", i))
    gallery.sync(tmp_path / "p")
    write_label(gallery, "p:0.png", "mine")
    write_label(gallery, "p:1.png", "yours")
    (tmp_path / "p" / "0.png").unlink()
    put(tmp_path / "p" / "1.png", encoded("PNG", 9))
    events: list[str] = []
    store = type(gallery._store)
    for name in ("upsert", "delete"):
        original = getattr(store, name)

        def recorded(self: object, rows: Any, name: str = name, original: Any = original) -> object:
            saved = (gallery.path / FILE).read_text() if (gallery.path / FILE).exists() else ""
            events.append(f"{name} {'mine' in saved} {'yours' in saved}")
            return original(self, rows)

        monkeypatch.setattr(store, name, recorded)
    gallery.sync(tmp_path / "p")
    assert events[0] == "upsert False True"
    assert events[-1] == "delete True True"


def test_labels_of_uploads_come_back(gallery: Gallery) -> None:
    def upload(data: bytes) -> None:
        embedding = gallery.encoder.encode([np.asarray(Image.open(io.BytesIO(data)))])
        uploads.put(gallery, "x", data, embedding, {"title": "t"}, gallery.fingerprint)

    upload(PNG)
    write_label(gallery, "api:x", "mine")
    upload(PNG)
    assert gallery.store.get(["api:x"]).metadata == [{"title": "t", "mark": "mine"}]
    upload(JPEG)
    assert mark(gallery, "api:x") is None
    upload(PNG)
    assert mark(gallery, "api:x") == "mine"
    files = list((gallery.path / "images").iterdir())
    assert len(files) == 1
    assert gallery.remove_rows(where="title = 't'") == 1
    assert not files[0].exists()
    upload(PNG)
    assert mark(gallery, "api:x") == "mine"


# ------------------------------------------------------------------------- options of a source


def test_pages_are_items(gallery: Gallery, tmp_path: Path) -> None:
    put(tmp_path / "p" / "stack.tif", STACK)
    put(tmp_path / "p" / "one.png", PNG)
    first = gallery.sync(tmp_path / "p")
    assert (first.added, first.notes) == (2, {"further pages": 1})
    report = gallery.sync(
        gallery.open_source(tmp_path / "p", options={"pages": "all"}), rehash=True
    )
    assert report.notes == {}
    assert (report.added, report.unchanged) == (2, 2)
    ids = ["p:one.png", "p:stack.tif", "p:stack.tif#2", "p:stack.tif#3"]
    assert gallery.store.ids() == ids
    rows = gallery.store.get(ids)
    assert len(set(rows.hashes)) == 4
    expected = [np.asarray(picture(number)) for number in (1, 3, 4, 5)]
    for item, row_id, image in zip(open_items(rows.uris), ids, expected, strict=True):
        np.testing.assert_array_equal(item.image(), image)
        hits = gallery.search(id=row_id, k=4)
        assert len(hits) == 3
        assert gallery.search(image, k=1)[0].id == row_id
    assert gallery.sync(tmp_path / "p").unchanged == 4
    first = gallery.sync(gallery.open_source(tmp_path / "p", options={"pages": "first"}))
    assert (first.removed, first.kept) == (0, 2)
    gallery.sync(gallery.open_source(tmp_path / "p", options={"pages": "all"}))
    put(tmp_path / "p" / "stack.tif", encoded("TIFF", 3, save_all=True, append_images=[picture(4)]))
    assert gallery.sync(tmp_path / "p").removed == 1
    with pytest.raises(SettingError, match="pages=some"):
        open_source(tmp_path / "p", options=SourceOptions(pages="some"))


def test_another_window_encodes_again_and_is_remembered(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    ramp = np.tile(np.arange(0, 4096, 32, dtype=np.uint16), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "p" / "deep.png")
    put(tmp_path / "p" / "a.png", PNG)
    gallery.sync(tmp_path / "p")
    before = gallery.store.get(["p:deep.png"])
    windowed = gallery.open_source(tmp_path / "p", options={"window": [0, 65535]})
    assert gallery.sync(windowed).updated == 2
    after = gallery.store.get(["p:deep.png"])
    assert before.hashes == after.hashes
    assert not np.allclose(before.embeddings, after.embeddings)
    assert gallery.sync(tmp_path / "p").unchanged == 2
    assert {item.options.window for item in gallery.items()} == {(0.0, 65535.0)}


def test_rehash_reads_files_again_that_look_unchanged(gallery: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "p" / "a.bmp"
    put(file, encoded("BMP", 1))
    before = file.stat()
    gallery.sync(tmp_path / "p")
    put(file, encoded("BMP", 2))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert gallery.sync(tmp_path / "p").unchanged == 1
    assert gallery.sync(tmp_path / "p", rehash=True).updated == 1
    assert gallery.sync(tmp_path / "p", rehash=True).unchanged == 1


def test_options_on_the_command_line_are_kept_with_the_source(tmp_path: Path) -> None:
    for i, name in enumerate(("a.png", "b.png", "thumbs/a.png")):
        put(tmp_path / "p" / name, encoded("PNG", i))
    options = ("--encoder", "color", "--exclude", "thumbs", "--max-megapixels", "none", "--strict")
    run("index", "g", "p", *options, cwd=tmp_path)
    fields = json.loads((tmp_path / "g" / "gallery.json").read_text())
    assert fields["source_options"] == {
        "p": {"exclude": ["thumbs"], "max_megapixels": "none", "strict": True}
    }
    again = json.loads(run("index", "g", "p", "--no-strict", "--json", cwd=tmp_path))
    assert (again["unchanged"], again["skipped"]) == (2, {"excluded": 1})
    fields = json.loads((tmp_path / "g" / "gallery.json").read_text())
    assert "strict" not in fields["source_options"]["p"]
    for arguments, message in (
        (("--window", "5,1"), "--window 5,1 must be two increasing numbers"),
        (("--max-megapixels", "-1"), "--max-megapixels -1 must be a number above 0, or none"),
        (("--pages", "2"), "--pages 2 must be first or all"),
    ):
        done = lookalike("index", "g", "p", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr


# ------------------------------------------------------------------------ one item, one failure


def test_an_unforeseen_exception_fails_one_image_only(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(5):
        put(tmp_path / "p" / f"{i}.png", encoded("PNG", i))
    encode = type(gallery.encoder).encode_batch

    def refuse(self: Encoder, images: list[np.ndarray]) -> Any:
        if any((image == np.asarray(picture(2))).all() for image in images):
            raise ZeroDivisionError("odd image")
        return encode(self, images)

    monkeypatch.setattr(type(gallery.encoder), "encode_batch", refuse)
    report = gallery.sync(tmp_path / "p")
    assert report.added == 4
    assert [(Path(each.uri).name, each.reason) for each in report.failed] == [
        ("2.png", "cannot be encoded (ZeroDivisionError: odd image)")
    ]

    def fail() -> bytes:
        raise TypeError("not enough arguments")

    [item] = open_items([str(tmp_path / "p" / "0.png")])
    with pytest.raises(ImageError, match=r"0\.png: cannot be read \(TypeError: not enough"):
        replace(item, read=fail).image()


class PanicException(BaseException):
    """As decoders in Rust raise it: no Exception."""


@pytest.mark.parametrize(
    "error",
    [PanicException("index out of bounds"), MemoryError(), RecursionError(), struct.error("x")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("step", ["signature", "read", "encode"])
def test_whatever_one_item_raises_is_its_own_failure(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Any
) -> None:
    for i in range(3):
        put(tmp_path / "p" / f"{i}.png", encoded("PNG", i))
    source = open_source(tmp_path / "p")

    def fail(*_: object) -> Any:
        raise error

    odd = source[1]
    if step == "signature":
        odd = replace(odd, signature=fail)
    elif step == "read":
        odd = replace(odd, read=fail)
    items = [source[0], odd, source[2]]
    if step == "encode":
        encode = type(gallery.encoder).encode_batch
        monkeypatch.setattr(
            type(gallery.encoder),
            "encode_batch",
            lambda self, images: (
                fail()
                if any((image == np.asarray(picture(1))).all() for image in images)
                else encode(self, images)
            ),
        )
    report = gallery.sync(ItemSource("p", str(tmp_path / "p"), items))
    assert report.added == 2
    [failure] = report.failed
    assert failure.uri == source[1].uri
    assert ("memory" if isinstance(error, MemoryError) else type(error).__name__) in failure.reason


def test_a_row_that_the_store_refuses_fails_alone(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one with more metadata than Milvus allows, or an embedding that is no number."""
    for i in range(9):
        put(tmp_path / "p" / f"{i}.png", encoded("PNG", i))
    encode = type(gallery.encoder).encode_batch

    def broken(self: Encoder, images: list[np.ndarray]) -> Any:
        vectors = encode(self, images)
        for place, image in enumerate(images):
            if (image == np.asarray(picture(4))).all():
                vectors[place] = np.nan
        return vectors

    monkeypatch.setattr(type(gallery.encoder), "encode_batch", broken)
    report = gallery.sync(tmp_path / "p")
    assert (report.added, len(report.failed), len(gallery)) == (8, 1, 8)
    assert report.failed[0].uri.endswith("4.png")
    assert "has NaN or Inf" in report.failed[0].reason


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CancelledError("nobody waits")])
def test_an_order_to_end_ends_all(gallery: Gallery, tmp_path: Path, error: BaseException) -> None:
    put(tmp_path / "p" / "0.png", PNG)
    source = open_source(tmp_path / "p")

    def end() -> bytes:
        raise error

    with pytest.raises(type(error)):
        gallery.sync(ItemSource("p", str(tmp_path / "p"), [replace(source[0], read=end)]))


def test_hostile_files_cost_no_other(gallery: Gallery, tmp_path: Path) -> None:
    """Each is named; none is waited for, or read beyond what fits into memory."""
    root = tmp_path / "p"
    for i in range(3):
        put(root / f"{i}.png", encoded("PNG", i))
    exif = Image.Exif()
    exif[0x0112] = 1
    odd = bytearray(encoded("JPEG", 5, exif=exif))
    odd[odd.index(b"\x01\x12\x00\x03") + 3] = 0xFF  # a type that there is not
    put(root / "exif.jpg", bytes(odd))
    avif = encoded("AVIF", 6)
    for end in (20, 100, len(avif) // 2):
        put(root / f"cut{end}.avif", avif[:end])
    put(root / "zeros.avif", avif[:60] + bytes(len(avif) - 60))
    for name in ("sparse.jpg", "sparse.png", "sparse.svg", "sparse.tif"):
        with (root / name).open("wb") as file:
            file.truncate(1 << 42)
    os.mkfifo(root / "pipe.jpg")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "endless.png").symlink_to("/proc/self/pagemap")
    report = gallery.sync(root)
    failed = {Path(each.uri).name: each.reason for each in report.failed}
    for name in ("sparse.jpg", "sparse.png", "sparse.svg", "sparse.tif"):
        assert re.match(r"cannot be read \(the file has 4,?398.0 GB, more than the", failed[name])
    assert {f"cut{end}.avif" for end in (20, 100)} <= failed.keys()
    assert "endless.png" in failed
    skipped = {each.reason: each.count for each in report.skipped}
    assert skipped == {"not a regular file": 2}
    assert report.added >= 3
    assert report.added + len(report.failed) == len(list(root.iterdir())) - 2
    for page in ("first", "all"):
        source = open_source(root, options=SourceOptions(pages=page))
        assert len(source) >= report.added + len(report.failed)
        assert gallery.sync(source, allow_removals=True).unchanged == report.added


def test_names_that_are_not_utf_8_are_searched_and_shown(tmp_path: Path) -> None:
    for i, name in enumerate((b"ok.png", b"caf\xe9.png", b"caf\\xe9.png", b"a\nb.png")):
        put(os.fsdecode(os.fsencode(tmp_path) + b"/p\xff/" + name), encoded("PNG", i))
    folder = os.fsdecode(b"p\xff")
    run("index", "g", folder, "--encoder", "color", cwd=tmp_path)
    row = r"p\xff:caf\xe9.png"
    hits = json.loads(run("search", "g", "--id", row, "--json", "-k", "3", cwd=tmp_path))["hits"]
    assert len(hits) == 3
    query = os.fsdecode(b"p\xff/caf\xe9.png")
    options = ("--include-self", "--json", "-k", "1")
    hits = json.loads(run("search", "g", query, *options, cwd=tmp_path))["hits"]
    assert [hit["id"] for hit in hits] == [row]
    hits = json.loads(run("search", "g", query, "--json", cwd=tmp_path))["hits"]
    assert sorted(hit["id"] for hit in hits) == [
        *(r"p\xff:a" "\nb.png", r"p\xff:caf\x5cxe9.png", r"p\xff:ok.png")
    ]
    text = run("search", "g", "--id", row, "--foreground", "-k", "3", cwd=tmp_path)
    assert r"a\nb.png" in text
    assert json.loads(run("index", "g", folder, "--json", cwd=tmp_path))["unchanged"] == 4
    shutil.copytree(tmp_path / folder, tmp_path / "copies")
    run("index", "g", "copies", cwd=tmp_path)
    assert row in run("explore", "duplicates", "g", "--json", cwd=tmp_path).replace("\\\\", "\\")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path / "p" / "a.png", PNG)
    os.mkfifo(tmp_path / "p" / "pipe.png")
    os.mkfifo(tmp_path / "m.csv")
    run("index", "g", "p", "--encoder", "color", cwd=tmp_path)
    for arguments in (("search", "g", "p/pipe.png"), ("index", "g", "m.csv")):
        done = lookalike(*arguments, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert "not a regular file" in done.stderr


# -------------------------------------------------------------------------------------- remove


def test_remove_by_source_id_pattern_and_filter(gallery: Gallery, tmp_path: Path) -> None:
    for i, name in enumerate(("a/1.png", "a/2.png", "b/3.png", "b/[4].png")):
        put(tmp_path / "p" / name, encoded("PNG", i))
        put(tmp_path / "q" / name, encoded("PNG", 10 + i))
    gallery.sync(tmp_path / "p")
    gallery.sync(tmp_path / "q")
    assert gallery.select(["p:b/[4].png"]) == ["p:b/[4].png"]
    assert gallery.select(["p:a/*", "q:b/3.png"]) == ["p:a/1.png", "p:a/2.png", "q:b/3.png"]
    assert gallery.select(where="label = 'a'") == [f"{s}:a/{n}.png" for s in "pq" for n in "12"]
    with pytest.raises(MissingRowError, match=r"did you mean 'p:a/1\.png'"):
        gallery.select(["p:a/1.jpg"])
    with pytest.raises(SettingError, match="choose rows by one of"):
        gallery.remove_rows(source="p", where="label = 'a'")
    assert gallery.remove_rows(["p:a/1.png", "none"]) == 1
    assert gallery.remove_rows(where="label = 'b'") == 4
    assert gallery.remove_rows(source="q") == 2
    assert gallery.store.ids() == ["p:a/2.png"]
    assert set(Gallery.open(gallery.path).sources) == {"p"}


def test_remove_on_the_command_line(tmp_path: Path) -> None:
    for i in range(6):
        put(tmp_path / "p" / f"{i}.png", encoded("PNG", i))
    run("index", "g", "p", "--encoder", "color", cwd=tmp_path)
    dry = json.loads(run("remove", "g", "--source", "p", "--dry-run", "--json", cwd=tmp_path))
    assert (dry["removed"], dry["rows"], dry["dry_run"]) == (6, 0, True)
    refused = lookalike("remove", "g", "--source", "p", cwd=tmp_path)
    assert refused.returncode == 2
    assert "6 of its 6 rows would be removed; to remove them, set --yes" in refused.stderr
    assert "2 rows removed, 4 left" in run("remove", "g", "--id", "p:[01].png", cwd=tmp_path)
    for arguments, message in (
        ((), "choose rows by one of --id, --source and --where"),
        (("--source", "x"), "unknown source 'x'"),
    ):
        done = lookalike("remove", "g", *arguments, cwd=tmp_path)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    run("remove", "g", "--source", "p", "--yes", cwd=tmp_path)
    assert json.loads(run("info", "g", "--json", cwd=tmp_path))["sources"] == {}


def test_reasons_of_a_missing_name_are_said(tmp_path: Path, gallery: Gallery) -> None:
    for name in ("café.png", "sub/plage.png", "skip.psd"):
        put(tmp_path / "p" / unicodedata.normalize("NFD", name), PNG)
    rows = ["café.png,1", "sub\\plage.png,2", "sub/plaje.png,3", "skip.psd,4"]
    put(tmp_path / "p" / "METADATA.csv", "\n".join(["path,n", *rows]).encode())
    source = open_source(tmp_path / "p")
    assert Counter(item.metadata.get("n") for item in source) == {1: 1, 2: 1}
    assert [failure.reason for failure in source.problems] == [
        "'sub/plaje.png' is not an image in the folder; did you mean 'sub/plage.png'?"
    ]
    put(tmp_path / "p" / "list.jsonl", b'{"path": "caf\\u00e9.png"}\n{"path": "sub/plaje.png"}')
    report = gallery.sync(tmp_path / "p" / "list.jsonl")
    assert report.added == 1
    [failure] = report.failed
    assert failure.reason.endswith("did you mean 'plage.png'?")
