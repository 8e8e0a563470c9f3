"""Export, doctor, the default encoder, and folders of broken files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike import diagnostics
from lookalike.errors import ArtifactError, UnknownNameError
from lookalike.gallery.export import export
from lookalike.gallery.gallery import Gallery
from tests.integration.test_cli import lookalike, run


def test_export_writes_all_rows(gallery: Gallery, tmp_path: Path) -> None:
    assert export(gallery, tmp_path / "g.parquet") == 400
    table = pq.read_table(tmp_path / "g.parquet")
    rows = gallery.store.get(table["id"].to_pylist())
    np.testing.assert_array_equal(np.stack(table["embedding"].to_pylist()), rows.embeddings)
    assert [json.loads(text) for text in table["metadata"].to_pylist()] == list(rows.metadata)
    assert export(gallery, tmp_path / "clip", layout="npy") == 400
    embeddings = np.load(tmp_path / "clip" / "img_emb" / "img_emb_0.npy")
    facts = pq.read_table(tmp_path / "clip" / "metadata" / "metadata_0.parquet")
    np.testing.assert_array_equal(embeddings, gallery.store.get(facts["id"].to_pylist()).embeddings)
    assert facts["image_path"].to_pylist()[0].startswith("dataset:digits/train#")
    for path in ("g.parquet", "clip"):
        with pytest.raises(ArtifactError, match="already exists"):
            export(gallery, tmp_path / path)
    with pytest.raises(UnknownNameError, match="unknown layout 'npz': did you mean 'npy'"):
        export(gallery, tmp_path / "x", layout="npz")
    printed = run("export", gallery.path, "h.parquet", cwd=tmp_path)
    assert printed == "h.parquet: 400 rows, parquet\n"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_an_export_that_fails_leaves_nothing(gallery: Gallery, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(_: object) -> None:
        raise StopError

    for layout in ("parquet", "npy"):
        with pytest.raises(StopError):
            export(gallery, tmp_path / "out", layout=layout, on_progress=stop)
        assert [path.name for path in tmp_path.iterdir()] == ["digits.gallery"]


def test_doctor_checks_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("doctor")
    assert max(len(line) for line in printed.splitlines() if "cache" not in line) <= 80
    for name in ("lookalike", "embeddings", "tables", "images", "torch", "cache", "threads"):
        assert f"ok     {name} " in printed, name
    checks = {check["name"]: check for check in json.loads(run("doctor", "--json"))}
    assert checks["tables"]["detail"].endswith("writes and searches")
    assert "JPEG, PNG, WEBP" in checks["images"]["detail"]
    monkeypatch.setenv("LOOKALIKE_DATA", "/proc/nowhere")
    broken = lookalike("doctor")
    assert broken.returncode == 1
    assert "BROKEN cache" in broken.stdout
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    missing = {check.name: check for check in diagnostics.run_checks()}
    assert missing["timm"].ok is None
    assert "pip install 'lookalike[timm]'" in missing["timm"].detail


def test_index_names_the_default_encoder(folder: Path, tmp_path: Path) -> None:
    done = lookalike("index", "g", folder, cwd=tmp_path)
    assert done.returncode == 0
    assert "encoder: hog-fine+color (small color images)" in done.stderr
    assert Gallery.open(tmp_path / "g").encoder.name == "hog-fine+color"


def test_completion_can_be_installed() -> None:
    shown = run("--help")
    assert "--install-completion" in shown


def test_every_image_of_a_hostile_folder_gets_one_status(tmp_path: Path) -> None:
    """Truncated, corrupted and other files: nothing stops the run, each is listed once."""
    rng = np.random.default_rng(0)
    root = tmp_path / "hostile"
    root.mkdir()
    whole = {}
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp")):
        image = Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8))
        image.save(root / f"fine.{suffix}", kind)
        whole[suffix] = (root / f"fine.{suffix}").read_bytes()
    for suffix, data in whole.items():
        for cut in range(0, len(data), max(1, len(data) // 25)):
            (root / f"cut{cut}.{suffix}").write_bytes(data[:cut])
            corrupted = bytearray(data)
            for place in rng.integers(0, len(data), 8):
                corrupted[place] = rng.integers(0, 256)
            (root / f"corrupted{cut}.{suffix}").write_bytes(bytes(corrupted))
    (root / "folder.png").mkdir()
    (root / "gone.png").symlink_to(root / "nowhere")
    done = lookalike("index", "g", "hostile", "--encoder", "color", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    files = sum(path.is_file() or path.is_symlink() for path in root.iterdir())
    assert report["added"] + len(report["failed"]) == files
    assert len({failure["uri"] for failure in report["failed"]}) == len(report["failed"])
    assert all(failure["reason"] for failure in report["failed"])
    again = json.loads(lookalike("index", "g", "hostile", "--json", cwd=tmp_path).stdout)
    assert again["unchanged"] == report["added"]
    assert again["failed"] == report["failed"]
