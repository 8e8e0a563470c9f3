"""Encoders and galleries of somebody else reach no other files, and fail in one line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike.artifacts import write_atomically, write_manifest
from lookalike.encoders.persistence import load_encoder, save_encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, InputError, LookalikeError
from lookalike.explore.map import FILE as MAP
from lookalike.explore.map import build_map, load_map
from lookalike.gallery.archive import FILE as ARCHIVE
from lookalike.gallery.copy import copy
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.gallery.servers import check_server, remember_server
from lookalike.gallery.uploads import put
from lookalike.labels.session import FILE as SESSION
from lookalike.labels.session import load_session, save_session
from lookalike.sources import SourceOptions, open_source
from lookalike.stores.milvus.address import Address
from lookalike.training import checkpoints
from lookalike.training.adapt import _EmbeddingCache
from lookalike.training.run_folder import CHECKPOINT_MANIFEST
from tests.integration.test_cli import lookalike

NAMES = [
    "../../../.bashrc",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/model.onnx",
    "a\\model.onnx",
    "C:model.onnx",
    "model.onnx\0",
    "model.onnx\n",
    "model.onnx ",
    "x" * 300,
    "notes.txt",
    "encoder.json",
    "gallery.json",
    7,
    None,
    ["model.onnx"],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, an encoder with files and a gallery with all derived files."""
    root = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for number in range(40):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number:02}.png")
    source = open_source(root / "photos")
    encoder = open_encoder("untrained+pixels,whiten=4", [item.image() for item in source])
    save_encoder(encoder, root / "e")
    gallery = Gallery.create(root / "g.gallery", encoder=encoder)
    gallery.sync(open_source(root / "photos", options=SourceOptions(include=("*.png",))))
    gallery._archive().add({"0" * 64: {"label": "a"}})
    gallery.leave_out({"photos": {"photos:x.png": "0" * 64}})
    build_map(gallery)
    save_session(gallery, neighbor_graph(gallery), [0, 1, 2], None)
    return root


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change, deep enough for names that lead out of it."""
    work = tmp_path / "a" / "b"
    shutil.copytree(made, work)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o600)
    return work


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of all files that are not below the folder of the work."""
    return {
        str(path): (path.lstat().st_mode, path.read_bytes())
        for path in folder.iterdir()
        if path.is_file()
    }


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_names_of_files_in_an_encoder_are_never_paths(
    name: object, work: Path, tmp_path: Path
) -> None:
    before = state(tmp_path)
    for folder in (work / "e", work / "g.gallery" / "encoder"):
        files = json.loads((folder / "encoder.json").read_text())["files"]
        change(folder / "encoder.json", files=[*files, name], sha256={})
    with pytest.raises(ArtifactError, match=r"encoder\.json.*'files'|encoder\.json: names the"):
        load_encoder(work / "e")
    with pytest.raises(ArtifactError):
        copy(Gallery.open(work / "g.gallery"), work / "copy.gallery")
    assert not (work / "copy.gallery").exists()
    assert state(tmp_path) == before


def test_an_encoder_in_a_folder_of_names_reaches_nothing_by_the_command_line(
    work: Path, tmp_path: Path
) -> None:
    (tmp_path / ".bashrc").write_text("owned")
    change(work / "e" / "encoder.json", files=["../../../.bashrc"], sha256={})
    done = lookalike("index", "h.gallery", "photos", "--encoder", "e", cwd=work)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "which is not a plain file name" in done.stderr
    assert not (work / "h.gallery").exists()


def test_every_file_of_an_encoder_is_compared(work: Path) -> None:
    encoder = load_encoder(work / "e")
    description = json.loads((work / "e" / "encoder.json").read_text())
    assert description["files"] == ["0-model.onnx", "1-model.safetensors"]
    assert description["sha256"].keys() == set(description["files"])
    model = work / "e" / "0-model.onnx"
    model.write_bytes(model.read_bytes() + b"\x12\x00")
    with pytest.raises(ArtifactError, match=r"its file 0-model\.onnx has changed"):
        load_encoder(work / "e")
    shutil.rmtree(work / "e")
    save_encoder(encoder, work / "e")
    hashes = {**description["sha256"], "2-model.onnx": "0" * 64}
    change(work / "e" / "encoder.json", sha256=hashes)
    with pytest.raises(ArtifactError, match="'sha256' must be hashes of exactly its files"):
        load_encoder(work / "e")


LINKS = ["encoder", "store", "images", "writing.lock", "store/rows.db", "store/vectors-1.f32"]


@pytest.mark.parametrize("name", LINKS)
def test_links_inside_a_gallery_are_refused(name: str, work: Path, tmp_path: Path) -> None:
    gallery = work / "g.gallery"
    part, target = gallery / name, tmp_path / "target"
    if part.is_dir():
        part.rename(target)
    elif name == "images":
        target.mkdir()
        (target / "kept.txt").write_text("x")
    else:
        target.write_text("precious")
        part.unlink(missing_ok=True)
    part.symlink_to(target)
    before = sorted(target.rglob("*")) if target.is_dir() else target.read_text()
    with pytest.raises(ArtifactError, match="is a link, but a gallery has files of its own"):
        Gallery.open(gallery)
    done = lookalike("index", "g.gallery", "photos", cwd=work)
    assert (done.returncode, len(done.stderr.strip().splitlines())) != (0, 0)
    assert (sorted(target.rglob("*")) if target.is_dir() else target.read_text()) == before


def test_pipes_inside_a_gallery_are_not_waited_for(work: Path) -> None:
    for name in ("rows.db", "vectors-1.f32"):
        file = work / "g.gallery" / "store" / name
        file.rename(work / "kept")
        os.mkfifo(file)
        with pytest.raises(ArtifactError, match=name):
            Gallery.open(work / "g.gallery").search(id="photos:00.png")
        file.unlink()
        (work / "kept").rename(file)


def test_files_much_larger_than_they_can_be_are_not_read(work: Path) -> None:
    (work / "g.gallery" / ARCHIVE).unlink()
    for file in (work / "g.gallery" / ARCHIVE, work / "e" / "0-model.onnx"):
        file.touch()
        os.truncate(file, 1 << 40)
    with pytest.raises(ArtifactError, match=r"archive\.json"):
        _ = Gallery.open(work / "g.gallery").archive
    with pytest.raises(ArtifactError, match=r"cannot be read \(larger than 2,200 MB"):
        load_encoder(work / "e")


def test_embeddings_that_are_not_finite_are_named(work: Path) -> None:
    gallery = Gallery.open(work / "g.gallery")
    [name] = gallery.store.ids_at(np.array([1]))
    vectors = np.memmap(work / "g.gallery" / "store" / "vectors-1.f32", "<f4", "r+")
    vectors[gallery.store.dim] = np.nan  # the first of row 1
    with pytest.raises(ArtifactError, match=f"the embedding of '{name}' has numbers that are not"):
        neighbor_graph(gallery)


def test_locations_of_sources_that_are_no_paths_are_none(work: Path) -> None:
    manifest = work / "g.gallery" / "gallery.json"
    fields = json.loads(manifest.read_text())
    photos = str(work / "photos")
    fields["sources"] = {"nul": "x\0y", "long": "x" * 5000, "photos": photos}
    manifest.write_text(json.dumps(fields))
    gallery = Gallery.open(work / "g.gallery")
    report = gallery.sync(gallery.open_source(work / "photos"))
    assert (report.added, report.failed) == (0, ())


@pytest.mark.parametrize("identity", ["a\r\nSet-Cookie: x", "", "../x", "x" * 101])
def test_identities_that_could_be_more_than_a_name_are_refused(identity: str, work: Path) -> None:
    with contextlib.closing(sqlite3.connect(work / "g.gallery" / "store" / "rows.db")) as database:
        database.execute("UPDATE store SET identity = ?", (identity,))
        database.commit()
    with pytest.raises(ArtifactError, match="rows of the gallery are missing or broken"):
        Gallery.open(work / "g.gallery")


@pytest.mark.parametrize("name", ["0-model.onnx", "1-model.safetensors", "encoder.json"])
def test_links_inside_an_encoder_are_refused(name: str, work: Path, tmp_path: Path) -> None:
    file = work / "e" / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"is a link"):
        load_encoder(work / "e")
    (work / "link").symlink_to(work / "e")  # what a user names may be a link
    file.unlink()
    (tmp_path / "elsewhere").rename(file)
    assert load_encoder(work / "link").dim


@pytest.mark.parametrize("name", [ARCHIVE, MAP.name, SESSION.name])
def test_links_to_derived_files_are_not_followed(name: str, work: Path, tmp_path: Path) -> None:
    file = work / "g.gallery" / name
    file.unlink()
    file.symlink_to(tmp_path / "secret")
    gallery = Gallery.open(work / "g.gallery")
    load = {
        ARCHIVE: lambda: gallery.archive,
        MAP.name: lambda: load_map(gallery),
        SESSION.name: lambda: load_session(gallery),
    }[name]
    with pytest.raises(ArtifactError, match="is a link"):
        load()


# ---- JSON of others ------------------------------------------------------------------------------


def use(gallery: Gallery) -> None:
    """Use what a manifest says."""
    assert gallery.encoder.dim
    assert gallery.open_rows(gallery.store.records())
    assert gallery.info()
    with contextlib.suppress(InputError):  # of the sources that it names
        gallery.sync(next(iter(gallery.sources.values()), ""), dry_run=True)


DOCUMENTS: dict[str, Callable[[Path], object]] = {
    "e/encoder.json": lambda work: load_encoder(work / "e"),
    "g.gallery/gallery.json": lambda work: use(Gallery.open(work / "g.gallery")),
    "g.gallery/archive.json": lambda work: Gallery.open(work / "g.gallery").archive,
    "g.gallery/removed.json": lambda work: Gallery.open(work / "g.gallery").removed,
    "g.gallery/map.json": lambda work: load_map(Gallery.open(work / "g.gallery")),
    "g.gallery/labeling.json": lambda work: load_session(Gallery.open(work / "g.gallery")),
}

HOSTILE = [
    b"",
    b"[]",
    b"3",
    b"{}",
    b'{"format": true}',
    b'{"format": 1e400}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"format": ' + b"1" * 5_000 + b"}",
    b'{"format": NaN}',
    b'{"format": 4, "format": 4}',
    b'{"format": 4, "name": "\xff"}',
    b'{"format": 4, "name": "\\ud800"}',
    '{"format": 4}'.encode("utf-16"),
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_hostile_documents_give_one_line(document: str, work: Path) -> None:
    for data in HOSTILE:
        (work / document).write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            DOCUMENTS[document](work)
        assert Path(document).name in str(caught.value) or "g.gallery" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


VALUES: list[Any] = [
    *(None, True, "yes", "", -1, 0, 10**12, 10**30, 1.5),
    *([], [[]], {}, {"a": []}, "\u202e\n"),
]


def variants(value: Any) -> Iterator[Any]:
    """Yield a document with each field, also of inner objects, replaced or left out."""
    if isinstance(value, dict):
        for name, inner in value.items():
            rest = {key: each for key, each in value.items() if key != name}
            yield rest
            for other in VALUES:
                yield {**rest, name: other}
            for other in variants(inner):
                yield {**rest, name: other}
    elif isinstance(value, list) and value:
        yield value[1:]
        yield [*value, *value]
        for other in (*VALUES, *variants(value[0])):
            yield [other, *value[1:]]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_changed_fields_are_read_or_give_one_line(document: str, work: Path) -> None:
    file = work / document
    original = json.loads(file.read_text())
    refused = []
    for changed in variants(original):
        file.write_text(json.dumps(changed))
        try:
            DOCUMENTS[document](work)
        except LookalikeError as error:
            refused.append(error)
    assert len(refused) > 20
    assert [error for error in refused if not isinstance(error, ArtifactError)] == []
    assert [error for error in refused if "\n" in str(error) or len(str(error)) > 700] == []


def test_more_parts_than_an_encoder_can_have_are_refused(work: Path) -> None:
    description = json.loads((work / "e" / "encoder.json").read_text())
    description["parts"] = description["parts"][1:] * 100
    (work / "e" / "encoder.json").write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match="has more than 64 parts"):
        load_encoder(work / "e")


def test_a_copy_is_not_written_among_the_files_of_its_gallery(work: Path) -> None:
    gallery = Gallery.open(work / "g.gallery")
    for target in ("g.gallery", "g.gallery/copy", "g.gallery/store/../store/x"):
        with pytest.raises(InputError, match="the gallery itself"):
            copy(gallery, work / target)


def test_a_token_is_not_sent_to_a_server_that_only_a_folder_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_MILVUS_TOKEN", "root:secret")
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "data"))
    (tmp_path / "g.gallery").mkdir()
    address = "milvus://milvus.invalid:19530/photos"
    write_manifest(tmp_path / "g.gallery" / "gallery.json", {"address": address})
    with pytest.raises(ArtifactError, match=r"milvus\.invalid:19530, to which .* was not sent"):
        Gallery.open(tmp_path / "g.gallery")
    check_server(Address.parse("milvus://127.0.0.1:19530/photos"), "g")
    remember_server(Address.parse(address))
    check_server(Address.parse(address), "g")
    with pytest.raises(ArtifactError, match="was not sent"):
        check_server(Address.parse("milvus://milvus.invalid:19531/photos"), "g")
    monkeypatch.delenv("LOOKALIKE_MILVUS_TOKEN")
    check_server(Address.parse("milvus://other.invalid/photos"), "g")


def test_checkpoints_of_others_are_refused_in_one_line(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    run = {"recipe": "x"}
    checkpoints.save(tmp_path, checkpoints.TrainingState(run), model, optimizer)
    assert checkpoints.load(tmp_path, run, model, optimizer).epoch == 0
    file = tmp_path / CHECKPOINT_MANIFEST
    original = json.loads(file.read_text())
    names = ["../weights.safetensors", "/etc/passwd", "none.safetensors", 3]
    wrong = [{"weights": name} for name in names]
    wrong += [{"epoch": -1}, {"epoch": "1"}, {"loss_marks": [3]}, {"history": {}}, {"run": []}]
    texts = [json.dumps({**original, **each}).encode() for each in wrong]
    for data in (*texts, *HOSTILE):
        file.write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            checkpoints.load(tmp_path, run, model, optimizer)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


def test_interrupted_runs_of_others_are_refused_in_one_line(tmp_path: Path) -> None:
    run = {"images": 3, "seed": 0}
    cache = _EmbeddingCache(tmp_path, run)
    array = cache.get("a", 2, lambda: np.ones((3, 2), np.float32))
    np.testing.assert_array_equal(_EmbeddingCache(tmp_path, run).get("a", 2, pytest.fail), array)
    header = (tmp_path / "a.npy").read_bytes()
    for data in (b"", header[:-1], header.replace(b"(3, 2)", b"(3, 9)"), header + b"x"):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(ArtifactError, match=r"a\.npy: .*; remove it to compute it again"):
            cache.get("a", 2, pytest.fail)
    np.save(tmp_path / "a.npy", np.full((3, 2), np.nan, np.float32))
    with pytest.raises(ArtifactError, match="expected finite float32"):
        cache.get("a", 2, pytest.fail)
    for data in HOSTILE:
        (tmp_path / "run.json").write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            _EmbeddingCache(tmp_path, run)
        assert "\n" not in str(caught.value)


# ---- permissions ---------------------------------------------------------------------------------


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_all_files_of_a_gallery_follow_the_umask(mask: int, made: Path, tmp_path: Path) -> None:
    with umask(mask):
        gallery = Gallery.create(tmp_path / "g", encoder=load_encoder(made / "e"))
        gallery.sync(open_source(made / "photos"))
        data = (made / "photos" / "00.png").read_bytes()
        embedding = gallery.store.get(["photos:00.png"]).embeddings
        put(gallery, "x", data, embedding, {}, gallery.fingerprint)
        gallery._archive().add({"0" * 64: {"label": "a"}})
        save_encoder(gallery.encoder, tmp_path / "e")
    paths = [tmp_path / "g", tmp_path / "e", *tmp_path.rglob("*")]
    assert len(paths) > 15
    assert [path for path in paths if path.stat().st_mode & mask] == []
    readable = [path for path in paths if path.stat().st_mode & 0o044 & ~mask]
    assert len(readable) == (0 if mask == 0o077 else len(paths))


def test_modes_of_files_are_kept_or_as_asked(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with umask(0o022):
        write_atomically(file, b"1")
        assert file.stat().st_mode & 0o777 == 0o644
        file.chmod(0o640)
        write_atomically(file, b"2")
        assert file.stat().st_mode & 0o777 == 0o640
        write_atomically(file, b"3", mode=0o600)
        assert file.stat().st_mode & 0o777 == 0o600
        write_atomically(file, b"4")
        assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes() == b"4"
