"""What a shop of half a million images costs on one machine: to encode, to hold, to ask.

    python benchmarks/shop.py rows [ROWS]              re-ranked search, 500,000 x 256 unless given
    python benchmarks/shop.py images ENCODER [IMAGES]  50,000 images unless given, from tar shards

The first makes a Lance table of clustered vectors and asks it in every way but spatial
verification, whose cost does not depend on the rows. The second cuts JPEGs of 320x320 from the
photographs that scikit-image and scikit-learn bring, writes them as img2dataset does, and indexes
them with an encoder folder, such as one that lookalike adapt made.
"""

from __future__ import annotations

import io
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from large import DIM, clusters
from lookalike.datasets.stamps import background_photos
from lookalike.encoders.persistence import load_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.search.query import QueryVectors
from lookalike.search.rerank import DEPTH
from lookalike.search.search import RERANKINGS, SearchOptions
from lookalike.stores.base import Rows
from lookalike.stores.lance.store import LanceStore
from lookalike.types import Metric, Progress

ROWS, IMAGES, QUERIES = 500_000, 50_000, 60
_PART = 50_000
_SHARD = 10_000
_SIDE = 320


def ask(count: int) -> None:
    """Time plain and re-ranked search over ``count`` rows in a table on the disk."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        path = Path(folder, "store")
        LanceStore.create(path, DIM)
        store = LanceStore.open(path)
        start = time.perf_counter()
        for first in range(0, count, _PART):
            size = min(_PART, count - first)
            ids = [f"shop:{first + i:08}" for i in range(size)]
            blank = [""] * size
            store.upsert(Rows(ids, ids, clusters(size, first + 1), [{}] * size, blank))
        size_mb = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
        print(
            f"{count:,} rows of {DIM} written in {time.perf_counter() - start:.0f} s, "
            f"{size_mb:,.0f} MB on the disk"
        )
        queries = clusters(QUERIES, 999_999_937)
        steps = [name for name in RERANKINGS if name != "geometric"]
        for name in ("", *steps, "aqe+k-reciprocal", "14 views"):
            rerank = "" if name == "14 views" else name
            search = SearchOptions(k=7, metric=Metric.COSINE, rerank=rerank or None)
            times = []
            for number, query in enumerate(queries):
                views = query[None]
                if name == "14 views":
                    views = np.concatenate([views, queries[(number + np.arange(13)) % QUERIES]])
                start = time.perf_counter()
                search.run(store, QueryVectors("", None, views), lambda hits: [None] * len(hits))
                times.append((time.perf_counter() - start) * 1000)
            p50, p95 = np.percentile(times[3:], [50, 95])
            print(f"{name or 'plain':18} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms")
        print(f"re-ranking looks at the first {DEPTH} hits; peak memory {_megabytes():,.0f} MB")


def index(encoder: Path, count: int) -> None:
    """Index ``count`` images from tar shards with an encoder folder."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        shards = Path(folder, "shards")
        size = _write_shards(shards, count)
        print(f"{count:,} JPEGs of {_SIDE}x{_SIDE}, {size / 1e6:,.0f} MB in shards")
        path = Path(folder, "shop.gallery")
        gallery = Gallery.create(path, encoder=load_encoder(encoder))
        report = gallery.sync(str(shards), on_progress=_say)
        disk = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
        rate = report.added / report.seconds
        print(
            f"{report.added:,} indexed in {report.seconds:.0f} s, {rate:.0f} images/s; gallery of "
            f"{gallery.encoder.dim} dimensions {disk:,.0f} MB; peak memory {_megabytes():,.0f} MB\n"
            f"so half a million take {ROWS / rate / 3600:.1f} hours"
        )


def _write_shards(folder: Path, count: int) -> int:
    """Write distinct cut-outs of photographs as tar shards; return their size in bytes."""
    folder.mkdir()
    grounds = [Image.fromarray(image) for image in background_photos()]
    rng = np.random.default_rng(0)
    total = 0
    for first in range(0, count, _SHARD):
        with tarfile.open(folder / f"{first // _SHARD:05}.tar", "w") as shard:
            for number in range(first, min(first + _SHARD, count)):
                ground = grounds[int(rng.integers(len(grounds)))]
                side = int(rng.integers(100, min(ground.size)))
                left, top = (int(rng.integers(0, length - side + 1)) for length in ground.size)
                file = io.BytesIO()
                part = ground.crop((left, top, left + side, top + side))
                part.convert("RGB").resize((_SIDE, _SIDE)).save(file, "JPEG", quality=85)
                info = tarfile.TarInfo(f"{number:09}.jpg")
                info.size = file.tell()
                total += info.size
                file.seek(0)
                shard.addfile(info, file)
    return total


def _say(progress: Progress) -> None:
    if progress.done % 5_000 < 32:
        print(f"{progress.task}: {progress.done:,}", file=sys.stderr)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or ["rows"]
    if what == "rows":
        ask(int(rest[0]) if rest else ROWS)
    elif what == "images" and rest:
        index(Path(rest[0]), int(rest[1]) if len(rest) > 1 else IMAGES)
    else:
        sys.exit(__doc__)
