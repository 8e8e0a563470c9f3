"""The graph index of a store: approximate search in very large galleries, only where it was built.

A hierarchical navigable small world graph (Malkov and Yashunin, 2018) over the vectors of a
generation's first slots, in 16 bits, by usearch. Since slots never change, the graph of the first
slots may be behind, but never wrong: newer rows are scanned, rows that are gone are left out, and
distances are those of the vector files.

A damaged file would crash the process or answer wrongly. So its checksum, which is in the database,
is verified before its first use in a process; in doubt it is not used, and search is exact.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import shlex
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import LookalikeError, is_installed
from lookalike.files import open_regular
from lookalike.progress import notice
from lookalike.stores.embedded.graph_records import GraphRecord, checksum, find_damage
from lookalike.types import Embeddings, Metric

CONNECTIVITY = 16
EXPANSION = 128
"""Candidates that are held while the graph is built: its M and efConstruction."""

EFFORTS = (64, 96, 128, 200)
"""Candidates that are held while it is searched: the least ef with which a sample of rows finds its
neighbors, see :mod:`lookalike.stores.embedded.graph_search`; the last one until that is known."""

MAX_VALUE = 60_000.0
"""Largest value of a vector in 16 bits."""

UPDATE_SHARE = 0.1
"""Newer rows, as a share of those in the graph, from which they are added to it."""

_SMALL_FILE = 16 << 20
"""Bytes of a file whose checksum is computed at once; that of a larger one, in a thread."""

_INTERRUPTED = "Operation has been terminated"
"""usearch's message when a handler of a signal raised an error."""

COMPACTED = "the rows were compacted since it was built"


def library_version() -> str | None:
    """Return the version of usearch, None without one; files of another one are not used."""
    return _usearch_version() if is_installed("usearch") else None


@functools.cache  # it parses a long description
def _usearch_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("usearch")
    except PackageNotFoundError:
        return None


def other_version(record: GraphRecord) -> str:
    """Return that a graph was written by another version of usearch than is installed."""
    version = library_version()
    if version is None:
        return "usearch is not installed: pip install 'lookalike[ann]'"
    return f"it was built by usearch {record.library}, not {version}"


def not_used(gallery: Path, reason: str) -> str:
    """Return that the graph of a gallery is not used, and how to build it again."""
    return (
        f"{gallery}: the approximate index is not used ({reason}), so search is exact; to build it "
        f"again: lookalike index {shlex.quote(str(gallery))} --ann"
    )


class GraphIndex:
    """A graph that was verified.

    usearch's searches by several threads at a time share buffers, so there is one at a time.

    Attributes:
        effort: candidates that a search holds, at least: its ef.
    """

    def __init__(self, record: GraphRecord, index: Any, mapped: mmap.mmap | None = None) -> None:
        self.record = record
        self._index = index
        self._mapped = mapped  # must not be closed before
        self._lock = threading.Lock()
        self._is_measured = False
        self.effort = EFFORTS[-1]

    @classmethod
    def load(cls, folder: Path, record: GraphRecord, dim: int, *, copy: bool = False) -> Self:
        """Verify a file and map it.

        Args:
            folder: of the store.
            record: of the graph.
            dim: length of an embedding.
            copy: load it into memory, so that rows can be added.

        Raises:
            ValueError: it is not to be used; the message says why.
            OSError: it cannot be read.
        """
        if library_version() != record.library:
            raise ValueError(other_version(record))
        with open_regular(folder / record.file, follow=False) as file:
            if os.fstat(file.fileno()).st_size != record.bytes:
                raise ValueError("its size is wrong")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if checksum(mapped) != record.checksum:
            raise ValueError("its checksum is wrong")
        index = new_index(record.metric, dim, writable=copy)
        try:
            index.load(mapped) if copy else index.view(mapped)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if len(index) != record.rows:
            raise ValueError("its number of rows is wrong")
        return cls(record, index, None if copy else mapped)

    @property
    def index(self) -> Any:
        """The graph of usearch."""
        return self._index

    def search(self, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return the slots of about the ``count`` nearest rows to a query ``(dim,)``, unsorted."""
        return self.search_with(self.effort, query, count)

    def search_with(self, effort: int, query: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """Return the same by another effort."""
        with self._lock, raising_interrupts():
            self._index.expansion_search = effort
            matches = self._index.search(query, count, threads=1)
        return np.asarray(matches.keys).astype(np.int64)

    def measure_effort(self, measure: Callable[[], int], *, beside: bool) -> None:
        """Set the effort to what is measured, once; if that fails, it stays as it is.

        Args:
            measure: returns the effort.
            beside: measure it in a thread, while others search.
        """

        def run() -> None:
            with contextlib.suppress(LookalikeError, OSError, MemoryError):
                self.effort = measure()

        with self._lock:
            if self._is_measured:
                return
            self._is_measured = True
        if beside:
            threading.Thread(target=run, daemon=True).start()
        else:
            run()


@contextlib.contextmanager
def raising_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt for the error that usearch makes of it.

    It lets Python handle signals while it works, and replaces what a handler raises.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise


def new_index(metric: Metric, dim: int, *, writable: bool) -> Any:
    """Return an empty graph of usearch; vectors are :func:`prepared` before they are added.

    Raises:
        ImportError: usearch is missing or broken.
    """
    # First, since usearch's wheels export a C++ library of their own: what is loaded afterwards
    # may use half of it, as onnxruntime does, and crash.
    import onnxruntime  # noqa: F401
    from usearch.index import Index

    return Index(
        ndim=dim,
        metric="ip" if metric is Metric.COSINE else "l2sq",
        dtype="f16",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION,
        expansion_search=EFFORTS[-1],
        enable_key_lookups=writable,
    )


def prepared(
    vectors: Embeddings, metric: Metric, scale: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return vectors ``(n, dim)`` as a graph holds them, and which of them it can hold, ``(n,)``.

    For the cosine they have unit length, so that zero vectors cannot be held; for the Euclidean
    distance they are multiplied by ``scale``, and must fit into 16 bits then.
    """
    wide = vectors.astype(np.float64)
    if metric is Metric.COSINE:
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        fits = lengths[:, 0] > 0
        wide /= np.where(lengths > 0, lengths, 1)
    else:
        wide *= scale
        fits = np.abs(wide).max(axis=1, initial=0) <= MAX_VALUE
        wide[~fits] = 0
    return wide.astype(np.float32), fits


@dataclass(frozen=True, slots=True)
class GraphState:
    """The state of a graph index.

    Args:
        rows: that it holds; some may be gone by now.
        newer: slots that it does not cover.
        bytes: size of its file.
        library: version of usearch that wrote it.
        problem: why it is not used; None if it is.
    """

    rows: int
    newer: int
    bytes: int
    library: str
    problem: str | None

    @property
    def is_due(self) -> bool:
        """Whether it is to be built again, or lacks so many rows that they are to be added."""
        return self.problem is not None or self.newer > UPDATE_SHARE * self.rows

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the parameters of the graph."""
        return {
            "type": "HNSW",
            "M": CONNECTIVITY,
            "efConstruction": EXPANSION,
            "ef": [EFFORTS[0], EFFORTS[-1]],
            "rows": self.rows,
            "newer_rows": self.newer,
            "bytes": self.bytes,
            "library": f"usearch {self.library}",
            "problem": self.problem,
        }


class Graphs:
    """The graphs of a store, as its snapshots share them.

    The first search of a process does without: to verify a large file takes longer than many exact
    scans. From the second one on a thread verifies it, and searches use the graph when that is
    done. A graph that cannot be used is noticed once.
    """

    def __init__(self) -> None:
        self._loaded: dict[Metric, GraphIndex] = {}
        self._loading: dict[str, threading.Thread] = {}
        self._refused: dict[str, str] = {}
        self._searches = 0
        self._lock = threading.Lock()

    def use(self, graph: GraphIndex) -> None:
        """Use a graph that this process has just built."""
        self._loaded[graph.record.metric] = graph

    def refusal(self, folder: Path, record: GraphRecord, generation: int) -> str | None:
        """Return why a graph is not used, as far as that is known without its checksum."""
        if record.file in self._refused:
            return self._refused[record.file]
        if record.generation != generation:
            return COMPACTED
        if record.library != library_version():
            return other_version(record)
        return find_damage(folder, record, deep=False)

    def get(
        self, folder: Path, record: GraphRecord, generation: int, dim: int
    ) -> GraphIndex | None:
        """Return the graph for a search if one is ready; see the class.

        Args:
            folder: of the store.
            record: of the graph.
            generation: of the snapshot.
            dim: length of an embedding.
        """
        graph = self._ready(record, generation)
        if graph is not None and graph.record.slots >= record.slots:
            return graph
        with self._lock:
            self._searches += 1
            if self._searches == 1 or record.file in self._refused:
                return graph
            if record.bytes > _SMALL_FILE:
                if record.file not in self._loading:
                    self._loading[record.file] = thread = threading.Thread(
                        target=self._load, args=(folder, record, generation, dim), daemon=True
                    )
                    thread.start()
                return graph
        return self._load(folder, record, generation, dim)

    def load(
        self, folder: Path, record: GraphRecord, generation: int, dim: int
    ) -> GraphIndex | None:
        """Return the graph, and verify it now if that was not done before; None if it is unfit."""
        thread = self._loading.get(record.file)
        if thread is not None:
            thread.join()
        graph = self._ready(record, generation)
        if graph is not None and graph.record.slots >= record.slots:
            return graph
        if record.file in self._refused:
            return None
        return self._load(folder, record, generation, dim)

    def _ready(self, record: GraphRecord, generation: int) -> GraphIndex | None:
        graph = self._loaded.get(record.metric)
        return graph if graph is not None and graph.record.generation == generation else None

    def _load(
        self, folder: Path, record: GraphRecord, generation: int, dim: int
    ) -> GraphIndex | None:
        if generation < record.generation:  # an old snapshot
            return None
        try:
            if record.generation < generation:
                raise ValueError(COMPACTED)
            graph = GraphIndex.load(folder, record, dim)
        except (LookalikeError, OSError, ValueError, ImportError, MemoryError) as error:
            is_missing = isinstance(error, FileNotFoundError)
            reason = "its file is missing" if is_missing else str(error)
        else:
            self._loaded[record.metric] = graph
            self._loading.pop(record.file, None)
            return graph
        with self._lock:
            is_new = record.file not in self._refused
            self._refused[record.file] = reason
            self._loading.pop(record.file, None)
        if is_new:
            notice(not_used(folder.parent, reason))
        return None
