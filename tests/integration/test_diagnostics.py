"""Export, doctor, the default encoder, and folders of broken files."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookalike.cli.doctor import _print
from lookalike.diagnostics import Check, checks
from lookalike.errors import ArtifactError, UnknownNameError
from lookalike.gallery.export import LAYOUTS, export
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
    assert export(gallery, tmp_path / "lines", layout="jsonl") == 400
    lines = (tmp_path / "lines" / "rows.jsonl").read_text().splitlines()
    objects = [json.loads(line) for line in lines]
    embeddings = np.load(tmp_path / "lines" / "embeddings.npy")
    rows = gallery.store.get([each["id"] for each in objects])
    np.testing.assert_array_equal(embeddings, rows.embeddings)
    assert [each["metadata"] for each in objects] == list(rows.metadata)
    assert [each["content_hash"] for each in objects] == list(rows.hashes)
    assert export(gallery, tmp_path / "g.lance", layout="lance") == 400
    lance_table = lance.dataset(tmp_path / "g.lance").to_table()
    assert lance_table.sort_by("id").equals(table.sort_by("id"))
    for path in ("g.parquet", "clip", "lines", "g.lance"):
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

    for layout in LAYOUTS:
        with pytest.raises(StopError):
            export(gallery, tmp_path / "out", layout=layout, on_progress=stop)
        assert [path.name for path in tmp_path.iterdir()] == ["digits.gallery"]


@pytest.fixture(scope="module")
def doctor() -> dict[str, dict[str, Any]]:
    done = lookalike("doctor", "--json")
    assert done.returncode == 0, done.stdout
    return {check["name"]: check for check in json.loads(done.stdout)}


@pytest.mark.slow
def test_doctor_tries_every_part(doctor: dict[str, dict[str, Any]]) -> None:
    """What is called ok was used, and the line says how; facts need no probe."""
    for name in (
        *("embeddings", "rows", "images", "charts", "torch", "timm", "transformers"),
        *("parquet", "lance"),
        *("tokenizers", "service", "map", "heif", "raw", "geometric", "milvus", "ray", "cache"),
    ):
        assert doctor[name]["ok"] in (True, False, None), name
        assert doctor[name]["tried"] or doctor[name]["ok"] is None, name
    assert doctor["rows"]["tried"] == "wrote and searched rows"
    assert "JPEG, PNG, WEBP" in doctor["images"]["tried"]
    assert {name for name, check in doctor.items() if check["required"]} == {
        *("embeddings", "rows", "images", "efficientnet-lite0", "tokenizers", "cache"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "transformers"])
def test_doctor_agrees_with_an_import(doctor: dict[str, dict[str, Any]], name: str) -> None:
    """Both import torchvision, which may be built for another torch."""
    module = "lookalike.encoders.torchvision_repair"
    code = f"from {module} import import_beside_torchvision as i; m = i({name!r}, 'the test')"
    code += "; m.CLIPModel" if name == "transformers" else ""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert doctor[name]["ok"] is (done.returncode == 0)
    if done.returncode != 0:
        reason = doctor[name]["detail"].partition("Error: ")[2].partition(";")[0]
        assert reason
        assert reason in done.stderr


def test_a_broken_part_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that fails, and one that kills its process."""
    parts = {part.name: part for part in checks._PARTS}
    (tmp_path / "watchfiles.py").write_text("raise RuntimeError('no inotify\\nand more')")
    (tmp_path / "rawpy.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *sys.path)))
    failed, killed = checks._try(parts["watch"]), checks._try(parts["raw"])
    assert (failed.ok, failed.required) == (False, False)
    assert failed.detail.endswith(": RuntimeError: no inotify")
    assert killed.ok is False
    assert ": the process ended with -6: " in killed.detail


def test_what_is_missing_has_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    results = {part.name: checks._try(part) for part in checks._PARTS}
    assert results["timm"].ok is None
    assert results["timm"].detail == "pip install 'lookalike[timm]' (encoders timm:NAME)"
    assert results["images"].ok is False
    assert results["images"].required


def test_doctor_fails_if_the_cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_PARTS", ())
    monkeypatch.setenv("LOOKALIKE_DATA", "/proc/nowhere")
    monkeypatch.setenv("LOOKALIKE_THREADS", "99")
    broken = lookalike("doctor")
    assert broken.returncode == 1
    assert "ok     threads             99 (LOOKALIKE_THREADS)" in broken.stdout
    assert "BROKEN cache " in broken.stdout


def test_lines_of_doctor_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "timm 1.0.31: RuntimeError: operator torchvision::nms does not exist; reinstall it"
    _print(Check("transformers", False, reason, "used it"))
    _print(Check("images", True, "PIL 13", "wrote and read " + ", ".join(["JPEG"] * 20)))
    _print(Check("ray", None, "pip install 'lookalike[scale]' (index --runner ray)"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("BROKEN transformers ")
    assert lines[-1].startswith("-      ray ")


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
