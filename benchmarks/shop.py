"""The cost of a shop with half a million images on one machine: indexing, storage, search.

    python benchmarks/shop.py rows [ROWS]              search latency [default: 500,000 rows]
    python benchmarks/shop.py images ENCODER [IMAGES]  indexing speed [default: 50,000 images]

`rows` fills a store on disk with clustered vectors and measures search with every re-ranking except
geometric verification, whose cost does not depend on the number of rows. `images` cuts JPEGs of
320x320 from photographs of scikit-image and scikit-learn, writes them as tar shards in the layout
of img2dataset, and indexes them with an encoder folder, e.g. one of lookalike adapt.
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

from clusters import DIM, blocks, clusters
from lookalike.datasets.stamps import background_photos
from lookalike.encoders.persistence import load_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.search.query import QueryVectors
from lookalike.search.request import RERANKINGS, Query, SearchRequest
from lookalike.search.rerank import DEPTH
from lookalike.search.search import search_rows
from lookalike.stores.base import Rows
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.types import Metric, Progress

ROWS, IMAGES, QUERIES = 500_000, 50_000, 60
CROPS = 14
MULTI_CROP = f"multi-crop ({CROPS})"
_SHARD = 10_000
_SIDE = 320


def measure_search(count: int) -> None:
    """Print latencies of plain and re-ranked search over ``count`` rows on disk."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        path = Path(folder, "store")
        store = EmbeddedStore.create(path, DIM)
        start, first = time.perf_counter(), 0
        for block in blocks(count, 1):
            ids = [f"shop:{number:08}" for number in range(first, first + len(block))]
            store.upsert(Rows(ids, ids, block, [{}] * len(block), [""] * len(block)))
            first += len(block)
        size_mb = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
        print(
            f"{count:,} rows of {DIM} written in {time.perf_counter() - start:.0f} s, "
            f"{size_mb:,.0f} MB on disk"
        )
        queries = clusters(QUERIES, 999_999_937)
        steps = [name for name in RERANKINGS if name != "geometric"]
        for name in ("", *steps, "aqe+k-reciprocal", MULTI_CROP):
            rerank = "" if name == MULTI_CROP else name
            request = SearchRequest(
                queries=(Query.of(id="encoded"),), metric=Metric.COSINE, rerank=rerank or None
            )
            times = []
            for number, query in enumerate(queries):
                crops = query[None]
                if name == MULTI_CROP:
                    others = (number + np.arange(CROPS - 1)) % QUERIES
                    crops = np.concatenate([crops, queries[others]])
                start = time.perf_counter()
                vectors = QueryVectors("", None, crops)
                search_rows(request, store, [vectors], lambda hits: [None] * len(hits))
                times.append((time.perf_counter() - start) * 1000)
            p50, p95 = np.percentile(times[3:], [50, 95])
            print(f"{name or 'plain':18} p50 {p50:6.1f} ms, p95 {p95:6.1f} ms")
        print(f"re-ranking depth {DEPTH} results; peak memory {_megabytes():,.0f} MB")


def measure_indexing(encoder: Path, count: int) -> None:
    """Print the time to index ``count`` images from tar shards."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        shards = Path(folder, "shards")
        size = _write_shards(shards, count)
        print(f"{count:,} JPEGs of {_SIDE}x{_SIDE}, {size / 1e6:,.0f} MB in shards")
        path = Path(folder, "shop.gallery")
        gallery = Gallery.create(path, encoder=load_encoder(encoder))
        report = gallery.sync(str(shards), progress=_print_progress)
        disk = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1e6
        rate = report.added / report.seconds
        print(
            f"{report.added:,} indexed in {report.seconds:.0f} s, {rate:.0f} images/s; gallery of "
            f"{gallery.encoder.dim} dimensions {disk:,.0f} MB; peak memory {_megabytes():,.0f} MB\n"
            f"{ROWS:,} images would take {ROWS / rate / 3600:.1f} hours"
        )


def _write_shards(folder: Path, count: int) -> int:
    """Write random crops of photographs as tar shards; return their total size in bytes."""
    folder.mkdir()
    photos = [Image.fromarray(image) for image in background_photos()]
    rng = np.random.default_rng(0)
    total = 0
    for first in range(0, count, _SHARD):
        with tarfile.open(folder / f"{first // _SHARD:05}.tar", "w") as shard:
            for number in range(first, min(first + _SHARD, count)):
                photo = photos[int(rng.integers(len(photos)))]
                side = int(rng.integers(100, min(photo.size)))
                left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
                file = io.BytesIO()
                crop = photo.crop((left, top, left + side, top + side))
                crop.convert("RGB").resize((_SIDE, _SIDE)).save(file, "JPEG", quality=85)
                info = tarfile.TarInfo(f"{number:09}.jpg")
                info.size = file.tell()
                total += info.size
                file.seek(0)
                shard.addfile(info, file)
    return total


def _print_progress(progress: Progress) -> None:
    if progress.done % 5_000 < 32:
        print(f"{progress.task}: {progress.done:,}", file=sys.stderr)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["rows"]
    if command == "rows":
        measure_search(int(rest[0]) if rest else ROWS)
    elif command == "images" and rest:
        measure_indexing(Path(rest[0]), int(rest[1]) if len(rest) > 1 else IMAGES)
    else:
        sys.exit(__doc__)
