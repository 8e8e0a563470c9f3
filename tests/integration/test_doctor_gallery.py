"""``lookalike doctor GALLERY``: every file of a gallery is checked, and rows can be repaired."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.artifacts import sole_writer
from lookalike.cli.doctor import command
from lookalike.diagnostics import Check, check_gallery
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, BusyError, SettingError
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.storage import LOCK
from lookalike.gallery.uploads import put
from lookalike.sources import open_source
from lookalike.types import Progress
from tests.integration.test_cli import lookalike

FIRST = 12
"""Images of the first commit."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a gallery of three commits: a sync and two uploads."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(FIRST):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    source = open_source(tmp_path / "photos")
    encoder = open_encoder("untrained", [])
    gallery = Gallery.create(tmp_path / "g.gallery", encoder=encoder)
    gallery.sync(source)
    for key in ("x", "y"):
        data = (tmp_path / "photos" / "00.png").read_bytes() + key.encode()
        put(gallery, key, data, encoder.encode([source[0].image()]), {}, encoder.fingerprint)
    return gallery.path


def checks(path: Path, *, deep: bool = False, repair: bool = False) -> dict[str, Check]:
    return {check.name: check for check in check_gallery(str(path), deep=deep, repair=repair)}


def broken(path: Path, *, deep: bool = False) -> dict[str, str]:
    return {name: check.detail for name, check in checks(path, deep=deep).items() if not check.ok}


def change(file: Path, edit: Callable[[bytes], bytes]) -> None:
    file.write_bytes(edit(file.read_bytes()))


def flip(data: bytes) -> bytes:
    """Return bytes with one bit changed, in the middle."""
    changed = bytearray(data)
    changed[len(data) // 3] ^= 1
    return bytes(changed)


def database(path: Path) -> sqlite3.Connection:
    """Return a connection that may change anything."""
    return sqlite3.connect(path / "store" / "rows.db", isolation_level=None)


def test_a_gallery_without_damage(path: Path) -> None:
    for deep in (False, True):
        found = checks(path, deep=deep)
        assert [check.detail for check in found.values() if not check.ok] == []
        assert found["rows"].detail.startswith(f"{FIRST + 2}, revision ")
        tried = "every byte read" if deep else "structure and sizes checked"
        assert found["rows"].tried == tried
        assert found["encoder"].detail == "untrained, 196 dimensions, 1 file, 1 with a checksum"
        assert found["uploads"].detail == "2 images compared with hashes"
        assert found["other files"].detail == "none"
        assert "store files" not in found


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: data[:0],
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "half zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("name", ["rows.db", "vectors-1.f32"])
def test_a_torn_file_is_named_and_what_is_left_can_be_kept(
    name: str, kind: str, path: Path
) -> None:
    change(path / "store" / name, EDITS[kind])
    [detail] = broken(path, deep=True).values()
    assert name in detail or "checksum" in detail
    if "cannot be repaired" in detail:
        assert name == "rows.db"
        assert "restore a copy of the gallery, or index the images into a new one" in detail
        assert checks(path, repair=True)["rows"].detail == detail
        return
    assert detail.endswith(f"lookalike doctor {path} --repair, then index again")
    repaired = checks(path, repair=True)
    assert [check.detail for check in repaired.values() if not check.ok] == []
    assert "store.broken" in repaired["repair"].detail
    assert repaired["other files"].detail.endswith("may be deleted: 'store.broken'")
    gallery = Gallery.open(path)
    left = len(gallery)
    report = gallery.sync(path.parent / "photos", progress=False)
    assert report.added + report.unchanged == FIRST
    assert len(gallery) == left + report.added
    assert gallery.search(id="photos:00.png", k=1)
    assert broken(path, deep=True) == {}


def test_a_database_of_which_no_row_can_be_read_is_left_as_it_is(path: Path) -> None:
    database = path / "store" / "rows.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'rows'"
        (page,) = connection.execute(query).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    start = (page - 1) * size
    change(database, lambda data: data[:start] + b"\xff" * size + data[start + size :])
    before = database.read_bytes()
    detail = checks(path, repair=True)["rows"].detail
    assert "none of its 14 rows can be read; nothing was changed. Restore a copy" in detail
    assert database.read_bytes() == before
    assert not (path / "store.broken").exists()


def test_a_missing_file_of_vectors_is_named(path: Path) -> None:
    (path / "store" / "vectors-1.f32").unlink()
    assert broken(path)["rows"].startswith("vectors-1.f32: No such file or directory. To repair")
    with pytest.raises(ArtifactError, match=r"vectors-1\.f32: .*lookalike doctor .* --deep$"):
        Gallery.open(path)


def test_a_missing_database_is_named(path: Path) -> None:
    (path / "store" / "rows.db").unlink()
    assert broken(path)["rows"].startswith("rows.db: No such file or directory. It cannot be")


def test_a_database_of_a_newer_version_names_the_upgrade(path: Path) -> None:
    with contextlib.closing(database(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for repair in (False, True):
        detail = checks(path, repair=repair)["rows"].detail
        assert detail.endswith("upgrade: pip install --upgrade lookalike")


def test_a_row_with_a_wrong_checksum_is_removed_and_indexed_again(path: Path) -> None:
    with contextlib.closing(database(path)) as connection:
        connection.execute("UPDATE rows SET uri = uri || 'x' WHERE id = 'photos:03.png'")
    file = path / "store" / "vectors-1.f32"
    gallery = Gallery.open(path)
    dim = gallery.store.dim
    [number] = gallery.store.row_numbers(["photos:05.png"]).tolist()
    change(file, lambda data: data[: 4 * dim * number] + b"\1" + data[4 * dim * number + 1 :])
    identity = gallery.info()["identity"]
    del gallery
    [detail] = broken(path, deep=True).values()
    assert detail.startswith("checksums of 2 rows are wrong: 'photos:03.png', 'photos:05.png'")
    repaired = checks(path, repair=True)
    assert all(check.ok for check in repaired.values())
    assert repaired["repair"].detail.startswith(
        f"{FIRST} rows written anew; 2 rows damaged and removed: 'photos:03.png', 'photos:05.png'; "
        "index the images again"
    )
    gallery = Gallery.open(path)
    assert gallery.info()["identity"] == identity
    assert "photos:03.png" not in gallery
    report = gallery.sync(path.parent / "photos", progress=False)
    assert (report.added, report.unchanged) == (2, FIRST - 2)
    assert broken(path, deep=True) == {}


def test_a_single_row_with_a_wrong_checksum(path: Path) -> None:
    with contextlib.closing(database(path)) as connection:
        connection.execute("UPDATE rows SET signature = 'x' WHERE id = 'photos:03.png'")
    [detail] = broken(path, deep=True).values()
    assert detail.startswith("the checksum of 1 row is wrong: 'photos:03.png'. To repair it:")


def test_progress_of_a_deep_check_and_a_repair(path: Path) -> None:
    with contextlib.closing(database(path)) as connection:
        connection.execute("UPDATE rows SET signature = 'x' WHERE id = 'photos:03.png'")
    steps: list[Progress] = []
    assert len(list(check_gallery(str(path), deep=True, progress=steps.append))) > 2
    assert [(step.task, step.total, step.unit) for step in steps] == [("check", FIRST + 2, "rows")]
    steps.clear()
    assert len(list(check_gallery(str(path), repair=True, progress=steps.append))) > 2
    assert [step.task for step in steps] == ["check", "repair", "check"]
    assert steps[1].done == FIRST + 1


def test_a_gallery_that_is_open_goes_on_after_a_repair(path: Path) -> None:
    gallery = Gallery.open(path)
    before = gallery.search(id="photos:00.png", k=3)
    with contextlib.closing(database(path)) as connection:
        connection.execute("UPDATE rows SET uri = '' WHERE id = 'photos:11.png'")
    checks(path, repair=True)
    after = gallery.search(id="photos:00.png", k=3)
    assert [hit.id for hit in after] == [hit.id for hit in before if hit.id != "photos:11.png"]
    assert len(gallery) == FIRST + 1


DERIVED = {
    "codes": "DELETE FROM blocks",
    "columns": "UPDATE column_codes SET data = zeroblob(length(data))",
    "texts": "INSERT INTO name_text (name_text) VALUES ('delete-all')",
    "removed rows": "INSERT OR REPLACE INTO dead VALUES (0, x'80' || zeroblob(4095))",
}


@pytest.mark.parametrize("name", DERIVED)
def test_what_is_derived_from_rows_is_made_again(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    metadata = [{"label": f"l{number % 3}"} for number in range(4_200)]
    vectors = rng.normal(size=(len(metadata), 4)).astype(np.float32)
    path = tmp_path / "g.gallery"
    gallery = Gallery.from_embeddings(vectors, metadata=metadata, path=path)
    query: dict[str, Any] = {"vector": vectors[7], "where": "label = 'l1'", "k": 5}
    expected = [hit.id for hit in gallery.search(**query)]
    del gallery
    with contextlib.closing(database(path)) as connection:
        connection.execute(DERIVED[name])
    assert broken(path, deep=True).keys() == {"rows"}
    repaired = checks(path, repair=True)
    assert [check.detail for check in repaired.values() if not check.ok] == []
    assert repaired["repair"].detail.startswith("4,200 rows written anew; the damaged files")
    gallery = Gallery.open(path)
    assert [hit.id for hit in gallery.search(**query)] == expected
    assert gallery.search(keywords="l1 l1", k=1)


_FLIPS = """
import json, random, shutil, sys
from pathlib import Path
import numpy as np
import lookalike
from lookalike.diagnostics import check_gallery

source, work, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def answers(path):
    store = lookalike.Gallery.open(path).store.snapshot()
    ids = list(store.ids())
    rows = store.get(ids)
    vectors = np.array(rows.embeddings)
    hits = store.search(vectors[:3], 5, lookalike.Metric.L2)
    return repr((ids, rows.uris, rows.metadata, rows.hashes, rows.signatures, hits)), vectors

chosen = random.Random(seed)
expected, vectors = answers(source)
files = [each for each in sorted(source.rglob("*")) if each.is_file() and each.stat().st_size]
missed = []
for file in files:
    for _ in range(4):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        data = bytearray(file.read_bytes())
        place, bit = chosen.randrange(len(data)), chosen.randrange(8)
        data[place] ^= 1 << bit
        (work / file.relative_to(source)).write_bytes(data)
        if all(check.ok for check in check_gallery(str(work), deep=True)):
            text, embeddings = answers(work)  # bytes that nothing uses: no answer differs
            if text != expected or not np.array_equal(embeddings, vectors):
                missed.append([file.name, place, bit])
print(json.dumps([len(files), missed]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_bit_in_any_file_is_detected_and_never_a_crash(
    seed: int, path: Path, tmp_path: Path
) -> None:
    """In a process of its own, which would end."""
    Gallery.open(path).remove_rows(ids=["photos:01.png"])
    work = tmp_path / "w.gallery"
    command = [sys.executable, "-c", _FLIPS, str(path), str(work), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, missed = json.loads(done.stdout)
    assert count >= 7
    assert missed == []


def test_repairing_waits_for_no_writer(path: Path) -> None:
    change(path / "store" / "vectors-1.f32", EDITS["cut"])
    with sole_writer(path / LOCK, what="x"), pytest.raises(BusyError):
        checks(path, repair=True)


def test_damaged_other_files_are_named_with_the_next_command(path: Path) -> None:
    (path / "map.json").write_text("{")
    (path / "archive.json").write_bytes(b"[" * 100_000)
    uploads = sorted((path / "images").iterdir())
    uploads[0].unlink()
    change(uploads[1], flip)
    (path / "images" / "orphan.png").write_bytes(b"x")
    (path / "notes.txt").write_text("x")
    (path / "encoder" / "extra.bin").write_text("x")
    change(path / "encoder" / "model.onnx", flip)
    found = checks(path)
    reasons = {name: check.detail for name, check in found.items() if not check.ok}
    assert reasons.keys() == {"encoder", "fingerprint", "archive", "uploads", "map.json"}
    assert "model.onnx has changed" in reasons["encoder"]
    assert "train or copy the encoder again" in reasons["encoder"]
    assert "restore it, or delete it" in reasons["archive"]
    assert "lookalike explore map" in reasons["map.json"]
    assert reasons["uploads"].startswith("2 of 2 damaged: api:")
    assert "1 file of no row: 'orphan.png'" in reasons["uploads"]
    assert "'encoder/extra.bin', 'notes.txt'" in found["other files"].detail


def test_a_damaged_manifest_is_named_beside_the_rest(path: Path) -> None:
    (path / "gallery.json").write_text("{}")
    assert broken(path).keys() == {"manifest", "gallery"}
    assert checks(path)["rows"].ok


def test_the_exit_code_says_whether_a_file_is_damaged(path: Path) -> None:
    done = lookalike("doctor", path, "--json", "--deep")
    assert (done.returncode, {check["ok"] for check in json.loads(done.stdout)}) == (0, {True})
    change(path / "store" / "vectors-1.f32", EDITS["cut"])
    assert lookalike("doctor", path).returncode == 1
    done = lookalike("doctor", path, "--repair")
    assert (done.returncode, "rows written anew" in done.stdout) == (0, True)
    assert lookalike("doctor", path).returncode == 0
    done = lookalike("doctor", path.parent / "none.gallery")
    assert (done.returncode, "there is no such folder" in done.stdout) == (1, True)


@pytest.mark.parametrize("option", ["deep", "repair"])
def test_options_need_a_gallery(option: str) -> None:
    with pytest.raises(SettingError, match=f"{option} needs a gallery"):
        command(gallery=None, **{option: True})


def test_a_gallery_of_an_older_format_names_the_migration(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "data" / "format-3.gallery"
    path = shutil.copytree(old, tmp_path / "old.gallery")
    assert "lookalike copy" in broken(path)["rows"]
