"""What benchmarks/store.py compares, each in a process of its own that answers over a pipe.

    python benchmarks/store_engines.py ENGINE FOLDER ROWS DIM

Reads commands from stdin and writes results to stdout, a JSON list per line. Of lookalike, this
module uses only what older versions have, too: it also runs with another checkout on the path.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusters import BLOCK, DIM, SHARES, K, blocks, clusters, metadata, row_id

QUERIES = 1_000
QUERY_SEED = 2
EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
_GOAL = 0.99
_TUNED = 100
_M = 16
_CONSTRUCTION = 128
_ADDED = 100
"""Rows of a commit of the writer beside the readers."""

_PAUSE_S = 0.05


def filtered_value(share: str) -> int:
    """Return the value of a column of SHARES that filters ask for."""
    return SHARES[share] * 37 // 100


class Engine(ABC):
    """One store or index of the clustered vectors, in a folder."""

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        self.folder, self.rows, self.dim = folder, rows, dim
        self.queries = clusters(QUERIES, QUERY_SEED, dim)
        self._truth = np.load(truth) if (truth := folder / "truth-all.npy").exists() else None

    @abstractmethod
    def build(self) -> dict[str, float]:
        """Write all rows, or what is missing; return seconds, CPU seconds and bytes on disk."""

    @abstractmethod
    def find(self, queries: NDArray[np.float32], share: str, exact: bool) -> list[list[int]]:
        """Return the K nearest rows of queries, of all or those of a filter."""

    def prepare(self, share: str) -> None:
        """Prepare what a filter needs, without its being measured."""
        del share

    def tune(self) -> dict[str, float]:
        """Choose the least effort of an index with a recall of .99; none if there is no index."""
        return {}

    def search(self, first: int, last: int, share: str = "", exact: bool = True) -> dict[str, Any]:
        """Search with some queries one by one; return the milliseconds and rows of each."""
        self.prepare(share)
        self.find(self.queries[first : first + 1], share, exact)
        times, results = [], []
        for query in self.queries[first:last]:
            start = time.perf_counter()
            [rows] = self.find(query[None], share, exact)
            times.append(1000 * (time.perf_counter() - start))
            results.append(rows)
        return {"ms": times, "rows": results}

    def batch(self) -> float:
        """Return the milliseconds of each query, of many in one call."""
        start = time.perf_counter()
        self.find(self.queries, "", True)
        return 1000 * (time.perf_counter() - start) / len(self.queries)

    def memory(self) -> dict[str, float]:
        """Return MB: at most resident, mapped files included; and of the process's own now."""
        status = Path("/proc/self/status")
        own = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
        return {
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "own": int(own[0].split()[1]) / 1024 if own else 0.0,
        }

    def _recall(self) -> float:
        assert self._truth is not None
        found = self.find(self.queries[:_TUNED], "", False)
        pairs = zip(found, self._truth[:_TUNED].tolist(), strict=True)
        return sum(len({*rows} & {*truth}) for rows, truth in pairs) / K / _TUNED


class Lookalike(Engine):
    """A gallery in a folder, of this version or of another checkout."""

    name = "lookalike"

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        super().__init__(folder, rows, dim)
        from lookalike.encoders.external import ExternalEncoder
        from lookalike.gallery.gallery import Gallery

        self.path = folder / f"{self.name}.gallery"
        if not self.path.exists():
            Gallery.create(self.path, encoder=ExternalEncoder("clusters", dim))
        self.gallery = Gallery.open(self.path)
        self.store = self.gallery.store

    def _batches(self, first: int, spent: list[float]) -> Iterator[Any]:
        from lookalike.stores.base import Rows

        parts = blocks(self.rows, 1, self.dim, first)
        for number in range(first, -(-self.rows // BLOCK)):
            start = time.perf_counter(), time.process_time()
            vectors, place = next(parts), number * BLOCK
            ids = [row_id(place + i) for i in range(len(vectors))]
            hashes = [f"{place + i:064x}" for i in range(len(vectors))]
            rows = Rows(ids, ids, vectors, metadata(place, len(vectors)), hashes)
            spent[0] += time.perf_counter() - start[0]
            spent[1] += time.process_time() - start[1]
            yield rows

    def build(self) -> dict[str, float]:
        """Write rows in commits of 10,000, with their metadata."""
        existing = self.store.count()
        spent = [0.0, 0.0]  # to generate rows
        start = time.perf_counter(), time.process_time()
        fingerprint = self.gallery.fingerprint
        self.gallery.upsert(self._batches(existing // BLOCK, spent), fingerprint=fingerprint)
        seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        written = max(1, self.rows - existing // BLOCK * BLOCK)
        return {
            "rows": written,
            "seconds": seconds - spent[0],
            "cpu": cpu - spent[1],
            "bytes": disk(self.path),
        }

    def find(self, queries: NDArray[np.float32], share: str, exact: bool) -> list[list[int]]:
        """Search the store."""
        from lookalike.filters import parse
        from lookalike.types import Metric

        where = parse(f"{share} = {filtered_value(share)}") if share else None
        hits = self.store.search(queries, K, Metric.COSINE, where, exact=exact)
        return [[int(hit.id.partition(":")[2]) for hit in each] for each in hits]

    def gallery_search(self, first: int, last: int, exact: bool) -> dict[str, Any]:
        """Search the gallery, from its public method to its hits; as ``search``."""
        times = []
        for query in self.queries[first:last]:
            start = time.perf_counter()
            self.gallery.search(vector=query, k=K, exact=exact)
            times.append(1000 * (time.perf_counter() - start))
        return {"ms": times}

    def graph(self) -> dict[str, float] | None:
        """Build the index of the gallery; None if this version has none."""
        from lookalike.types import Metric

        build = getattr(self.gallery._store, "build_graph", None)
        if build is None:
            return None
        before, start, cpu = disk(self.path), time.perf_counter(), time.process_time()
        build(Metric.COSINE)
        return {
            "seconds": time.perf_counter() - start,
            "cpu": time.process_time() - cpu,
            "bytes": disk(self.path) - before,
        }

    def tune(self) -> dict[str, float]:
        """Return the recall; there is nothing to choose."""
        return {"recall": self._recall()}

    def write(self, seconds: float) -> dict[str, float]:
        """Add rows for some time; return when each commit had returned, by the system's clock."""
        from lookalike.stores.base import Rows

        times: dict[str, float] = {}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            number = len(times)
            vectors = np.concatenate(
                [marker(number, self.dim)[None], clusters(_ADDED - 1, 1000 + number, self.dim)]
            )
            ids = [f"new:{number}:{i}" for i in range(_ADDED)]
            rows = Rows(ids, ids, vectors, metadata(0, _ADDED), ids)
            self.gallery.upsert(rows, fingerprint=self.gallery.fingerprint)
            times[str(number)] = time.monotonic()
            time.sleep(_PAUSE_S)
        return times

    def read(self, seconds: float) -> dict[str, Any]:
        """Search for what the writer adds next; return when it was first there, and errors."""
        from lookalike.types import Metric

        seen: dict[str, float] = {}
        errors: list[str] = []
        searches = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            query = marker(len(seen), self.dim)[None]
            try:
                [[hit]] = self.store.search(query, 1, Metric.COSINE)
            except Exception as error:  # noqa: BLE001 - of any kind, which is what is counted
                errors.append(repr(error))
                continue
            searches += 1
            if hit.id == f"new:{len(seen)}:0":
                seen[str(len(seen))] = time.monotonic()
        return {"seen": seen, "searches": searches, "errors": errors}


class Previous(Lookalike):
    """A gallery of another checkout of lookalike."""

    name = "previous"


class FaissFlat(Engine):
    """The flat index of faiss."""

    name = "faiss-flat"

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        super().__init__(folder, rows, dim)
        import faiss

        from lookalike.config import settings

        faiss.omp_set_num_threads(settings().threads)
        self.faiss = faiss
        self.path = folder / f"{self.name}.index"
        self.index = faiss.read_index(str(self.path)) if self.path.exists() else None
        self._selectors: dict[str, Any] = {"": None}

    def create(self) -> Any:
        """Return the empty index."""
        return self.faiss.IndexFlatIP(self.dim)

    def build(self) -> dict[str, float]:
        """Add all rows, and write the index."""
        rows = clusters(self.rows, 1, self.dim)
        start = time.perf_counter(), time.process_time()
        self.index = self.create()
        self.index.add(rows)
        self.faiss.write_index(self.index, str(self.path))
        return {
            "rows": self.rows,
            "seconds": time.perf_counter() - start[0],
            "cpu": time.process_time() - start[1],
            "bytes": disk(self.path),
        }

    def prepare(self, share: str) -> None:
        """Make the mask of a filter."""
        if share not in self._selectors:
            mask = np.arange(self.rows) % SHARES[share] == filtered_value(share)
            self._selectors[share] = self.faiss.IDSelectorBitmap(
                np.packbits(mask, bitorder="little")
            )

    def parameters(self, share: str) -> Any:
        """Return what a search with a filter needs."""
        selector = self._selectors[share]
        return selector and self.faiss.SearchParameters(sel=selector)

    def find(self, queries: NDArray[np.float32], share: str, exact: bool) -> list[list[int]]:
        """Search the index."""
        del exact
        _, rows = self.index.search(queries, K, params=self.parameters(share))
        return [list(each) for each in rows.tolist()]


class FaissHNSW(FaissFlat):
    """The HNSW graph of faiss."""

    name = "faiss-hnsw"
    effort = EFFORTS[-1]

    def create(self) -> Any:
        """Return the empty index."""
        index = self.faiss.IndexHNSWFlat(self.dim, _M, self.faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _CONSTRUCTION
        return index

    def parameters(self, share: str) -> Any:
        """Return the effort, and what a filter needs."""
        return self.faiss.SearchParametersHNSW(sel=self._selectors[share], efSearch=self.effort)

    def tune(self) -> dict[str, float]:
        """Choose the least effort with a recall of .99."""
        for effort in EFFORTS:
            self.effort = effort
            recall = self._recall()
            if recall >= _GOAL:
                break
        return {"recall": recall, "effort": self.effort}


class Usearch(Engine):
    """The graph of usearch, with vectors in 16 bits."""

    name = "usearch"

    def __init__(self, folder: Path, rows: int, dim: int) -> None:
        super().__init__(folder, rows, dim)
        from usearch.index import Index

        self.path = folder / f"{self.name}.index"
        if self.path.exists():
            self.index = Index.restore(str(self.path), view=True)
        else:
            self.index = Index(
                ndim=dim, metric="cos", dtype="f16", connectivity=_M, expansion_add=_CONSTRUCTION
            )

    def build(self) -> dict[str, float]:
        """Add all rows with one thread, since several lose rows; write the index."""
        start = time.perf_counter(), time.process_time()
        for number, rows in enumerate(blocks(self.rows, 1, self.dim)):
            keys = np.arange(number * BLOCK, number * BLOCK + len(rows))
            self.index.add(keys, rows, threads=1)
        self.index.save(str(self.path))
        return {
            "rows": self.rows,
            "seconds": time.perf_counter() - start[0],
            "cpu": time.process_time() - start[1],
            "bytes": disk(self.path),
        }

    def find(self, queries: NDArray[np.float32], share: str, exact: bool) -> list[list[int]]:
        """Search the graph."""
        assert not share
        matches = self.index.search(queries, K, exact=exact)
        return np.asarray(matches.keys).reshape(len(queries), -1).astype(int).tolist()

    def tune(self) -> dict[str, float]:
        """Choose the least effort with a recall of .99."""
        for effort in EFFORTS:
            self.index.expansion_search = effort
            recall = self._recall()
            if recall >= _GOAL:
                break
        return {"recall": recall, "effort": effort}


ENGINES = {engine.name: engine for engine in (Lookalike, Previous, FaissFlat, FaissHNSW, Usearch)}


def marker(number: int, dim: int) -> NDArray[np.float32]:
    """Return a vector that is far from all others, ``(dim,)``."""
    vector = np.random.default_rng((77, number)).standard_normal(dim, np.float32)
    return vector / np.linalg.norm(vector)


def disk(path: Path) -> int:
    """Return the bytes of a file or folder that are on the disk."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_blocks * 512 for each in files)


def main() -> None:
    """Answer commands until stdin ends."""
    name, folder, rows, dim = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = ENGINES[name](Path(folder), int(rows), int(dim or DIM))
    print(json.dumps(None), file=replies, flush=True)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(engine, method)(*arguments)), file=replies, flush=True)


if __name__ == "__main__":
    main()
