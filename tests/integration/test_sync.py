"""Keeping a gallery in step with its sources: what is read, kept, moved, refused, and survives."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import InputError, SourceError, StorageError
from lookalike.gallery import ingest
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.sync import SyncReport
from lookalike.sources import open_source
from lookalike.types import Progress
from tests.integration.test_cli import lookalike, run
from tests.unit.test_decode import undone

ROUNDS = int(os.environ.get("LOOKALIKE_KILLS", "20"))
"""Each kills a sync at a moment of its own; 200 were done by hand."""


def draw(path: Path, number: int) -> None:
    """Write a small image that no other number has."""
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
def made(photos: Path, encoder: Encoder, tmp_path: Path) -> Gallery:
    gallery = Gallery.create(tmp_path / "p.gallery", encoder=encoder)
    gallery.sync(photos)
    return gallery


def counts(report: SyncReport) -> tuple[int, int, int, int, int]:
    return (report.added, report.updated, report.moved, report.removed, report.unchanged)


def state(gallery: Gallery) -> list[tuple[object, ...]]:
    """Return all that rows hold but their embeddings."""
    return [
        (r.id, r.uri, tuple(sorted(r.metadata.items())), r.content_hash, r.signature)
        for r in gallery.store.records()
    ]


def test_unchanged_files_are_not_even_read(
    made: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "a" / "00.png").touch()
    hashed: list[int] = []
    whole = ingest.content_hash
    monkeypatch.setattr(
        ingest, "content_hash", lambda data: hashed.append(len(data)) or whole(data)
    )
    monkeypatch.setattr(ingest, "_encoded", None)
    assert counts(made.sync(photos)) == (0, 0, 0, 0, 12)
    assert len(hashed) == 1
    assert counts(made.sync(photos)) == (0, 0, 0, 0, 12)
    assert len(hashed) == 1


def test_a_moved_file_takes_its_embedding_along(
    made: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.store.get(["photos:a/00.png"]).embeddings
    monkeypatch.setattr(ingest, "_encoded", None)
    (photos / "a" / "00.png").rename(photos / "b" / "new.png")
    shutil.copy(photos / "b" / "new.png", photos / "b" / "z.png")
    assert counts(made.sync(photos)) == (1, 0, 1, 0, 11)
    row = made.store.get(["photos:b/new.png"])
    np.testing.assert_array_equal(row.embeddings, before)
    assert row.metadata[0] == {"label": "b"}
    assert len(made) == 13


def test_new_metadata_reach_the_rows_without_encoding(
    made: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_encoded", None)
    (photos / "metadata.csv").write_text("path,year\na/00.png,2020\nnone.png,1\n")
    report = made.sync(photos)
    assert counts(report) == (0, 1, 0, 0, 11)
    assert [failure.reason for failure in report.failed] == [
        "names 'none.png', which is not in the folder"
    ]
    assert made.store.get(["photos:a/00.png"]).metadata == [{"label": "a", "year": 2020}]
    hits = made.search(id="photos:a/02.png", k=5, where="year >= 2020")
    assert [hit.id for hit in hits] == ["photos:a/00.png"]


def test_an_image_that_breaks_keeps_its_row_and_is_named(made: Gallery, photos: Path) -> None:
    (photos / "a" / "00.png").write_bytes(b"broken")
    report = made.sync(photos)
    assert counts(report) == (0, 0, 0, 0, 11)
    assert [Path(failure.uri).name for failure in report.failed] == ["00.png"]
    assert len(made) == 12


def test_rows_below_a_folder_that_cannot_be_read_stay(
    made: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    (photos / "b" / "01.png").unlink()
    monkeypatch.setattr(os, "scandir", scandir)
    report = made.sync(photos)
    assert counts(report) == (0, 0, 0, 1, 5)
    assert [Path(failure.uri).name for failure in report.failed] == ["a"]
    assert len(made) == 11


def test_an_emptied_root_is_refused_without_a_word(made: Gallery, photos: Path) -> None:
    shutil.rmtree(photos)
    with pytest.raises(SourceError, match="no such file or folder"):
        made.sync(photos)
    photos.mkdir()
    with pytest.raises(SourceError, match="no image files"):
        made.sync(photos)
    assert len(made) == 12
    assert made.sync(photos, allow_removals=True).removed == 12
    assert len(made) == 0


def test_a_dry_run_says_the_same_and_changes_nothing(made: Gallery, photos: Path) -> None:
    draw(photos / "a" / "new.png", 50)
    draw(photos / "a" / "02.png", 51)
    (photos / "b" / "01.png").rename(photos / "a" / "moved.png")
    (photos / "b" / "03.png").unlink()
    before = sorted(path for path in made.path.rglob("*") if path.name != "writing.lock")
    said = made.sync(photos, dry_run=True)
    assert counts(said) == (1, 1, 1, 1, 9)
    assert sorted(path for path in made.path.rglob("*") if path.name != "writing.lock") == before
    assert counts(made.sync(photos)) == counts(said)


def test_a_moved_collection_is_rerooted(
    made: Gallery, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "elsewhere" / "pictures"
    new.parent.mkdir()
    photos.rename(new)
    source = open_source(new, name="photos")
    with pytest.raises(SourceError, match="if that has moved here, set relocate"):
        made.sync(source)
    with pytest.raises(SourceError, match="no source called 'pictures', only photos"):
        made.sync(new, relocate=True)
    monkeypatch.setattr(ingest, "_encoded", None)
    assert counts(made.sync(source, relocate=True)) == (0, 0, 0, 0, 12)
    assert made.sources == {"photos": str(new)}
    assert {Path(record.uri).parents[1] for record in made.store.records()} == {new}
    assert counts(made.sync(source)) == (0, 0, 0, 0, 12)


def test_one_folder_does_not_come_twice(made: Gallery, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    assert counts(made.sync(tmp_path / "link" / ".." / "photos")) == (0, 0, 0, 0, 12)
    for again in (photos / "a", tmp_path, open_source(photos, name="again")):
        with pytest.raises(SourceError, match="its images would be indexed twice"):
            made.sync(again)
    assert counts(made.sync(tmp_path / "link"))[-1] == 12
    assert len(made) == 12


def test_a_second_writer_is_refused_and_readers_go_on(
    made: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 1)
    monkeypatch.setattr(ingest.ThreadRunner, "chunk_size", 4)
    for i in range(12, 24):
        draw(photos / "c" / f"{i}.png", i)
    reader = Gallery.open(made.path)
    assert len(reader) == 12
    seen = []

    def look(_: Progress) -> None:
        with pytest.raises(StorageError, match="is being written by another process"):
            Gallery.open(made.path).sync(photos)
        done = lookalike("index", made.path, photos)
        assert done.returncode == 2
        assert "is being written by another process" in done.stderr
        seen.append((len(reader), len(reader.search(id="photos:a/00.png", k=50))))

    made.sync(photos, on_progress=look)
    assert seen[-1] == (24, 23)
    assert all(rows - 1 == hits for rows, hits in seen)
    assert len(set(seen)) > 2


CHILD = """
import sys
from lookalike.gallery import ingest
from lookalike.gallery.gallery import Gallery
ingest.BATCH_IMAGES, ingest.ThreadRunner.chunk_size = 20, 10
commit = ingest.commit
def commit_and_print(done, store):
    commit(done, store)
    print(" ".join(each.id for each in done), flush=True)
ingest.commit = commit_and_print
Gallery.open(sys.argv[1]).sync(sys.argv[2])
"""


def test_killed_at_any_moment_it_ends_the_same(tmp_path: Path, photos: Path) -> None:
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


def test_a_batch_is_on_the_disk_before_it_is_reported(
    made: Gallery, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lance calls no fsync: every file of the table and every folder of it must have had one."""
    monkeypatch.setattr(ingest, "BATCH_IMAGES", 4)
    monkeypatch.setattr(ingest.ThreadRunner, "chunk_size", 4)
    for i in range(12, 30):
        draw(photos / "c" / f"{i}.png", i)
    flushed: dict[str, float] = {}
    whole = os.fsync

    def fsync(descriptor: int) -> None:
        whole(descriptor)
        flushed[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = time.time()

    monkeypatch.setattr(os, "fsync", fsync)
    store = made.path / "store"
    commits = []
    commit = ingest.commit

    def checked(done: list[object], target: object) -> None:
        commit(done, target)
        files = [path for path in store.rglob("*") if path.is_file()]
        assert {str(path) for path in files} <= flushed.keys()
        for path in files:
            assert flushed[str(path.parent)] >= flushed[str(path)]
            assert flushed[str(path)] >= path.stat().st_mtime - 0.02
        commits.append(len(done))

    monkeypatch.setattr(ingest, "commit", checked)
    made = Gallery.open(made.path)
    made.sync(photos)
    assert len(commits) >= 4
    assert str(made.path / "gallery.json").rpartition("/")[0] in flushed
    assert len(made) == 30


def test_filters_and_distances_in_searches(made: Gallery, photos: Path) -> None:
    hits = made.search(id="photos:a/00.png", k=20, where={"label": "b"})
    assert {hit.metadata["label"] for hit in hits} == {"b"}
    assert len(hits) == 6
    everything = made.search(id="photos:a/00.png", k=20)
    limit = everything[3].distance
    near = made.search(id="photos:a/00.png", k=20, max_distance=limit)
    assert [hit.id for hit in near] == [hit.id for hit in everything[:4]]
    with pytest.raises(InputError, match="no column 'lable': did you mean 'label'"):
        made.search(id="photos:a/00.png", where="lable = 'a'")


def test_index_and_search_from_the_shell(photos: Path, tmp_path: Path) -> None:
    dry = json.loads(run("index", "g", "photos", "--dry-run", "--json", cwd=tmp_path))
    assert dry["added"] == 12
    assert not (tmp_path / "g").exists()
    run("index", "g", "photos", "--encoder", "color", cwd=tmp_path)
    draw(photos / "a" / "new.png", 70)
    said = run("index", "g", "photos", "--dry-run", cwd=tmp_path)
    assert "12 rows; nothing was changed; would be: 1 added" in said
    (tmp_path / "photos").rename(tmp_path / "fotos")
    moved = run(*("index", "g", "fotos", "--name", "photos", "--relocate", "--json"), cwd=tmp_path)
    assert json.loads(moved)["unchanged"] == 12
    query = "fotos/a/00.png"
    options = ("--where", "label = 'a'", "--min-score", "0.9999", "--json")
    hits = json.loads(run("search", "g", query, *options, cwd=tmp_path))["hits"]
    assert [hit["id"] for hit in hits] == ["photos:a/00.png"]
    for arguments, said in (
        (("--min-score", "2"), "--min-score 2.0: must be from -1 to 1"),
        (("--min-score", "0", "--max-distance", "1"), "exclude each other"),
        (("--min-score", "0", "--metric", "l2"), "is for cosine"),
        (("--max-distance", "-1"), "must be at least 0"),
        (("--where", "label = "), "filter, character 8: expected a text"),
    ):
        done = lookalike("search", "g", query, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert said in done.stderr


def test_watching_indexes_what_changes(photos: Path, tmp_path: Path) -> None:
    """The gallery lies in the folder itself, and what it writes there is no change."""
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
        reader = threading.Thread(target=lambda: [lines.put(line) for line in child.stdout])
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
def test_one_picture_saved_in_every_way_looks_the_same(tmp_path: Path, encoder_name: str) -> None:
    """Eight orientations, three formats, color, gray and 16 bits: one embedding."""
    rng = np.random.default_rng(0)
    root = tmp_path / "ways"
    for i in range(30):  # others, for an encoder that learns
        draw(root / "others" / f"{i}.png", i)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    color = np.asarray(Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC))
    gray = np.asarray(Image.fromarray(color).convert("L"))
    lossless = {"color": [], "gray": []}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, array in (("color", color), ("gray", gray)):
            stored = Image.fromarray(undone(array, orientation))
            folder = root / kind
            folder.mkdir(parents=True, exist_ok=True)
            stored.save(folder / f"{orientation}.png", exif=exif)
            stored.save(folder / f"{orientation}.webp", exif=exif, lossless=True)
            stored.save(folder / f"{orientation}.jpg", exif=exif, quality=95)
            lossless[kind] += [f"ways:{kind}/{orientation}.{s}" for s in ("png", "webp")]
        deep = Image.fromarray(undone(gray, orientation).astype(np.uint16) * 257)
        deep.save(root / "gray" / f"{orientation}-16.png", exif=exif)
        lossless["gray"].append(f"ways:gray/{orientation}-16.png")
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
