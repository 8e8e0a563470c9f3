"""Indexing: throughput, memory, and the cost of adding one image.

    python benchmarks/index.py [WORK]
    python benchmarks/index.py --rate    # the third part alone

1. A second run over 10,000 unchanged files.
2. Peak memory while 100,000 files are indexed, at each tenth.
3. JPEGs of 640x427 from disk with efficientnet-lite0: images per second, compared with the limit of
   the cores (their number over the CPU seconds to decode and encode one image).
4. One image added to the JPEGs, compared with encoding and writing all of them again.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from lookalike.config import settings
from lookalike.encoders.base import Encoder
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import decode
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from lookalike.types import Progress

JPEGS = 1_500
UNCHANGED = 10_000
FILES = 100_000
DISTINCT = 500


def jpegs(folder: Path, count: int) -> None:
    """Write photos of 640x427: random crops of two photos with random brightness."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for number in range(count):
        image = photos[number % 2]
        left, top = (int(rng.integers(0, 60)) for _ in range(2))
        image = image.crop((left, top, left + 580, top + 367)).resize((640, 427))
        pixels = np.asarray(image, np.float32) * rng.uniform(0.7, 1.3)
        bright = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        bright.save(folder / f"{number:05}.jpg", quality=90)


def small_files(folder: Path, count: int) -> None:
    """Write many small JPEGs, with duplicates."""
    rng = np.random.default_rng(1)
    contents = []
    for _ in range(DISTINCT):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(file, "JPEG")
        contents.append(file.getvalue())
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % DISTINCT])


def cpu_seconds(encoder: Encoder, paths: Sequence[Path]) -> tuple[float, float]:
    """Return the CPU seconds to decode and to encode one image, with one thread."""
    files = [path.read_bytes() for path in paths]
    start = time.process_time()
    images = [decode(data) for data in files]
    decoded = time.process_time()
    for begin in range(0, len(images), 16):
        encoder.encode(images[begin : begin + 16])
    encoded = time.process_time()
    return (decoded - start) / len(paths), (encoded - decoded) / len(paths)


def rate(work: Path, encoder: Encoder) -> None:
    """Print the throughput of indexing, and its share of the limit of the cores."""
    paths = sorted((work / "jpegs").iterdir())
    limits, rates = [], []
    for turn in range(3):
        decoding, encoding = cpu_seconds(encoder, paths[:100])
        limits.append(settings().threads / (decoding + encoding))
        gallery = Gallery.create(work / f"rate{turn}.gallery", encoder=encoder)
        start = time.perf_counter()
        gallery.sync(work / "jpegs")
        rates.append(len(paths) / (time.perf_counter() - start))
        print(
            f"  {rates[-1]:6.1f} images/s, limit of {settings().threads} cores {limits[-1]:6.1f} "
            f"({1000 * decoding:.1f} ms to decode, {1000 * encoding:.1f} to encode)"
        )
    print(f"  share of the limit: {np.median(np.array(rates) / np.array(limits)):.2f}")


def unchanged(work: Path) -> None:
    """Print the duration of a run without changes."""
    small_files(work / "unchanged", UNCHANGED)
    source = open_source(work / "unchanged")
    gallery = Gallery.create(
        work / "u.gallery", encoder=open_encoder("color", sample_images(source))
    )
    gallery.sync(source)
    start = time.perf_counter()
    report = gallery.sync(work / "unchanged")
    print(f"  {report.unchanged:,} unchanged files: {time.perf_counter() - start:.2f} s")


def memory(work: Path) -> None:
    """Print the peak memory while files are indexed."""
    small_files(work / "many", FILES)
    encoder = open_encoder("color", sample_images(open_source(work / "unchanged")))
    gallery = Gallery.create(work / "m.gallery", encoder=encoder)
    peaks: dict[int, float] = {}

    def measure(progress: Progress) -> None:
        tenth = 10 * progress.done // FILES
        if tenth not in peaks:
            peaks[tenth] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    start = time.perf_counter()
    gallery.sync(work / "many", progress=measure)
    seconds = time.perf_counter() - start
    print(f"  {FILES:,} files in {seconds:.0f} s; peak MB at each tenth:")
    print("  " + " ".join(f"{megabytes:.0f}" for megabytes in peaks.values()))


def one_more(work: Path, encoder: Encoder) -> None:
    """Print the cost of one more image, compared with encoding and writing all again."""
    gallery = Gallery.open(work / "rate0.gallery")
    gallery.encoder.encode([np.zeros((8, 8, 3), np.uint8)])
    shutil.copy(work / "jpegs" / "00000.jpg", work / "jpegs" / "new.jpg")
    with (work / "jpegs" / "new.jpg").open("ab") as file:
        file.write(b"\0")  # new content
    start = time.perf_counter()
    assert gallery.sync(work / "jpegs").added == 1
    incremental = time.perf_counter() - start
    start = time.perf_counter()
    images = [decode(path) for path in sorted((work / "jpegs").iterdir())]
    rows = np.concatenate([encoder.encode([image]) for image in images])
    np.save(work / "all.npy", rows)
    complete = time.perf_counter() - start
    print(
        f"  incremental {incremental:.2f} s, complete {complete:.1f} s: "
        f"{complete / incremental:.0f} times faster"
    )


def main() -> None:
    """Run all benchmarks, or the third."""
    arguments = [each for each in sys.argv[1:] if each != "--rate"]
    only_rate = len(arguments) < len(sys.argv) - 1
    with tempfile.TemporaryDirectory(dir=arguments[0] if arguments else None) as folder:
        work = Path(folder)
        if not only_rate:
            print("no changes")
            unchanged(work)
            print("memory")  # first: the peak never falls
            memory(work)
        encoder = open_encoder("efficientnet-lite0", [])
        jpegs(work / "jpegs", JPEGS)
        print(f"{JPEGS} JPEGs of 640x427 with efficientnet-lite0, {os.cpu_count()} cores")
        rate(work, encoder)
        if not only_rate:
            print("one image added")
            one_more(work, encoder)


if __name__ == "__main__":
    main()
