"""The types of the public API, as ``mypy --strict`` shows them to projects that use it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = '''
"""Uses the API as docs/python.md does; ``assert_type`` tells a type from Any."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lookalike as la
from lookalike.types import Progress


def encode(path: Path, picture: Image.Image, array: NDArray[np.uint8]) -> None:
    encoder = la.open_encoder("hog", images="photos")
    assert_type(encoder, la.Encoder)
    assert_type(encoder.encode("a.jpg"), NDArray[np.float32])
    encoder.encode(["a.jpg", path, picture, array, b""], batch_size=64, show_progress=True)
    encoder.encode(np.zeros((4, 8, 8), np.float32), value_range=(0, 1))
    assert_type(encoder.dim, int)


def own_function(images: Any) -> NDArray[np.float32]:
    return np.zeros((len(images), 3), np.float32)


def create() -> la.Gallery:
    gallery = la.Gallery.create("photos.gallery", encoder="efficientnet-lite0")
    own = la.encoders.from_callable(own_function, dim=3, name="mine", fingerprint="v1")
    la.Gallery.create(Path("own.gallery"), encoder=own, metric="l2")
    gallery.sync("photos")
    gallery.sync(Path("photos"), progress=False)
    gallery.sync("photos", progress=report)
    vectors = np.zeros((2, 3))
    la.Gallery.from_embeddings(vectors, ids=["a", "b"], uris=[None, "b.jpg"], metadata=[{}, {}])
    return gallery


def report(progress: Progress) -> None:
    print(progress.task, progress.done, progress.total)


def rows(gallery: la.Gallery) -> None:
    ids = gallery.add(["a.jpg"], ids=["a"], metadata=[{"year": 2020}])
    assert_type(ids, list[str])
    assert_type(gallery.remove(ids), int)
    assert_type(gallery.get("a"), la.GalleryItem | None)
    assert_type(gallery.get(["a", "b"]), list[la.GalleryItem | None])
    assert_type(gallery["a"], la.GalleryItem)
    assert_type(gallery["a"].embedding, NDArray[np.float32])
    assert_type(gallery["a"].image(), NDArray[np.uint8])
    assert_type("a" in gallery, bool)
    assert_type(len(gallery), int)
    assert_type(list(gallery), list[str])


def search(gallery: la.Gallery, picture: Image.Image) -> None:
    assert_type(gallery.search("q.jpg", k=20, where="year >= 2020"), la.Hits)
    assert_type(gallery.search(picture, min_similarity=0.5), la.Hits)
    assert_type(gallery.search(np.zeros((8, 8), np.uint8)), la.Hits)
    assert_type(gallery.search(id="a"), la.Hits)
    assert_type(gallery.search(text="red"), la.Hits)
    assert_type(gallery.search(vector=np.zeros(3)), la.Hits)
    assert_type(gallery.search(["a.jpg", "b.jpg"]), list[la.Hits])
    assert_type(gallery.search([Path("a.jpg"), picture]), list[la.Hits])
    assert_type(gallery.search(vectors=np.zeros((2, 3))), list[la.Hits])
    assert_type(gallery.search(like=["a.jpg"], unlike=["b.jpg"], weights=[1, 0.5]), la.Hits)


def use(hits: la.Hits) -> None:
    assert_type(hits.ids, list[str])
    assert_type(hits.distances, NDArray[np.float64])
    assert_type(hits.similarities, NDArray[np.float64])
    assert_type(hits[0], la.Hit)
    assert_type(hits[:3], la.Hits)
    assert_type(hits.metric, la.Metric)
    hits.to_pandas()
    hits.to_arrow()
    hits.save_sheet("x.png")
    for hit in hits:
        print(hit.rank, hit.id, hit.distance, hit.metadata.get("label"))


def judge(gallery: la.Gallery) -> None:
    evaluation = la.evaluate(gallery, baselines=True)
    assert_type(evaluation, la.Evaluation)
    la.duplicates(gallery)
    la.map(gallery)
    la.propagate_labels(gallery, {"a": "cat", "b": ["dog", "black"]})
    gallery.neighbors(k=10)
    assert_type(gallery.export("rows.parquet"), int)
    gallery.copy_to("copy.gallery")


def remote() -> None:
    gallery = la.Client("http://127.0.0.1:8000").gallery("photos")
    assert_type(gallery.search("q.jpg"), la.Hits)
    assert_type(gallery.search(["a.jpg", "b.jpg"]), list[la.Hits])
    assert_type(gallery["a"], la.GalleryItem)


def errors(gallery: la.Gallery) -> str:
    try:
        gallery["nothing"]
    except la.MissingRowError as error:
        return str(error)
    except la.LookalikeError:
        raise
    return ""


def draw(hits: la.Hits) -> bytes:
    return la.contact_sheet(hits)._repr_png_()


class Sink:
    """Takes what implementations of a store or a source are annotated with."""

    store: la.VectorStore
    source: la.Source
    request: la.SearchRequest
'''

BAD = {
    "la.Galery": "attr-defined",
    'la.open_encoder("hog").encod("a.jpg")': "attr-defined",
    'la.open_encoder(3, images="photos")': "arg-type",
    "la.Gallery.create()": "call-arg",
    'la.Gallery.open("g").search("q.jpg", k="7")': "call",
    'la.Gallery.open("g").search("q.jpg", n=7)': "call",
    'la.Gallery.open("g").search("q.jpg").similar': "attr-defined",
    'x: int = la.Gallery.open("g").search("q.jpg")': "assignment",
    'y: la.Hits = la.Gallery.open("g").search(["q.jpg"])': "assignment",
    'la.Gallery.open("g").search("q.jpg").ids.tolist()': "attr-defined",
    'la.Gallery.open("g")[0]': "index",
    'la.Gallery.open("g").sync("photos", progress="yes")': "arg-type",
    'la.evaluate("g.gallery", 3)': "arg-type",
    'la.evaluate(la.Gallery.open("g")).precision_at_7': "attr-defined",
    'la.encoders.from_callable(print, name="mine")': "call-arg",
    "la.contact_sheet(3)": "arg-type",
    'z: str = la.MissingDependencyError("a", "b", "c")': "assignment",
    'la.Gallery.open("g").search("q.jpg").save_sheet()': "call-arg",
}
"""Mistakes, and what mypy calls them; "call" stands for any complaint about a call."""


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what ``mypy --strict`` says of a correct and an incorrect module, by module."""
    folder = tmp_path_factory.mktemp("consumer")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text("\n".join(["import lookalike as la", *BAD]) + "\n")
    options = ["--strict", "--config-file=", "--cache-dir=cache", "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "good.py", "bad.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    lines: dict[str, list[str]] = {"good.py": [], "bad.py": []}
    for line in done.stdout.splitlines():
        if not re.search(r": note: ", line):
            lines[line.partition(":")[0]].append(line)
    return lines


@pytest.mark.slow
def test_a_correct_consumer_passes_strict_checks(complaints: dict[str, list[str]]) -> None:
    assert "\n".join(complaints["good.py"]) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), list(enumerate(BAD.values(), 2)), ids=list(BAD))
def test_mistakes_of_a_consumer_are_refused(
    complaints: dict[str, list[str]], number: int, code: str
) -> None:
    found = [line for line in complaints["bad.py"] if line.startswith(f"bad.py:{number}:")]
    assert found
    assert any(code in line.rpartition("[")[2] for line in found), found


def test_the_package_says_that_it_is_typed() -> None:
    import lookalike

    assert (Path(str(lookalike.__file__)).parent / "py.typed").exists()
