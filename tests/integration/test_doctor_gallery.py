"""``lookalike doctor GALLERY``: every file of a gallery is checked, and the rows can go back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
from lookalike.stores.lance.files import versions
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


def checks(path: Path, *, repair: bool = False) -> dict[str, Check]:
    return {check.name: check for check in check_gallery(str(path), repair=repair)}


def broken(path: Path) -> dict[str, str]:
    return {name: check.detail for name, check in checks(path).items() if not check.ok}


def newest_manifest(path: Path) -> Path:
    return next(iter(versions(path / "store").values()))


def newest_data(path: Path) -> Path:
    return max((path / "store" / "data").iterdir(), key=lambda file: file.stat().st_mtime_ns)


def change(file: Path, edit: Callable[[bytes], bytes]) -> None:
    file.write_bytes(edit(file.read_bytes()))


def flip(data: bytes) -> bytes:
    """Return bytes with one bit changed, in the middle."""
    changed = bytearray(data)
    changed[len(data) // 3] ^= 1
    return bytes(changed)


def test_a_gallery_without_damage(path: Path) -> None:
    found = checks(path)
    assert [check.detail for check in found.values() if not check.ok] == []
    assert found["rows"].detail.startswith(f"{FIRST + 2}, version")
    assert found["encoder"].detail == "untrained, 196 dimensions, 1 file, 1 with a checksum"
    assert "compared with checksums" in found["table files"].detail
    assert "older versions" not in found["table files"].detail
    assert found["uploads"].detail == "2 images compared with hashes"
    assert found["other files"].detail == "none"


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: data[:0],
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "half zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("newest", [newest_manifest, newest_data], ids=["manifest", "data"])
def test_a_torn_last_commit_is_named_and_can_be_given_up(
    newest: Callable[[Path], Path], kind: str, path: Path
) -> None:
    """As after a power failure. Nothing is answered from half a version, or from none."""
    change(newest(path), EDITS[kind])
    with pytest.raises(ArtifactError, match=r"missing or broken .*lookalike doctor .*g\.gallery$"):
        Gallery.open(path).search(id="photos:00.png")
    [(name, detail)] = broken(path).items()
    assert name == "rows"
    assert "is damaged: " in detail
    assert f"lookalike doctor {path} --repair, then index again" in detail
    repaired = checks(path, repair=True)
    assert all(check.ok for check in repaired.values())
    assert "went back from version" in repaired["repair"].detail
    gallery = Gallery.open(path)
    assert len(gallery) == FIRST + 1
    assert gallery.search(id="photos:00.png")[0].id == "api:x"
    report = gallery.sync(path.parent / "photos")
    assert (report.added, report.unchanged) == (0, FIRST)
    assert broken(path) == {}
    assert list((path / "store" / "_versions").glob("*.broken")) != []


def test_an_open_gallery_names_a_commit_that_is_torn_later(path: Path) -> None:
    gallery = Gallery.open(path)
    assert gallery.search(id="photos:00.png")
    manifest = newest_manifest(path)
    number = int(manifest.stem) - 1  # names count down
    (manifest.parent / f"{number}.manifest").write_bytes(bytes(manifest.stat().st_size))
    with pytest.raises(ArtifactError, match="lookalike doctor"):
        gallery.search(id="photos:00.png")
    (manifest.parent / f"{number}.manifest").unlink()
    assert gallery.search(id="photos:00.png")


def test_a_changed_bit_is_found_by_the_checksums(path: Path) -> None:
    change(newest_data(path), flip)
    [(name, detail)] = broken(path).items()
    assert name == "rows"
    assert f"data/{newest_data(path).name} has changed since it was written" in detail


def test_damage_without_an_earlier_version_says_so(path: Path) -> None:
    for manifest in versions(path / "store").values():
        manifest.write_bytes(b"")
    assert "No earlier version can be read: restore a copy" in broken(path)["rows"]
    repaired = checks(path, repair=True)
    assert not repaired["rows"].ok
    assert "no version of the table can be read" in repaired["rows"].detail


def test_repairing_waits_for_no_writer(path: Path) -> None:
    change(newest_manifest(path), EDITS["cut"])
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
    done = lookalike("doctor", path, "--json")
    assert (done.returncode, {check["ok"] for check in json.loads(done.stdout)}) == (0, {True})
    change(newest_manifest(path), EDITS["cut"])
    assert lookalike("doctor", path).returncode == 1
    done = lookalike("doctor", path, "--repair")
    assert (done.returncode, "went back" in done.stdout) == (0, True)
    assert lookalike("doctor", path).returncode == 0
    done = lookalike("doctor", path.parent / "none.gallery")
    assert (done.returncode, "there is no such folder" in done.stdout) == (1, True)


def test_a_repair_needs_a_gallery() -> None:
    with pytest.raises(SettingError, match="repair needs a gallery"):
        command(gallery=None, repair=True)
