"""No output of a command overwrites an input, by whatever path; CSV files have no formulas."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.artifacts import write_atomically
from lookalike.cli.output_files import check_output, write_folder
from lookalike.encoders.registry import open_encoder
from lookalike.errors import ArtifactError, StorageError
from lookalike.gallery.gallery import Gallery
from lookalike.sources import open_source
from tests.integration.test_cli import lookalike


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``photos`` and a manifest beside other images, and a gallery of both."""
    folder = tmp_path_factory.mktemp("outputs")
    for i, name in enumerate(("photos/=1+1/a.png", "photos/b.png", "photos/b.jpg", "more/c.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "items.csv").write_text("path\nmore/c.png\n")
    (folder / "other.png").write_bytes((folder / "photos" / "b.png").read_bytes())
    sources = open_source(folder / "photos"), open_source(folder / "items.csv")
    encoder = open_encoder("color", [item.image() for item in sources[0]])
    gallery = Gallery.create(folder / "g", encoder=encoder)
    for source in sources:
        gallery.sync(source)
    (folder / "labels.csv").write_text("id,label\nphotos:b.png,@x\nphotos:b.jpg,y\n")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "photos/b.png",
        "photos/../photos/b.png",
        "link.png",
        "linked/b.png",
        "hard.png",
        "more/c.png",
        "items.csv",
        "labels.csv",
        "g/gallery.json",
        "g/encoder/encoder.json",
    ],
)
def test_an_input_is_no_output(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    for link, target in (("link.png", "photos/b.png"), ("linked", "photos")):
        if not os.path.lexists(link):
            Path(link).symlink_to(target)
    if not os.path.lexists("hard.png"):
        Path("hard.png").hardlink_to("items.csv")
    gallery = Gallery.open("g")
    inputs = ("labels.csv", "items.csv", "no/such", "dataset:digits/train", None, "nul\0")
    with pytest.raises(ArtifactError, match=r"is an input of this command; .*force=True"):
        check_output(Path(name), force=False, gallery=gallery, inputs=inputs)
    check_output(Path(name), force=True, gallery=gallery, inputs=inputs)


def test_other_files_are_overwritten_and_folders_are_not(work: Path) -> None:
    gallery = Gallery.open(work / "g")
    for path in (None, work / "other.png", work / "photos" / "new.png", work / "no" / "new.png"):
        check_output(path, force=False, gallery=gallery, inputs=[work / "labels.csv"])
    with pytest.raises(ArtifactError, match="is a folder; name a file"):
        check_output(work / "photos", force=True)


def test_only_files_are_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)  # as /dev/stdout is a link to a pipe or a terminal
    for path in (pipe, link):
        with pytest.raises(ArtifactError, match="is not a regular file; name a file"):
            check_output(path, force=True)
        with pytest.raises(StorageError, match=r"cannot be written \(not a regular file"):
            write_atomically(path, b"x")
    assert pipe.is_fifo()
    assert link.is_symlink()


COMMANDS = {
    "map": ("explore", "map", "g", "-o", "photos/b.png"),
    "rows": ("explore", "map", "g", "-o", "g/gallery.json"),
    "model": (
        *("choose", "photos", "--labels", "labels.csv"),
        *("--encoder", "onnx:other.png", "--plot", "other.png"),
    ),
    "labels": ("label", "propagate", "g", "--labels", "labels.csv", "-o", "./labels.csv"),
    "photo": ("search", "g", "other.png", "--image", "photos/b.png"),
    "query": ("search", "g", "other.png", "--image", "other.png"),
    "manifest": ("evaluate", "g", "--report", "items.csv"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands_keep_their_inputs(case: str, work: Path) -> None:
    before = content(work)
    done = lookalike(*COMMANDS[case], cwd=work)
    assert done.returncode == 2
    assert "is an input of this command; choose another file, or overwrite it with --force" in (
        done.stderr
    )
    assert content(work) == before


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "other.png/x"])
@pytest.mark.parametrize("command", ["export", "encoder", "report"])
def test_what_cannot_be_a_path_is_an_error(command: str, name: str, work: Path) -> None:
    arguments = {
        "export": ("export", "g", name),
        "encoder": ("index", "new", "photos", "--encoder", name),
        "report": ("explore", "map", "g", "-o", name),
    }[command]
    done = lookalike(*arguments, cwd=work)
    assert (done.returncode, "error: " in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_an_image_that_is_gone_does_not_end_a_sheet(work: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    shutil.copytree(work / "g", gallery)
    opened = Gallery.open(gallery)
    records = list(opened.store.records())
    rows = opened.store.get([record.id for record in records])
    uris = [str(tmp_path / "gone.png"), "dataset:../x#1", *rows.uris[2:]]
    opened.upsert(replace(rows, uris=uris), fingerprint=opened.fingerprint)
    sheet = [(row_id, str(number)) for number, row_id in enumerate(rows.ids)]
    write_folder(opened, tmp_path / "out" / "a.csv", ("id",), [], sheet)
    assert (tmp_path / "out" / "sheet.png").stat().st_size > 1000


def test_a_table_of_propagated_labels_has_no_formulas_and_is_read_again(work: Path) -> None:
    for out in ("all.csv", "again.csv"):
        labels = "labels.csv" if out == "all.csv" else "all.csv"
        done = lookalike("label", "propagate", "g", "--labels", labels, "-o", out, cwd=work)
        assert done.returncode == 0, done.stderr
    text = (work / "all.csv").read_text()
    assert "photos:b.png,'@x," in text
    assert (work / "again.csv").read_text() == text
    done = lookalike(
        *("label", "propagate", "g", "--labels", "all.csv", "-o", "all.csv", "--force"), cwd=work
    )
    assert done.returncode == 0, done.stderr
    assert (work / "all.csv").read_text() == text
