"""Artifacts on disk: atomic writes, manifests and older formats."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike.artifacts import FORMAT, new_folder, read_manifest, write_atomically, write_manifest
from lookalike.diagnostics.gallery import check_gallery
from lookalike.errors import ArtifactError, FormatVersionError, InputError, StorageError
from lookalike.gallery import copy as copying
from lookalike.gallery.copy import copy
from lookalike.gallery.gallery import Gallery
from lookalike.stores.base import Rows
from lookalike.stores.embedded.store import EmbeddedStore


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


DATA = Path(__file__).parents[1] / "data"

HITS = json.loads((DATA / "old_galleries.json").read_text())
"""Ids and distances of hits, as the code that wrote each of the galleries returned them."""


@pytest.fixture(params=[1, 2, 3, 4])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A gallery in a folder of a format before 5."""
    path = tmp_path / f"format-{request.param}.gallery"
    shutil.copytree(DATA / path.name, path)
    assert json.loads((path / "gallery.json").read_text())["format"] == request.param
    return path


def test_a_migrated_gallery_answers_as_the_old_one_did(old: Path, tmp_path: Path) -> None:
    files = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    report = copy(old, tmp_path / "new.gallery")
    assert (report.added, report.compared, report.recall) == (report.rows, report.rows, 1.0)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == files
    gallery = Gallery.open(tmp_path / "new.gallery")
    before, after = (
        json.loads((path / "gallery.json").read_text()) for path in (old, gallery.path)
    )
    assert after["format"] == FORMAT
    assert after["metric"] == before["metric"]
    assert gallery.encoder.fingerprint == before["encoder"]["fingerprint"]
    for query, hits in HITS[old.stem].items():
        results = gallery.search(id=query, k=len(hits))
        assert [hit.id for hit in results] == [row_id for row_id, _ in hits]
        assert [hit.distance for hit in results] == pytest.approx([d for _, d in hits], abs=1e-6)


def test_old_galleries_name_the_command_that_migrates_them(old: Path, tmp_path: Path) -> None:
    old = old.rename(tmp_path / "my photos.gallery")
    (tmp_path / "my photos-2.gallery").mkdir()
    command = (
        f"pip install 'lookalike[lance]' && lookalike copy '{old}' "
        f"'{tmp_path / 'my photos-3.gallery'}'"
    )
    with pytest.raises(FormatVersionError) as error:
        Gallery.open(old)
    assert str(error.value).endswith(f"Migrate it: {command}")
    broken = [check for check in check_gallery(str(old)) if not check.ok]
    assert [(check.name, check.detail) for check in broken] == [("rows", str(error.value))]


def test_the_path_of_a_migrated_gallery_is_never_the_working_directory(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old)
    with pytest.raises(FormatVersionError) as error:
        Gallery.open(".")
    assert str(error.value).endswith(f"lookalike copy . {tmp_path / old.stem}-2.gallery")


def test_uploads_and_labels_of_an_old_gallery_move_with_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old.gallery", tmp_path / "new.gallery"
    shutil.copytree(DATA / "format-4.gallery", old)
    copy(old, new)
    shutil.rmtree(old)
    gallery = Gallery.open(new)
    assert gallery.image("one").shape == (6, 6, 3)
    assert gallery["one"].metadata == {"label": "c", "checked": True}
    assert gallery.sources == {"photos": "/tmp/shop/photos", "api": str(new / "images")}
    assert gallery.source_options == {"photos": {"exclude": ["skip*"]}}
    assert gallery.written == {"checked"}
    assert [*gallery.archive.values()] == [{"checked": False}]
    assert all(check.ok for check in check_gallery(str(new)))
    gallery.remove("one")
    assert list((new / "images").iterdir()) == []


def test_an_interrupted_migration_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = DATA / "format-1.gallery", tmp_path / "new.gallery"
    monkeypatch.setattr(copying, "BATCH", 5)
    write = EmbeddedStore.upsert
    batches = []

    def fail_at_third(store: EmbeddedStore, rows: Rows) -> None:
        batches.append(rows)
        if len(batches) == 3:
            raise KeyboardInterrupt
        write(store, rows)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "upsert", fail_at_third)
        with pytest.raises(KeyboardInterrupt):
            copy(old, new)
    report = copy(old, new)
    assert (report.added, report.unchanged, report.rows) == (10, 10, 20)


@pytest.mark.parametrize(
    ("target", "store", "message"),
    [
        ("OLD", None, "is the gallery itself; to keep its name, rename it first"),
        ("OLD/inner", None, "is inside the gallery itself"),
        ("milvus://127.0.0.1:1/x", None, "copy it to a folder first, and that one to milvus://"),
        ("new", "milvus://127.0.0.1:1/x", "copy it to a folder first, and that one to milvus://"),
    ],
)
def test_where_an_old_gallery_cannot_be_copied_to(
    tmp_path: Path, target: str, store: str | None, message: str
) -> None:
    old = tmp_path / "old.gallery"
    shutil.copytree(DATA / "format-4.gallery", old)
    is_address = target.startswith("milvus:")
    place = target if is_address else str(tmp_path / target.replace("OLD", old.name))
    with pytest.raises(InputError, match=message):
        copy(old, place, store=store)
    assert [path.name for path in tmp_path.iterdir()] == ["old.gallery"]


def _zeros(store: Path) -> None:
    [manifest] = (store / "_versions").glob("*.manifest")
    manifest.write_bytes(b"\0" * manifest.stat().st_size)


def _empty_folder(store: Path) -> None:
    shutil.rmtree(store)
    (store / "_versions").mkdir(parents=True)


def _short(store: Path) -> None:
    [file] = (store / "data").glob("*.lance")
    file.write_bytes(file.read_bytes()[:-100])


def _flipped(store: Path) -> None:
    [manifest] = (store / "_versions").glob("*.manifest")
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    manifest.write_bytes(data)


def _no_file(store: Path) -> None:
    [file] = (store / "data").glob("*.lance")
    file.unlink()


@pytest.mark.parametrize("damage", [_zeros, _empty_folder, _short, _flipped, _no_file])
def test_a_damaged_table_is_not_migrated(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    old = tmp_path / "old.gallery"
    shutil.copytree(DATA / "format-4.gallery", old)
    damage(old / "store")
    with pytest.raises(ArtifactError, match=r"Lance table of the gallery is missing or broken"):
        copy(old, tmp_path / "new.gallery")
    assert not (tmp_path / "new.gallery").exists()


@pytest.mark.parametrize("name", ["images", "store", "store/data", "store/_versions"])
def test_links_in_an_old_gallery_are_not_followed(tmp_path: Path, name: str) -> None:
    old, elsewhere = tmp_path / "old.gallery", tmp_path / "elsewhere"
    shutil.copytree(DATA / "format-4.gallery", old)
    (old / name).rename(elsewhere)
    (old / name).symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match=r"link"):
        copy(old, tmp_path / "new.gallery")
    assert not (tmp_path / "new.gallery").exists()


def test_a_linked_upload_is_not_copied(tmp_path: Path) -> None:
    old = tmp_path / "old.gallery"
    shutil.copytree(DATA / "format-4.gallery", old)
    [image] = (old / "images").iterdir()
    secret = tmp_path / "secret"
    image.rename(secret)
    image.symlink_to(secret)
    with pytest.raises(ArtifactError, match=r"link"):
        copy(old, tmp_path / "new.gallery")


def test_a_migrated_gallery_goes_on_with_its_sources(tmp_path: Path) -> None:
    copy(DATA / "format-3.gallery", tmp_path / "new.gallery")
    report = Gallery.open(tmp_path / "new.gallery").sync("dataset:digits/train[:30]")
    assert (report.added, report.unchanged) == (10, 20)
