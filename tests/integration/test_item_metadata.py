"""Writing items: the answer says what was written, and whatever is accepted can be read."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import typer
from PIL import Image

from lookalike.artifacts import sole_writer
from lookalike.cli.remove import interruptible
from lookalike.diagnostics import check_gallery
from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, BusyError, InputError, StorageError
from lookalike.explore.map import build_map, load_map
from lookalike.gallery import storage, uploads
from lookalike.gallery.archive import FILE
from lookalike.gallery.copy import copy
from lookalike.gallery.derived import EVALUATION
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.neighbors import neighbor_graph
from lookalike.gallery.storage import IMAGES, LOCK
from lookalike.labels import LabelSet
from lookalike.labels.session import save_session
from lookalike.metadata import MAX_BYTES, MAX_LEVELS
from lookalike.stores.embedded.store import EmbeddedStore
from tests.integration.test_cli import lookalike
from tests.integration.test_sync import draw, upload
from tests.serving import Serving, serving
from tests.unit.test_metadata import REFUSED, STORED, nested

ITEM = "/v1/galleries/g/item?id=api%3Ax"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return open_encoder("color", [np.zeros((8, 8, 3), np.uint8)])


@pytest.fixture
def gallery(tmp_path: Path, encoder: Encoder) -> Gallery:
    return Gallery.create(tmp_path / "g", encoder=encoder)


@pytest.fixture
def served(gallery: Gallery) -> Iterator[Serving]:
    upload(gallery, "x", {"label": "ok"})
    with serving({"g": gallery}) as running:
        yield running


def send(served: Serving, method: str, path: str, body: object = None) -> tuple[int, Any]:
    headers = {} if isinstance(body, bytes) else {"content-type": "application/json"}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    response, answer = served.request(method, path, data, headers)
    return response.status, json.loads(answer) if answer[:1] in b"{[" and answer else None


def reads(served: Serving) -> dict[str, int]:
    """Return the status of everything that reads the item."""
    by_id = {"id": "api:x"}
    requests: dict[str, tuple[str, str, object]] = {
        "item": ("GET", ITEM, None),
        "columns": ("GET", "/v1/galleries/g", None),
        "sample": ("GET", "/v1/galleries/g/sample?count=10", None),
        "search": ("POST", "/v1/galleries/g/search", by_id),
        "keywords": ("POST", "/v1/galleries/g/search", {"keywords": "ok"}),
        "filter": ("POST", "/v1/galleries/g/search", {**by_id, "where": "a is null"}),
        "number": ("POST", "/v1/galleries/g/search", {**by_id, "where": {"a": {"gt": 1}}}),
        "page": ("GET", "/g/g", None),
        "results": ("GET", "/g/g?id=api%3Ax", None),
    }
    return {name: send(served, *request)[0] for name, request in requests.items()}


def png(number: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_what_cannot_be_stored_is_refused_and_nothing_is_written(served: Serving) -> None:
    before = send(served, "GET", ITEM)
    for case, (metadata, _) in REFUSED.items():
        try:
            body = json.dumps({"metadata": metadata}).encode()
            text = quote(json.dumps(metadata))
        except (TypeError, ValueError, RecursionError):
            continue  # is no JSON at all
        response, _ = served.request("PATCH", ITEM, body, {"content-type": "application/json"})
        assert response.status in (400, 422), case
        if len(text) < 20_000:
            status, _ = send(served, "PUT", f"{ITEM}&metadata={text}", png())
            assert status in (400, 422), case
        assert send(served, "GET", ITEM) == before, case


@pytest.mark.parametrize("case", STORED)
def test_what_is_accepted_can_be_read_by_everything(case: str, served: Serving) -> None:
    metadata = {**STORED[case], "label": "ok"}
    if case == "columns":
        del metadata["c0"]
    if case == "large":
        metadata["a"] = metadata["a"][:-100]
    status, answer = send(served, "PATCH", ITEM, {"metadata": metadata})
    assert status == 200
    assert answer["metadata"] == {k: v for k, v in metadata.items() if v is not None}
    assert send(served, "GET", ITEM)[1]["metadata"] == answer["metadata"]
    statuses = reads(served)
    assert {k: v for k, v in statuses.items() if v >= 500} == {}
    assert statuses["item"] == statuses["columns"] == statuses["page"] == statuses["results"] == 200


def test_the_limits_are_of_all_metadata_together(served: Serving) -> None:
    half = "x" * (MAX_BYTES // 2)
    assert send(served, "PATCH", ITEM, {"metadata": {"a": half}})[0] == 200
    before = send(served, "GET", ITEM)
    status, answer = send(served, "PATCH", ITEM, {"metadata": {"b": half}})
    assert status in (400, 422)
    assert "the limit is 100,000" in answer["detail"]
    assert send(served, "GET", ITEM) == before
    assert send(served, "PATCH", ITEM, {"metadata": {"a": None, "b": half}})[0] == 200


def test_galleries_with_metadata_that_break_the_rules_are_read_and_copied(
    gallery: Gallery, tmp_path: Path
) -> None:
    upload(gallery, "x")
    rows = gallery.store.get(["api:x"])
    others = {"deep": nested(MAX_LEVELS + 200), "nan": float("nan"), "nul": "a\0b", "ok": 1}
    rows = type(rows)(rows.ids, rows.uris, rows.embeddings, [others], rows.hashes)
    gallery.upsert(rows, fingerprint=gallery.fingerprint)
    with serving({"g": Gallery.open(gallery.path)}) as served:
        assert send(served, "GET", ITEM)[1]["metadata"]["ok"] == 1
        assert {k: v for k, v in reads(served).items() if v >= 500} == {}
        assert send(served, "PATCH", ITEM, {"metadata": {"ok": 2}})[0] == 200
    copy(gallery, tmp_path / "copy")
    assert Gallery.open(tmp_path / "copy").store.get(["api:x"]).metadata[0]["ok"] == 2


def files(gallery: Gallery) -> set[str]:
    folder = gallery.path / IMAGES
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_after_an_error_nothing_was_written(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a row nor a file, whichever step fails."""
    upload(gallery, "x", {"label": "ok"})
    before = gallery.store.get(["api:x"]), files(gallery)

    def state() -> Any:
        return gallery.store.get(["api:x"]), files(gallery)

    def fail(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(uploads, "WAIT_S", 0.0)
    with sole_writer(gallery.path / LOCK, what="it"):
        for write in (
            lambda: upload(gallery, "x", {"label": "other"}),
            lambda: upload(gallery, "new"),
            lambda: uploads.update_metadata(gallery, "api:x", {"label": "other"}),
            lambda: uploads.remove(gallery, "api:x"),
        ):
            with pytest.raises(BusyError):
                write()
    with pytest.raises(InputError):
        upload(gallery, "x", {"label": "\0"})
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "upsert", fail)
        for name in ("x", "new"):
            with pytest.raises(StorageError):
                upload(gallery, name, {"label": "other"})
    now = state()
    assert now[1] == before[1]
    assert now[0].metadata == before[0].metadata == [{"label": "ok"}]
    assert len(gallery) == 1


def test_a_write_that_is_done_is_not_an_error(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The manifest has the number of rows, which nobody relies on: it may fail after the write."""
    upload(gallery, "x")

    def fail(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(storage.FolderStorage, "write", fail)
    upload(gallery, "y")
    assert uploads.update_metadata(gallery, "api:y", {"a": 1}) == {"a": 1}
    uploads.remove(gallery, "api:x")
    assert gallery.store.ids() == ["api:y"]
    assert "its number of rows is out of date" in caplog.text


def test_files_that_a_killed_upload_left_are_swept(gallery: Gallery) -> None:
    upload(gallery, "x")
    [kept] = files(gallery)
    folder = gallery.path / IMAGES
    left = (f"{'0' * 24}-{'1' * 16}.png", f".{'0' * 24}-{'1' * 16}.png.0123456789abcdef")
    own = ("photo.png", ".hidden", f"{'0' * 24}.png")

    def leave() -> None:
        for name in (*left, *own):
            (folder / name).write_bytes(b"x")

    for write in (
        lambda: upload(gallery, "y"),
        lambda: Gallery.open(gallery.path).remove_rows(["none"]),
        gallery.optimize,
        gallery.purge,
    ):
        leave()
        write()
        assert not files(gallery) & set(left)
        assert files(gallery) >= {kept, *own}
    assert Path(gallery.store.get(["api:x"]).uris[0]).is_file()


def test_files_of_a_gallery_that_was_moved_are_not_swept(gallery: Gallery, tmp_path: Path) -> None:
    upload(gallery, "x")
    before = files(gallery)
    gallery.path.rename(tmp_path / "moved")
    moved = Gallery.open(tmp_path / "moved")
    moved.purge()
    assert files(moved) == before


SECRET = b"a secret name"


def on_disk(gallery: Gallery) -> bool:
    """Return whether the text is in any file of the gallery."""
    return any(SECRET in path.read_bytes() for path in gallery.path.rglob("*") if path.is_file())


def test_removed_metadata_are_gone_from_disk_with_a_purge(gallery: Gallery, tmp_path: Path) -> None:
    for i in range(20):
        draw(tmp_path / "p" / f"{i}.png", i)
    gallery.sync(tmp_path / "p")
    for number in range(3):
        upload(gallery, "x", {"name": SECRET.decode()})
        assert on_disk(gallery)
        if number == 1:  # replaced instead of removed
            uploads.update_metadata(gallery, "api:x", {"name": "another"})
        if number == 2:
            gallery.remove_rows(["api:x"])
            gallery.purge()
        else:
            gallery.remove_rows(["api:x"], purge=True)
        assert not on_disk(gallery)
    assert len(gallery) == 20
    assert len(gallery.search(id="p:0.png", k=50)) == 19
    assert {record.id for record in gallery.store.records()} == {f"p:{i}.png" for i in range(20)}


def test_a_purge_deletes_what_was_derived_from_removed_rows(
    gallery: Gallery, tmp_path: Path
) -> None:
    for i in range(8):
        draw(tmp_path / "p" / f"{i}.png", i)
    gallery.sync(tmp_path / "p")
    upload(gallery, "x", {"label": SECRET.decode()})
    labels = LabelSet("labels", {"api:x": (SECRET.decode(),), "p:0.png": ("a",)})
    build_map(gallery)
    save_session(gallery, neighbor_graph(gallery), [0, 1], labels)
    (gallery.path / EVALUATION).write_bytes(b"damaged " + SECRET)
    gallery.remove_rows(["api:x"], purge=True)
    assert not on_disk(gallery)
    build_map(gallery)
    for _ in range(2):
        gallery.purge()
        assert load_map(gallery) is not None  # it is of these rows


def test_labels_of_removed_images_are_kept_for_a_month(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "p" / "0.png", 0)
    draw(tmp_path / "p" / "1.png", 1)

    def label() -> None:
        gallery.sync(tmp_path / "p", restore_removed=True)
        rows = gallery.store.get(["p:0.png"])
        labeled = type(rows)(
            rows.ids, rows.uris, rows.embeddings, [{"name": SECRET.decode()}], rows.hashes
        )
        gallery.upsert(labeled, fingerprint=gallery.fingerprint, written=frozenset({"name"}))

    def archive() -> list[Any]:
        return [*Gallery.open(gallery.path).archive.values()]

    label()
    gallery.remove_rows(["p:0.png"], purge=True)
    assert archive() == []
    label()
    gallery.remove(["p:0.png"])
    assert archive() == [{"name": SECRET.decode()}]
    path = gallery.path / FILE
    fields = json.loads(path.read_text())
    [day] = fields["days"].values()
    assert day == datetime.now(UTC).date().isoformat()
    fields["days"] = dict.fromkeys(fields["days"], "2020-01-01")
    for expire in (gallery.purge, gallery.optimize, lambda: gallery.sync(tmp_path / "p")):
        path.write_text(json.dumps(fields))
        assert archive() == []
        assert SECRET in path.read_bytes()
        expire()
        assert SECRET not in path.read_bytes()
    label()
    gallery.remove(["p:0.png"])
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "days": {}}))  # as written before there were days
    assert archive() == [{"name": SECRET.decode()}]


@pytest.mark.skipif(os.name == "nt", reason="its file names are texts without control characters")
@pytest.mark.parametrize("name", [b"a\nb", b"a\tb", b"a\xffb", b"a?mode=memory#%20b"])
def test_a_gallery_can_be_in_any_folder(name: bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b"/g"))
    Gallery.from_embeddings(np.eye(4, dtype=np.float32), path=path)
    gallery = Gallery.open(path)
    assert gallery.search(id="2", k=3)
    gallery.remove("2")
    gallery.purge()
    assert list(Gallery.open(path)) == ["0", "1", "3"]
    assert all(check.ok for check in check_gallery(str(path), deep=True))


def test_uploads_follow_no_link(tmp_path: Path) -> None:
    gallery = Gallery.create(
        tmp_path / "g.gallery", encoder=open_encoder("color", [np.zeros((9, 9, 3), np.uint8)])
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (gallery.path / "images").symlink_to(elsewhere)
    embedding = np.zeros((1, gallery.store.dim), np.float32)
    with pytest.raises(ArtifactError, match="is a link"):
        uploads.put(gallery, "a", b"image", embedding, {}, gallery.fingerprint)
    assert list(elsewhere.iterdir()) == []
    assert len(gallery) == 0


def test_an_interrupted_purge_says_how_to_finish_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as raised, interruptible("my g.gallery", purge=True):
        raise KeyboardInterrupt
    assert raised.value.exit_code == 130
    expected = "interrupted; to finish: lookalike remove 'my g.gallery' --purge\n"
    assert capsys.readouterr().err == expected


def test_the_command_purges_what_was_removed_before(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "p" / "0.png", 0)
    gallery.sync(tmp_path / "p")
    rows = gallery.store.get(["p:0.png"])
    labeled = replace(rows, metadata=[{"name": SECRET.decode()}])
    gallery.upsert(labeled, fingerprint=gallery.fingerprint, written=frozenset({"name"}))
    gallery.remove(["p:0.png"])
    upload(gallery, "x", {"name": SECRET.decode()})
    uploads.remove(gallery, "api:x")
    assert on_disk(gallery)
    command = ["remove", str(gallery.path), "--purge"]
    assert "dry run" in lookalike(*command, "--dry-run").stdout
    assert on_disk(gallery)
    done = lookalike(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert not on_disk(gallery)
