"""The Python API: queries in one call, evaluation with baselines, and the time to import.

    python benchmarks/python_api.py [search] [evaluate] [import] [--images N] [--against PATH]

``search``: 300 queries in one call compared with one by one, on a gallery of 60,000 rows; with
vectors and with images. ``evaluate``: a gallery of N images of 320x320 pixels with baselines;
``--against`` is another checkout of lookalike, which runs in turn with this one. ``import``: CPU
time of fresh processes. All sections run unless some are named. Compare ratios within one run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lookalike as la
from lookalike.stores.base import Rows

ROWS, DIM, QUERIES, K = 60_000, 128, 300, 7
SEARCH_ROUNDS = 5
IMPORT_ROUNDS = 21
SIDE = 320
LABELS = 20
SECTIONS = ("search", "evaluate", "import")
TARGETS = {"search": 4.0, "evaluate": 3.0, "lookalike": 20.0, "gallery": 250.0}
"""Ratios of times; milliseconds of CPU."""

EVALUATE = """
import sys, time
import lookalike as la

folder, path = sys.argv[1:]
source = la.open_source(folder)
sample = [source[number].image() for number in range(min(50, len(source)))]
gallery = la.Gallery.create(path, encoder=la.open_encoder("hog", sample))
gallery.sync(folder)
start = time.perf_counter()
evaluation = la.evaluate(gallery, k=7, baselines=True)
print(time.perf_counter() - start, evaluation.scores.precision.value, len(evaluation.baselines))
"""
"""Runs with this version and with older ones; prints the seconds of an evaluation."""


def random_vectors(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return vectors around 100 centers, as embeddings are."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(100, dim))
    picked = centers[rng.integers(100, size=count)]
    return np.asarray(picked + 0.5 * rng.normal(size=(count, dim)), np.float32)


def random_images(count: int, side: int, seed: int) -> list[NDArray[np.uint8]]:
    """Return smooth color images of some kinds; the kind of the nth is ``n % LABELS``."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 256, (LABELS, 8, 8, 3))
    images = []
    for number in range(count):
        noisy = np.clip(kinds[number % LABELS] + rng.normal(0, 40, (8, 8, 3)), 0, 255)
        small = Image.fromarray(noisy.astype(np.uint8))
        images.append(np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)))
    return images


def seconds(call: Callable[[], object]) -> float:
    """Return the duration of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare_search(
    name: str, single: Callable[[int], la.Hits], batch: Callable[[], list[la.Hits]]
) -> None:
    """Time queries one by one and in one call, in turn, and compare their results."""
    batch(), [single(i) for i in range(20)]
    times = []
    for _ in range(SEARCH_ROUNDS):
        one_by_one = seconds(lambda: [single(i) for i in range(QUERIES)])
        times.append((one_by_one, seconds(batch)))
    equal = sum(single(i).ids == hits.ids for i, hits in enumerate(batch()))
    ratios = [slow / fast for slow, fast in times]
    slow, fast = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name:8} one by one {slow:7.3f} s   in one call {fast:7.3f} s   "
        f"ratio {statistics.median(ratios):5.1f} ({min(ratios):.1f} to {max(ratios):.1f}; "
        f"target {TARGETS['search']:.0f})   equal results: {equal} of {QUERIES}"
    )


def search() -> None:
    """Compare searches with many queries, of vectors and of images."""
    queries = random_vectors(QUERIES, DIM, 1)
    gallery = la.Gallery.from_embeddings(random_vectors(ROWS, DIM, 0))
    print(f"{QUERIES} queries, {ROWS:,} x {DIM}, k = {K}")
    compare_search(
        "vectors",
        lambda i: gallery.search(vector=queries[i], k=K),
        lambda: gallery.search(vectors=queries, k=K),
    )
    images = random_images(QUERIES, 28, 2)
    encoder = la.open_encoder("hog", images)
    with tempfile.TemporaryDirectory() as folder:
        encoded = la.Gallery.create(f"{folder}/b.gallery", encoder=encoder)
        ids = [f"b:{number}" for number in range(ROWS)]
        vectors = random_vectors(ROWS, encoder.dim, 3)
        rows = Rows(ids, ids, vectors, [{}] * ROWS, ids)
        encoded.upsert([rows], fingerprint=encoder.fingerprint)
        compare_search(
            "images",
            lambda i: encoded.search(images[i], k=K),
            lambda: encoded.search(images, k=K),
        )


def evaluate(count: int, against: Path | None) -> None:
    """Time an evaluation with baselines, of this checkout and of another one in turn."""
    checkouts = {"this": Path(__file__).resolve().parents[1]}
    if against is not None:
        checkouts["other"] = against.resolve()
    print(f"evaluate with baselines: {count:,} images of {SIDE}x{SIDE}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, image in enumerate(random_images(count, SIDE, 4)):
            path = folder / "images" / f"kind-{number % LABELS}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=90)
        times = {}
        for name, checkout in checkouts.items():
            arguments = [str(folder / "images"), str(folder / f"{name}.gallery")]
            output = run_python(EVALUATE, arguments, PYTHONPATH=str(checkout / "src"))
            duration, precision, baselines = output.split()
            times[name] = float(duration)
            print(
                f"{name:8} {times[name]:8.1f} s   {count / times[name]:6.0f} images/s   "
                f"precision@7 {float(precision):.4f}   {baselines} baselines"
            )
    if against is not None:
        print(f"ratio {times['other'] / times['this']:.1f} (target {TARGETS['evaluate']:.0f})")


def run_python(code: str, arguments: Sequence[str] = (), **environment: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def cpu_milliseconds(code: str, **environment: str) -> float:
    """Return the CPU time of a fresh process, all of its threads, until it has run some code."""
    return 1000 * float(
        run_python(f"{code}\nimport time\nprint(time.process_time())", **environment)
    )


def imports() -> None:
    """Print the CPU time of imports above that of the interpreter alone, compiled before."""
    codes = {
        "python": "",
        "numpy": "import numpy",
        "lookalike": "import lookalike",
        "gallery": "import lookalike as la\nla.Gallery",
    }
    with tempfile.TemporaryDirectory() as cache:
        environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        for code in codes.values():
            run_python(code, **environment)
        times: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(IMPORT_ROUNDS):
            for name, code in codes.items():
                times[name].append(cpu_milliseconds(code, **environment))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"CPU of fresh processes, median of {IMPORT_ROUNDS}; python alone {median['python']:.0f} ms"
    )
    labels = {"numpy": "import numpy", "lookalike": "import lookalike", "gallery": "la.Gallery"}
    for name, label in labels.items():
        target = f"   (target {TARGETS[name]:.0f})" if name in TARGETS else ""
        print(f"{label:18} {median[name] - median['python']:7.1f} ms{target}")


def main() -> None:
    """Run the sections that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="search, evaluate, import")
    parser.add_argument("--images", type=int, default=10_000, help="for evaluate (10,000)")
    parser.add_argument("--against", type=Path, help="another checkout, for evaluate")
    options = parser.parse_args()
    sections = options.sections or SECTIONS
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if "search" in sections:
        search()
    if "evaluate" in sections:
        evaluate(options.images, options.against)
    if "import" in sections:
        imports()


if __name__ == "__main__":
    main()
