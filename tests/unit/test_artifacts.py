"""Artifacts on disk: atomic writes, manifests and older formats."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lookalike.artifacts import FORMAT, new_folder, read_manifest, write_atomically, write_manifest
from lookalike.errors import ArtifactError, FormatVersionError, StorageError
from lookalike.gallery.gallery import Gallery


def test_a_failed_write_keeps_the_old_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"f: cannot be written \(No space left on device\)"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_manifests_of_this_version_are_read(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", {"a": "ü"})
    assert read_manifest(tmp_path / "m.json", what="a thing") == {"format": FORMAT, "a": "ü"}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (json.dumps({"format": FORMAT + 1}), FormatVersionError, "upgrade: pip install"),
        ("{", ArtifactError, "cannot be read"),
        ("[]", ArtifactError, "has no format version"),
        ("{}", ArtifactError, "has no format version"),
        (None, ArtifactError, "not a thing .has no m.json"),
    ],
)
def test_invalid_manifests_are_refused(
    tmp_path: Path, content: str | None, error: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(error, match=message):
        read_manifest(tmp_path / "m.json", what="a thing")


def test_a_folder_is_no_file_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path(tmp_path.anchor), Path(), Path("..")):
        with pytest.raises(StorageError, match="is a folder"):
            write_atomically(folder, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_is_complete_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "created"

    def fail(partial: Path) -> None:
        (partial / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError), new_folder(target) as partial:
        fail(partial)
    assert list(tmp_path.iterdir()) == []
    with new_folder(target) as partial:
        (partial / "whole").write_text("x")
    assert [path.name for path in target.iterdir()] == ["whole"]
    with pytest.raises(ArtifactError, match="already exists"), new_folder(target):
        pass


def test_a_gallery_of_format_1_is_read_and_written(tmp_path: Path) -> None:
    """Its table has no signatures; the first write adds them."""
    old = Path(__file__).parents[1] / "data" / "format-1.gallery"
    assert json.loads((old / "gallery.json").read_text())["format"] == 1
    shutil.copytree(old, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    assert len(gallery) == 20
    before = [hit.id for hit in gallery.search(id="digits/train:3", k=5)]
    assert {record.signature for record in gallery.store.records()} == {""}
    report = gallery.sync("dataset:digits/train[:30]")
    assert (report.added, report.unchanged) == (10, 20)
    assert json.loads((tmp_path / "g" / "gallery.json").read_text())["format"] == FORMAT
    after = [hit.id for hit in gallery.search(id="digits/train:3", k=40) if hit.id in before]
    assert after == before


def test_a_gallery_of_format_3_gets_an_identity_when_it_is_written(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "data" / "format-3.gallery"
    manifest = json.loads((old / "gallery.json").read_text())
    assert (manifest["format"], "identity" in manifest) == (3, False)
    shutil.copytree(old, tmp_path / "g")
    gallery, reader = Gallery.open(tmp_path / "g"), Gallery.open(tmp_path / "g")
    derived = gallery.state
    assert derived == reader.state == Gallery.open(tmp_path / "g").state
    hits = [hit.id for hit in gallery.search(id="digits/train:3", k=5)]
    report = gallery.sync("dataset:digits/train[:20]")
    assert (report.added, report.unchanged) == (0, 20)
    written = json.loads((tmp_path / "g" / "gallery.json").read_text())
    assert written["format"] == FORMAT
    assert written["identity"] == gallery.state.identity != derived.identity
    assert reader.state == gallery.state
    assert [hit.id for hit in reader.search(id="digits/train:3", k=5)] == hits
    gallery.sync("dataset:digits/train[:30]")
    assert gallery.state.identity == written["identity"]


def test_a_gallery_of_format_2_is_read_searched_and_written(tmp_path: Path) -> None:
    """Its manifests have old names of keys and encoders; its encoder has every wrapper."""
    old = Path(__file__).parents[1] / "data" / "format-2.gallery"
    manifest = json.loads((old / "encoder" / "encoder.json").read_text())
    assert manifest["format"] == 2
    shutil.copytree(old, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.encoder.fingerprint == manifest["fingerprint"]
    assert gallery.encoder.name == "untrained,mirror+color,whiten=6+texture"
    hits = gallery.search(id="shapes:red/1.png", k=3)
    assert {hit.metadata["label"] for hit in hits} == {"red"}
    images = tmp_path / "shapes"
    for row_id in gallery.store.ids():
        path = images / row_id.removeprefix("shapes:")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), "red").save(path)
    report = gallery.sync(images, relocate=True)
    assert report.updated == 12
    written = json.loads((tmp_path / "g" / "gallery.json").read_text())
    assert written["format"] == FORMAT
