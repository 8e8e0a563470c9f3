"""Syncing a gallery with its sources: what is read, kept, moved and refused, and crashes."""

from __future__ import annotations

import io
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import BusyError, InputError, SourceError
from lookalike.gallery import ingest, uploads
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.sync import SyncReport
from lookalike.images.decode import content_hash
from lookalike.images.exif import EXIF_COLUMNS
from lookalike.sources import open_source
from lookalike.types import Progress
from tests.integration.test_cli import lookalike, run
from tests.unit.test_decode import stored_as
from tests.unit.test_image_header import photograph

ROUNDS = int(os.environ.get("LOOKALIKE_KILLS", "8"))
"""Each round kills a sync at a random moment; a longer run had 200 rounds."""


def draw(path: Path, number: int) -> None:
    """Write a small image that is unique to this number."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for i in range(12):
        draw(root / f"{'ab'[i % 2]}" / f"{i:02}.png", i)
    return root


@pytest.fixture
def encoder(photos: Path) -> Encoder:
    return open_encoder("color", [item.image() for item in open_source(photos)])


@pytest.fixture
def gallery(photos: Path, encoder: Encoder, tmp_path: Path) -> Gallery:
    created = Gallery.create(tmp_path / "p.gallery", encoder=encoder)
    created.sync(photos)
    return created


def write_label(gallery: Gallery, row_id: str, value: str) -> None:
    """Write a column that comes from no source, as ``label propagate --write`` does."""
    row = gallery.store.get([row_id])
    metadata = [{**row.metadata[0], "mark": value}]
    gallery.upsert(
        replace(row, metadata=metadata), fingerprint=gallery.fingerprint, written={"mark"}
    )


def counts(report: SyncReport) -> tuple[int, int, int, int, int]:
    return (report.added, report.updated, report.moved, report.removed, report.unchanged)


def state(gallery: Gallery) -> list[tuple[object, ...]]:
    """Return all rows without their embeddings."""
    return [
        (r.id, r.uri, tuple(sorted(r.metadata.items())), r.content_hash, r.signature)
        for r in gallery.store.records()
    ]


def test_unchanged_files_are_not_read(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "a" / "00.png").touch()
    hashed: list[int] = []

    def counted_hash(data: bytes) -> str:
        hashed.append(len(data))
        return content_hash(data)

    monkeypatch.setattr(ingest, "content_hash", counted_hash)
    monkeypatch.setattr(ingest, "_encode", None)
    assert counts(gallery.sync(photos)) == (0, 0, 0, 0, 12)
    assert len(hashed) == 1
    assert counts(gallery.sync(photos)) == (0, 0, 0, 0, 12)
    assert len(hashed) == 1


def test_moved_files_keep_their_embedding(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = gallery.store.get(["photos:a/00.png"]).embeddings
    monkeypatch.setattr(ingest, "_encode", None)
    (photos / "a" / "00.png").rename(photos / "b" / "new.png")
    shutil.copy(photos / "b" / "new.png", photos / "b" / "z.png")
    assert counts(gallery.sync(photos)) == (1, 0, 1, 0, 11)
    row = gallery.store.get(["photos:b/new.png"])
    np.testing.assert_array_equal(row.embeddings, before)
    assert row.metadata[0] == {"label": "b"}
    assert len(gallery) == 13


def test_new_metadata_are_stored_without_encoding(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_encode", None)
    (photos / "metadata.csv").write_text("path,year\na/00.png,2020\nnone.png,1\n")
    report = gallery.sync(photos)
    assert counts(report) == (0, 1, 0, 0, 11)
    assert [failure.reason for failure in report.failed] == [
        "'none.png' is not an image in the folder"
    ]
    assert gallery.store.get(["photos:a/00.png"]).metadata == [{"label": "a", "year": 2020}]
    hits = gallery.search(id="photos:a/02.png", k=5, where="year >= 2020")
    assert [hit.id for hit in hits] == ["photos:a/00.png"]


def test_an_unreadable_image_keeps_its_row_and_is_reported(gallery: Gallery, photos: Path) -> None:
    (photos / "a" / "00.png").write_bytes(b"broken")
    report = gallery.sync(photos)
    assert counts(report) == (0, 0, 0, 0, 11)
    assert [Path(failure.uri).name for failure in report.failed] == ["00.png"]
    assert len(gallery) == 12


def test_rows_in_an_unreadable_folder_stay(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return original(path)

    (photos / "b" / "01.png").unlink()
    monkeypatch.setattr(os, "scandir", scandir)
    report = gallery.sync(photos)
    assert counts(report) == (0, 0, 0, 1, 5)
    assert [Path(failure.uri).name for failure in report.failed] == ["a"]
    assert len(gallery) == 11


def test_an_empty_source_is_refused_without_allow_removals(gallery: Gallery, photos: Path) -> None:
    shutil.rmtree(photos)
    with pytest.raises(SourceError, match="no such file or folder"):
        gallery.sync(photos)
    photos.mkdir()
    with pytest.raises(SourceError, match="no image files"):
        gallery.sync(photos)
    assert len(gallery) == 12
    assert gallery.sync(photos, allow_removals=True).removed == 12
    assert len(gallery) == 0


def test_a_dry_run_counts_the_same_and_changes_nothing(gallery: Gallery, photos: Path) -> None:
    draw(photos / "a" / "new.png", 50)
    draw(photos / "a" / "02.png", 51)
    (photos / "b" / "01.png").rename(photos / "a" / "moved.png")
    (photos / "b" / "03.png").unlink()
    before = sorted(path for path in gallery.path.rglob("*") if path.name != "writing.lock")
    report = gallery.sync(photos, dry_run=True)
    assert counts(report) == (1, 1, 1, 1, 9)
    assert sorted(path for path in gallery.path.rglob("*") if path.name != "writing.lock") == before
    assert counts(gallery.sync(photos)) == counts(report)


def test_relocate_updates_a_moved_source(
    gallery: Gallery, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(photos, new)
    source = open_source(new, name="photos")
    with pytest.raises(SourceError, match="if that has moved here, set relocate"):
        gallery.sync(source)  # the source is still where it was
    with pytest.raises(
        SourceError, match=r"no source 'pictures' to relocate \(its sources: photos\)"
    ):
        gallery.sync(new, relocate=True)
    monkeypatch.setattr(ingest, "_encode", None)
    assert counts(gallery.sync(source, relocate=True)) == (0, 0, 0, 0, 12)
    assert gallery.sources == {"photos": str(new)}
    assert {Path(record.uri).parents[1] for record in gallery.store.records()} == {new}
    assert counts(gallery.sync(source)) == (0, 0, 0, 0, 12)


def test_a_renamed_folder_is_recognized_by_its_images(
    gallery: Gallery, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_label(gallery, "photos:a/00.png", "mine")
    pictures = tmp_path / "pictures"
    photos.rename(pictures)
    (pictures / "a" / "02.png").unlink()
    draw(pictures / "a" / "new.png", 40)
    os.utime(pictures / "a" / "00.png", (1, 1))
    before = gallery.sync(pictures, dry_run=True)
    assert (counts(before), before.relocated) == ((1, 0, 0, 1, 11), str(photos))
    assert gallery.sources == {"photos": str(photos)}
    report = gallery.sync(pictures)
    assert (counts(report), report.relocated) == ((1, 0, 0, 1, 11), str(photos))
    assert gallery.sources == {"photos": str(pictures)}
    assert {record.id.partition(":")[0] for record in gallery.store.records()} == {"photos"}
    assert gallery.store.get(["photos:a/00.png"]).metadata[0]["mark"] == "mine"
    again = gallery.sync(pictures)  # under the name that it has in the gallery
    assert (counts(again), again.relocated) == ((0, 0, 0, 0, 12), "")
    pictures.rename(photos)
    assert gallery.sync(photos).relocated == str(pictures)


def test_a_moved_source_keeps_its_options_beside_new_ones(gallery: Gallery, photos: Path) -> None:
    options = {"window": [0, 4095], "exclude": ["nothing"]}
    gallery.sync(gallery.open_source(photos, options=options))
    moved = photos.rename(photos.with_name("moved"))
    report = gallery.sync(gallery.open_source(moved, options={"exclude": ["*.gif"]}))
    assert report.relocated == str(photos)
    assert gallery.source_options[photos.name] == {"window": [0, 4095], "exclude": ["*.gif"]}


def test_a_moved_source_is_recognized_by_the_images_that_its_options_take(
    gallery: Gallery, photos: Path
) -> None:
    for number in range(40):
        draw(photos / "thumbs" / f"{number}.bmp", 100 + number)
    gallery.sync(gallery.open_source(photos, options={"include": ["*.png"]}))
    moved = photos.rename(photos.with_name("moved"))
    report = gallery.sync(moved)
    assert report.relocated == str(photos)
    assert counts(report) == (0, 0, 0, 0, 12)
    assert gallery.sources == {photos.name: str(moved)}


def test_files_that_are_all_renamed_have_moved(gallery: Gallery, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    write_label(gallery, gallery.store.ids()[0], "kept")
    for file in files:
        file.rename(file.with_name(file.name.upper()))
    report = gallery.sync(photos)
    assert counts(report) == (0, 0, len(files), 0, 0)
    assert [record.metadata.get("mark") for record in gallery.store.records()].count("kept") == 1


def test_labels_follow_the_contents_of_files_that_are_swapped(
    gallery: Gallery, photos: Path
) -> None:
    first, second = sorted(photos.rglob("*.png"))[:2]
    ids = [f"{photos.name}:{file.relative_to(photos)}" for file in (first, second)]
    for row_id in ids:
        write_label(gallery, row_id, row_id)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert gallery.sync(photos, rehash=True).updated == 2
    assert [gallery.store.get([row_id]).metadata[0]["mark"] for row_id in ids] == ids[::-1]


def test_rows_behind_a_link_that_leads_nowhere_now_stay(
    gallery: Gallery, photos: Path, tmp_path: Path
) -> None:
    folder = next(each for each in photos.iterdir() if each.is_dir())
    drive = folder.rename(tmp_path / "drive")
    folder.symlink_to(drive)
    assert gallery.sync(photos).unchanged == 12
    drive.rename(tmp_path / "unmounted")
    report = gallery.sync(photos)
    assert report.removed == 0
    assert report.kept
    assert report.skipped[0].reason == "broken link"
    folder.unlink()
    assert gallery.sync(photos, allow_removals=True).removed == report.kept


def test_other_images_are_not_taken_for_a_source_that_is_gone(
    gallery: Gallery, photos: Path, tmp_path: Path
) -> None:
    photos.rename(tmp_path / "kept")
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "kept" / "a", other / "a")  # six of twelve: a part, not the whole
    draw(other / "new.png", 50)
    assert counts(gallery.sync(other)) == (7, 0, 0, 0, 0)
    assert set(gallery.sources) == {"photos", "other"}
    with pytest.raises(SourceError, match=r"no such file or folder.*lookalike remove .*photos"):
        gallery.sync(photos)
    shutil.move(tmp_path / "kept", tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="set relocate=True and name=photos"):
        gallery.sync(open_source(tmp_path / "elsewhere", name="chosen"))
    assert gallery.remove_rows(source="photos") == 12
    assert counts(gallery.sync(open_source(tmp_path / "elsewhere", name="chosen")))[0] == 12


def test_overlapping_sources_are_refused(gallery: Gallery, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    assert counts(gallery.sync(tmp_path / "link" / ".." / "photos")) == (0, 0, 0, 0, 12)
    for again in (photos / "a", tmp_path, open_source(photos, name="again")):
        with pytest.raises(SourceError, match="its images would be indexed twice"):
            gallery.sync(again)
    assert counts(gallery.sync(tmp_path / "link"))[-1] == 12
    assert len(gallery) == 12


def upload(gallery: Gallery, name: str, metadata: dict[str, Any] | None = None) -> str:
    """Add an image through another opened gallery; return its id."""
    other = Gallery.open(gallery.path)
    image = np.full((8, 8, 3), sum(name.encode()) % 256, np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    vector = other.encoder.encode([image])
    uploads.put(other, name, file.getvalue(), vector, metadata or {}, other.fingerprint)
    return f"api:{name}"


def test_what_people_set_stays_with_an_image(gallery: Gallery, photos: Path) -> None:
    """It wins over the source, moves with the file, and can be taken back."""
    photo = "photos:a/00.png"
    assert gallery[photo].metadata == {"label": "a"}
    changed = gallery.update_metadata(photo, {"label": "cat", "stars": 5})
    edited = {"label": "a", "stars": None}
    assert changed == {"label": "cat", "stars": 5, "edited_columns": edited}
    assert gallery.select(where="edited_columns is not null") == [photo]
    assert "edited_columns" not in [facet.column for facet in gallery.browse().facets()]
    assert counts(gallery.sync(photos)) == (0, 0, 0, 0, 12)
    assert counts(gallery.sync(photos, rehash=True)) == (0, 0, 0, 0, 12)
    assert gallery[photo].metadata == changed

    (photos / "metadata.csv").write_text("path,label,year\na/00.png,dog,2020\n")
    gallery.sync(photos)  # of the source, what was set stays, and the rest follows
    edited = {"label": "dog", "stars": None}
    changed = {"label": "cat", "stars": 5, "year": 2020, "edited_columns": edited}
    assert gallery[photo].metadata == changed
    assert gallery["photos:a/02.png"].metadata == {"label": "a"}

    (photos / "metadata.csv").unlink()
    (photos / "a" / "00.png").rename(photos / "b" / "00.png")
    assert counts(gallery.sync(photos)) == (0, 0, 1, 0, 11)
    photo = "photos:b/00.png"
    edited = {"label": "b", "stars": None}
    assert gallery[photo].metadata == {"label": "cat", "stars": 5, "edited_columns": edited}

    (photos / "b" / "00.png").rename(photos.parent / "away.png")
    assert gallery.sync(photos).removed == 1
    (photos.parent / "away.png").rename(photos / "b" / "back.png")
    assert gallery.sync(photos).added == 1
    photo = "photos:b/back.png"
    assert gallery[photo].metadata == {"label": "cat", "stars": 5, "edited_columns": edited}

    assert gallery.update_metadata(photo, {"label": None, "nosuch": None}) == {
        "label": "b",
        "stars": 5,
        "edited_columns": {"stars": None},
    }
    assert gallery.update_metadata(photo, {"stars": None}) == {"label": "b"}
    assert gallery.update_metadata(photo, {"label": None}) == {"label": "b"}  # the source's own
    assert counts(gallery.sync(photos)) == (0, 0, 0, 0, 12)


def test_another_image_has_nothing_of_what_people_set(gallery: Gallery, photos: Path) -> None:
    gallery.update_metadata("photos:a/00.png", {"label": "cat"})
    draw(photos / "a" / "00.png", 99)
    gallery.sync(photos)
    assert gallery["photos:a/00.png"].metadata == {"label": "a"}


def test_propagated_labels_are_corrected(gallery: Gallery, photos: Path) -> None:
    """Columns that come from no source need no note of what the source has in them."""
    write_label(gallery, "photos:a/00.png", "wrong")
    gallery.update_metadata("photos:a/00.png", {"mark": "right"})
    gallery.sync(photos)
    assert gallery["photos:a/00.png"].metadata == {"label": "a", "mark": "right"}
    gallery.update_metadata("photos:a/00.png", {"mark": None})
    gallery.sync(photos)
    assert gallery["photos:a/00.png"].metadata == {"label": "a"}


def test_what_is_set_or_taken_back_during_a_sync_counts(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 1)
    gallery.update_metadata("photos:a/00.png", {"label": "cat"})
    (photos / "metadata.csv").write_text("path,n\na/00.png,1\na/02.png,1\n")

    def change(progress: Progress) -> None:
        if progress.done == 0:
            other = Gallery.open(gallery.path)
            other.update_metadata("photos:a/00.png", {"label": None})
            other.update_metadata("photos:a/02.png", {"label": "dog"})

    gallery.sync(photos, progress=change)
    assert gallery["photos:a/00.png"].metadata == {"label": "a", "n": 1}
    assert gallery["photos:a/02.png"].metadata == {
        "label": "dog",
        "n": 1,
        "edited_columns": {"label": "a"},
    }


def test_an_exported_gallery_is_a_source_like_others(
    gallery: Gallery, photos: Path, tmp_path: Path
) -> None:
    gallery.update_metadata("photos:a/00.png", {"label": "cat"})
    table = tmp_path / "exported.jsonl"
    rows = [{"path": "photos/a/00.png", **gallery["photos:a/00.png"].metadata}]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = Gallery.create(tmp_path / "other.gallery", encoder=gallery.encoder)
    other.sync(table)
    [row_id] = other
    assert other[row_id].metadata == {"label": "cat"}


def skipped(report: SyncReport) -> dict[str, int]:
    return {each.reason: each.count for each in report.skipped}


REMOVED = "removed from the gallery before"


def test_removed_images_are_left_out_until_they_are_restored(
    gallery: Gallery, photos: Path
) -> None:
    gallery.remove(["photos:a/00.png", "photos:b/01.png"])
    assert gallery.info()["removed"] == 2
    for _ in range(2):
        report = gallery.sync(photos)
        assert counts(report) == (0, 0, 0, 0, 10)
        assert skipped(report) == {REMOVED: 2}
    assert report.skipped[0].example == "a/00.png"
    assert "--restore-removed" in str(report.skipped[0].hint)
    assert counts(gallery.sync(photos, restore_removed=True, dry_run=True)) == (2, 0, 0, 0, 10)
    assert counts(gallery.sync(photos)) == (0, 0, 0, 0, 10)
    assert counts(gallery.sync(photos, restore_removed=True)) == (2, 0, 0, 0, 10)
    report = gallery.sync(photos)
    assert (counts(report), skipped(report)) == ((0, 0, 0, 0, 12), {})
    assert "removed" not in gallery.info()


def test_removed_images_are_left_out_where_they_have_moved_to(
    gallery: Gallery, photos: Path
) -> None:
    gallery.remove("photos:a/00.png")
    shutil.copy(photos / "a" / "00.png", photos / "b" / "copy.png")
    assert counts(gallery.sync(photos)) == (1, 0, 0, 0, 11)  # a copy, beside the removed file
    gallery.remove("photos:b/copy.png")
    (photos / "b" / "copy.png").unlink()
    (photos / "a" / "00.png").rename(photos / "b" / "new.png")
    for _ in range(2):
        report = gallery.sync(photos)
        assert (counts(report), skipped(report)) == ((0, 0, 0, 0, 11), {REMOVED: 1})
    assert gallery.removed["photos"].keys() == {"photos:b/new.png"}


def test_removed_images_are_forgotten_with_their_files(gallery: Gallery, photos: Path) -> None:
    gallery.remove("photos:a/00.png")
    (photos / "a" / "00.png").rename(photos.parent / "away.png")
    assert skipped(gallery.sync(photos)) == {}
    assert not gallery.removed
    (photos.parent / "away.png").rename(photos / "a" / "00.png")
    assert counts(gallery.sync(photos)) == (1, 0, 0, 0, 11)


def test_a_source_that_is_removed_comes_back_with_all_images(
    gallery: Gallery, photos: Path
) -> None:
    gallery.remove("photos:a/00.png")
    gallery.remove_rows(source="photos")
    assert counts(gallery.sync(photos)) == (12, 0, 0, 0, 0)


def test_removed_images_are_left_out_of_copies(
    gallery: Gallery, photos: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied.gallery"
    gallery.copy_to(copied)
    gallery.remove("photos:a/00.png")
    gallery.copy_to(copied, allow_removals=True)
    assert skipped(Gallery.open(copied).sync(photos)) == {REMOVED: 1}
    gallery.sync(photos, restore_removed=True)
    gallery.copy_to(copied)
    assert not Gallery.open(copied).removed


def test_the_command_line_says_what_is_left_out(gallery: Gallery, photos: Path) -> None:
    path = str(gallery.path)
    answer = lookalike("remove", path, "--id", "photos:a/*", "--yes")
    assert f"to add them again: lookalike index {path} --restore-removed" in answer.stderr
    answer = lookalike("index", path, photos)
    assert f"skipped: 6  {REMOVED}" in answer.stderr
    assert re.search(r"removed +6\n", run("info", path))
    draw(photos.parent / "more" / "a.png", 77)
    run("index", path, photos.parent / "more")
    run("remove", path, "--id", "more:a.png")
    run("index", path, "--restore-removed")  # of all sources
    assert len(gallery) == 13


@pytest.fixture
def taken(photos: Path) -> Path:
    """Photographs by a camera, two of the images of a folder."""
    for name, iso in (("a/00.jpg", 200), ("b/01.jpg", 1_600)):
        (photos / name).write_bytes(photograph("JPEG", **{"8827": iso}))
    return photos


def columns(gallery: Gallery, row_id: str) -> set[str]:
    return set(gallery[row_id].metadata) - {"label"}


def test_exif_becomes_metadata_without_encoding_again(
    taken: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = Gallery.create(tmp_path / "e.gallery", encoder=encoder)
    gallery.sync(taken)
    assert columns(gallery, "photos:a/00.jpg") == set()
    monkeypatch.setattr(ingest, "_encode", None)
    options: dict[str, Any] = {"exif": True}
    assert counts(gallery.sync(gallery.open_source(taken, options=options))) == (0, 14, 0, 0, 0)
    assert columns(gallery, "photos:a/00.jpg") == set(EXIF_COLUMNS)  # not where it was taken
    assert columns(gallery, "photos:a/00.png") == {"width", "height"}
    assert gallery.select(where="iso > 800 and aperture < 4") == ["photos:b/01.jpg"]
    assert gallery["photos:b/01.jpg"].metadata["date_taken"] == "2023-07-14T18:30:05"

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "read_header", None)  # unchanged files are not read again
        assert counts(gallery.sync(taken)) == (0, 0, 0, 0, 14)
    assert counts(gallery.sync(taken, rehash=True)) == (0, 0, 0, 0, 14)
    (taken / "a" / "00.jpg").rename(taken / "b" / "00.jpg")
    assert counts(gallery.sync(taken)) == (0, 0, 1, 0, 13)
    assert columns(gallery, "photos:b/00.jpg") == set(EXIF_COLUMNS)

    options = {"gps": True}
    assert gallery.sync(gallery.open_source(taken, options=options)).updated == 2
    assert gallery["photos:b/00.jpg"].metadata["latitude"] == -33.8569
    assert gallery.source_options == {"photos": {"exif": True, "gps": True}}
    options = {"exif": False, "gps": False}
    assert gallery.sync(gallery.open_source(taken, options=options)).updated == 14
    assert columns(gallery, "photos:b/00.jpg") == set()


def test_a_metadata_file_and_people_win_over_exif(
    taken: Path, encoder: Encoder, tmp_path: Path
) -> None:
    gallery = Gallery.create(tmp_path / "e.gallery", encoder=encoder)
    photo, table = "photos:a/00.jpg", taken / "metadata.csv"

    def sync() -> Any:
        gallery.sync(gallery.open_source(taken, options={"exif": True}))
        return gallery[photo].metadata

    assert sync()["iso"] == 200
    table.write_text("path,iso,lens\na/00.jpg,400,mine\n")
    assert (sync()["iso"], sync()["lens"], sync()["aperture"]) == (400, "mine", 2.8)
    table.write_text("path,iso\na/00.jpg,400\n")
    assert (sync()["iso"], sync()["lens"]) == (400, "RF50mm F1.8 STM")
    gallery.update_metadata(photo, {"aperture": 4, "iso": 50})
    assert (sync()["iso"], sync()["aperture"]) == (50, 4)
    table.unlink()
    assert sync()["edited_columns"] == {"aperture": 2.8, "iso": 200}
    assert gallery.update_metadata(photo, {"aperture": None, "iso": None})["iso"] == 200
    assert (sync()["iso"], sync()["aperture"]) == (200, 2.8)


def test_dates_of_files_stay_where_options_are_kept_in_rows(
    taken: Path, encoder: Encoder, tmp_path: Path
) -> None:
    """The time of a file is read from the signature of its row, whatever else is in it."""
    gallery = Gallery.create(tmp_path / "e.gallery", encoder=encoder)
    gallery.sync(gallery.open_source(taken, options={"gps": True, "window": [0, 200]}))
    os.utime(taken / "b" / "11.png", (1, 1))
    gallery.sync(taken)
    assert gallery.browse(sort="date").ids(slice(1)) == ["photos:b/11.png"]


def test_the_command_line_adds_exif(taken: Path, encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "e.gallery"
    run("index", path, taken, "--encoder", "color", "--exif")
    run("index", path)
    hits = json.loads(run("search", path, "--where", "iso > 800", "--json"))
    assert [hit["id"] for hit in hits["hits"]] == ["photos:b/01.jpg"]
    assert Gallery.open(path).browse(sort="-date").ids(slice(2)) == [
        *("photos:a/00.jpg", "photos:b/01.jpg"),
    ]
    answer = lookalike("index", tmp_path / "d.gallery", "dataset:digits/test", "--exif")
    assert "--exif is for image files" in answer.stderr


def test_a_second_sync_is_refused_while_readers_and_other_writers_continue(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_LOCK_WAIT", "0")
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 1)
    monkeypatch.setattr(ingest.ThreadRunner, "chunk_size", 4)
    for i in range(12, 24):
        draw(photos / "c" / f"{i}.png", i)
    reader = Gallery.open(gallery.path)
    assert len(reader) == 12
    observed: list[tuple[int, int]] = []

    def observe(progress: Progress) -> None:
        with pytest.raises(BusyError, match="is being written by another process"):
            Gallery.open(gallery.path).sync(photos)
        if not observed:
            done = lookalike("index", gallery.path, photos)
            assert done.returncode == 2
            assert "is being written by another process" in done.stderr
        upload(gallery, f"u{progress.done}")
        observed.append((len(reader), len(reader.search(id="photos:a/00.png", k=50))))

    gallery.sync(photos, progress=observe)
    assert len(gallery) == 24 + len(observed)
    assert all(rows - 1 == hits for rows, hits in observed)
    assert len(set(observed)) > 2
    assert gallery.sources.keys() == {"photos", "api"}


def test_what_others_write_during_a_sync_is_kept(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels written meanwhile stay with rows whose metadata change, removed rows stay removed."""
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 1)
    monkeypatch.setattr(ingest.ThreadRunner, "chunk_size", 4)
    ids = [record.id for record in gallery.store.records()]
    (photos / "metadata.csv").write_text(
        "path,n\n" + "".join(f"{each.partition(':')[2]},1\n" for each in ids)
    )
    draw(photos / "a" / "00.png", 99)

    def write(progress: Progress) -> None:
        if progress.done == 0:
            other = Gallery.open(gallery.path)
            rows = other.store.get(ids)
            labeled = [{**old, "species": "cat"} for old in rows.metadata]
            other.upsert(
                replace(rows, metadata=labeled),
                fingerprint=other.fingerprint,
                written=frozenset({"species"}),
            )
            assert other.remove(ids[1:2]) == 1

    report = gallery.sync(photos, progress=write)
    assert not report.failed
    now = {record.id: record.metadata for record in gallery.store.records()}
    assert now.keys() == {*ids} - {ids[1]}
    assert all(metadata["n"] == 1 for metadata in now.values())
    assert "species" not in now[ids[0]]  # which has another image now
    assert all(now[row_id]["species"] == "cat" for row_id in ids[2:])
    assert [*gallery.archive.values()] == [{"species": "cat"}] * 2


def test_a_source_that_is_removed_during_its_sync_stays_removed(
    gallery: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 1)
    draw(photos / "a" / "new.png", 50)

    def remove(progress: Progress) -> None:
        if progress.done == 0:
            Gallery.open(gallery.path).remove_rows(source="photos")

    with pytest.raises(SourceError, match="was removed from the gallery while it was indexed"):
        gallery.sync(photos, progress=remove)
    assert len(gallery) == 0
    assert "photos" not in gallery.sources


CHILD = """
import sys
from lookalike.gallery import ingest, uploads
from lookalike.gallery.gallery import Gallery
ingest.BATCH_IMAGES, ingest.ThreadRunner.chunk_size = 20, 10
commit = ingest.commit
def commit_and_print(done, store):
    commit(done, store)
    print(" ".join(each.id for each in done), flush=True)
ingest.commit = commit_and_print
Gallery.open(sys.argv[1]).sync(sys.argv[2])
"""


def test_a_killed_sync_resumes_without_loss(tmp_path: Path, photos: Path) -> None:
    rng = random.Random(0)
    for i in range(12, 300):
        draw(photos / "c" / f"{i}.png", i)
    encoder = open_encoder("color", [item.image() for item in open_source(photos)])
    whole = Gallery.create(tmp_path / "whole.gallery", encoder=encoder)
    whole.sync(photos)
    expected = state(whole)
    lost = doubled = finished = 0
    target = tmp_path / "killed.gallery"
    for _ in range(ROUNDS):
        if not target.exists():
            Gallery.create(target, encoder=encoder)
        command = [sys.executable, "-c", CHILD, str(target), str(photos)]
        acknowledged = set()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = rng.randrange(15)
            for _ in range(lines):
                acknowledged.update(child.stdout.readline().split())
            time.sleep(rng.random() * 0.02)
            child.kill()
            acknowledged.update(child.stdout.read().split())
        ids = [record.id for record in Gallery.open(target).store.records()]
        lost += len(acknowledged - set(ids))
        doubled += len(ids) - len(set(ids))
        if len(ids) == len(expected):
            finished += 1
            gallery = Gallery.open(target)
            assert gallery.sync(photos).added == 0
            assert state(gallery) == expected
            shutil.rmtree(target)
    assert (lost, doubled) == (0, 0)
    assert finished >= 1
    gallery = Gallery.open(target) if target.exists() else Gallery.create(target, encoder=encoder)
    gallery.sync(photos)
    assert state(gallery) == expected
    rows = [record.id for record in gallery.store.records()]
    np.testing.assert_allclose(
        gallery.store.get(rows).embeddings, whole.store.get(rows).embeddings, atol=1e-6
    )


def test_filters_and_distance_limits(gallery: Gallery, photos: Path) -> None:
    hits = gallery.search(id="photos:a/00.png", k=20, where={"label": "b"})
    assert {hit.metadata["label"] for hit in hits} == {"b"}
    assert len(hits) == 6
    everything = gallery.search(id="photos:a/00.png", k=20)
    limit = everything[3].distance
    near = gallery.search(id="photos:a/00.png", k=20, max_distance=limit)
    assert [hit.id for hit in near] == [hit.id for hit in everything[:4]]
    with pytest.raises(InputError, match="no column 'lable': did you mean 'label'"):
        gallery.search(id="photos:a/00.png", where="lable = 'a'")


def test_index_and_search_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    dry = json.loads(run("index", "g", "photos", "--dry-run", "--json", cwd=tmp_path))
    assert dry["added"] == 12
    assert not (tmp_path / "g").exists()
    run("index", "g", "photos", "--encoder", "color", cwd=tmp_path)
    draw(photos / "a" / "new.png", 70)
    output = run("index", "g", "photos", "--dry-run", cwd=tmp_path)
    assert "12 rows; dry run, nothing written: 1 added" in output
    (tmp_path / "photos").rename(tmp_path / "fotos")
    moved = run(*("index", "g", "fotos", "--name", "photos", "--relocate", "--json"), cwd=tmp_path)
    assert json.loads(moved)["unchanged"] == 12
    query = "fotos/a/00.png"
    options = ("--where", "label = 'a'", "--min-similarity", "0.9999", "--include-self", "--json")
    hits = json.loads(run("search", "g", query, *options, cwd=tmp_path))["hits"]
    assert [hit["id"] for hit in hits] == ["photos:a/00.png"]
    for arguments, message in (
        (("--min-similarity", "2"), "--min-similarity 2 must be from -1 to 1"),
        (("--min-similarity", "0", "--max-distance", "1"), "exclude each other"),
        (
            ("--min-similarity", "0", "--metric", "l2"),
            "--min-similarity needs the cosine metric; for l2 use --max-distance",
        ),
        (("--max-distance", "-1"), "--max-distance -1 must be at least 0"),
        (("--where", "label = "), "filter, character 8: expected a text"),
    ):
        done = lookalike("search", "g", query, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr


def read_lines(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)


def test_watch_indexes_changes(photos: Path, tmp_path: Path) -> None:
    """The gallery is inside the folder; its own files are not changes."""
    command = [sys.executable, "-m", "lookalike", "index", "photos/g", "photos", "--watch"]
    with subprocess.Popen(
        [*command, "--json", "--encoder", "color"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=read_lines, args=(child.stdout, lines))
        reader.start()
        try:
            assert json.loads(lines.get(timeout=120))["added"] == 12
            draw(photos / "a" / "new.png", 70)
            assert json.loads(lines.get(timeout=120))["added"] == 1
            (photos / "a" / "new.png").unlink()
            assert json.loads(lines.get(timeout=120))["removed"] == 1
            with pytest.raises(queue.Empty):
                lines.get(timeout=4)
        finally:
            child.kill()
            reader.join()
    assert len(Gallery.open(photos / "g")) == 12


@pytest.mark.parametrize("encoder_name", ["color", "hog-fine"])
def test_all_formats_and_orientations_give_the_same_embedding(
    tmp_path: Path, encoder_name: str
) -> None:
    """Eight orientations, three formats; color, gray and 16 bits."""
    rng = np.random.default_rng(0)
    root = tmp_path / "variants"
    for i in range(30):  # others, for an encoder that learns
        draw(root / "others" / f"{i}.png", i)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    color = np.asarray(Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC))
    gray = np.asarray(ImageOps.autocontrast(Image.fromarray(color).convert("L")))
    lossless: dict[str, list[str]] = {"color": [], "gray": []}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, array in (("color", color), ("gray", gray)):
            stored = Image.fromarray(stored_as(array, orientation))
            folder = root / kind
            folder.mkdir(parents=True, exist_ok=True)
            stored.save(folder / f"{orientation}.png", exif=exif)
            stored.save(folder / f"{orientation}.webp", exif=exif, lossless=True)
            stored.save(folder / f"{orientation}.jpg", exif=exif, quality=95)
            lossless[kind] += [f"variants:{kind}/{orientation}.{s}" for s in ("png", "webp")]
        deep = Image.fromarray(stored_as(gray, orientation).astype(np.uint16) * 257)
        deep.save(root / "gray" / f"{orientation}-16.png", exif=exif)
        lossless["gray"].append(f"variants:gray/{orientation}-16.png")
    sample = [item.image() for item in open_source(root)]
    gallery = Gallery.create(tmp_path / "g", encoder=open_encoder(encoder_name, sample))
    gallery.sync(root)
    for kind, ids in lossless.items():
        rows = gallery.store.get(ids).embeddings.astype(float)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        assert (unit @ unit.T).min() > 0.999
        every = {record.id for record in gallery.store.records() if f":{kind}/" in record.id}
        for path in sorted((root / kind).iterdir()):
            hits = gallery.search(path, k=len(every))
            assert hits[0].distance < 1e-6
            assert {hit.id for hit in hits} == every
