"""Faults of the embedded store: kills, system calls that fail, power cuts, bit flips.

    python benchmarks/store_faults.py [kill] [calls] [cuts] [bits] [--rounds N] [--flips N]
                                      [--writes KIND...] [--every N] [--seconds N] [--seed N]
                                      [--work FOLDER]

All sections run unless some are named, each for so many seconds at most; the exit code is 1 if
there was any fault.

kill   Rounds of inserts, replacements, changes of metadata and URIs, deletes, compactions, erasing
       and graph building on a small store, killed (SIGKILL) at a random moment; a new store for
       each 100 rounds.
calls  Each of these writes with one system call that fails (disk full, input/output error) or at
       which the process is killed: the first, the second, and so on to the last one.
cuts   Power cuts: the system calls of each write are recorded and replayed up to some place, and
       of what was not flushed by then some reaches the disk and some does not.
bits   One bit of a file is changed; the check must notice it or all answers be right, and nobody
       may crash.

After each, the rows must be those of the last commit that was acknowledged, or of the one after it;
search, filters and keywords must agree with a store in memory that was filled with these rows, and
a check of every byte must find nothing (while a store that was killed has over 1,000 rows, after
each fifth round). ``calls`` and ``cuts`` need a C compiler; with --writes they are about some of
WRITES only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import gc
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import LookalikeError
from lookalike.filters import as_filter
from lookalike.stores.base import RowReader, Rows
from lookalike.stores.embedded import compaction, graph_building  # noqa: F401 - for all forks
from lookalike.stores.embedded.check import examine
from lookalike.stores.embedded.graph import COMPACTED
from lookalike.stores.embedded.snapshot import EmbeddedSnapshot
from lookalike.stores.embedded.store import EmbeddedStore
from lookalike.stores.full_text import text_search
from lookalike.stores.memory import MemorySnapshot, MemoryStore
from lookalike.types import Hit, Metric

DIM = 8
ROUNDS = 1_000
FLIPS = 100
_WORDS = ("lake", "Tree", "hôtel", "東京", "old", "house", "x1")
_LONGEST = 0.3
"""Seconds after which a process is killed, at most; longer after rounds without a commit."""

_LARGE = 1_000
"""Rows from which on nine of ten are soon deleted, and less often compared."""

_ROUNDS_PER_STORE = 100
_SPARSE = 5
"""Rounds after which a large store is compared."""


# ---------------------------------------------------------------- what is written


@dataclass(frozen=True, slots=True)
class Item:
    """A row: the number of its embedding, its folder, and the version of its metadata."""

    embedding: int
    folder: int
    version: int


Model = Mapping[str, Item]
"""The rows that a store should have, by id."""


@dataclass(frozen=True, slots=True)
class Write:
    """A write, which depends on nothing but its number and the rows before it."""

    kind: str
    removed: tuple[str, ...] = ()
    added: tuple[tuple[str, Item], ...] = ()

    def apply(self, model: Model) -> dict[str, Item]:
        """Return the rows after it."""
        rows = {row_id: item for row_id, item in model.items() if row_id not in self.removed}
        rows.update(self.added)
        return rows

    def run(self, store: EmbeddedStore) -> None:
        """Write it: one commit that changes rows, at most."""
        match self.kind:
            case "delete":
                store.delete(self.removed)
            case "optimize" | "purge":
                store.optimize(Metric.L2, purge=self.kind == "purge")
            case "graph":
                store.build_graph(Metric.L2)
            case _:
                store.upsert(as_rows(dict(self.added)))


_FREQUENT = ("insert", "insert", "replace", "metadata", "move", "delete", "optimize", "purge")
KINDS = (*3 * _FREQUENT, "graph", "graph", "block")
"""A block of 4,200 rows is rare, since a round that is killed in one ends no write."""


def write_number(number: int, seed: int, model: Model, kind: str | None = None) -> Write:
    """Return a write by its number, or one of a kind."""
    rng = random.Random(f"{seed}-{number}")
    ids = sorted(model)
    if kind is None:
        kind = rng.choice(KINDS)
        if len(ids) >= _LARGE:  # which makes rounds slow
            kind = rng.choice((kind, "delete"))
    some = rng.sample(ids, min(len(ids), rng.randint(1, 30)))
    if kind == "delete":
        share = rng.choice((0.02, 0.3, 0.6)) if len(ids) < _LARGE else 0.9
        return Write(kind, tuple(rng.sample(ids, int(share * len(ids)))))
    if kind in ("insert", "block"):
        count = 4_200 if kind == "block" else rng.choice((1, rng.randint(2, 80)))
        items = [Item(number * 10_000 + place // 2, number % 5, number) for place in range(count)]
        return Write(kind, added=tuple((f"s:{number}-{i}", item) for i, item in enumerate(items)))
    changes: dict[str, Callable[[Item], Item]] = {
        "replace": lambda item: Item(item.embedding + 5_000, item.folder, number),
        "metadata": lambda item: replace(item, version=number),
        "move": lambda item: replace(item, folder=item.folder + 1),
    }
    if kind not in changes or not some:
        return Write(kind if kind not in changes else "optimize")
    return Write(kind, added=tuple((each, changes[kind](model[each])) for each in some))


def as_rows(model: Model) -> Rows:
    """Return the rows of a model; every second one has the embedding of another."""
    items = model.values()
    return Rows(
        ids=list(model),
        uris=[f"/folder {item.folder}/{row_id[2:]}" for row_id, item in model.items()],
        embeddings=np.stack([_embedding(item.embedding) for item in items]),
        metadata=[_metadata(item) for item in items],
        hashes=[f"{item.embedding:064x}" for item in items],
        signatures=[f"{item.version}" for item in items],
    )


def _embedding(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).normal(size=DIM).astype(np.float32)


def _metadata(item: Item) -> dict[str, Any]:
    number = item.embedding + item.version
    mixed = (None, number, "x", [number], 0.5, True, {"a": "x"})[number % 7]
    caption = f"{_WORDS[number % 7]} {_WORDS[number % 5]} v{item.version}"
    return {"caption": caption, "version": item.version, "mixed": mixed, f"only{number % 3}": 1}


# ---------------------------------------------------------------- what must be true


def contents(store: RowReader) -> dict[str, tuple[object, ...]]:
    """Return all rows by id."""
    return {
        record.id: (
            *(record.uri, record.content_hash, record.signature),
            *(json.dumps(record.metadata), embedding.tobytes()),
        )
        for rows in store.rows(2_000)
        for record, embedding in zip(rows.records(), rows.embeddings, strict=True)
    }


def expected(model: Model) -> dict[str, tuple[object, ...]]:
    """Return the rows that a store should have."""
    store = MemoryStore(DIM)
    if model:
        store.upsert(as_rows(model))
    return contents(store)


def differences(folder: Path, model: Model, seed: int) -> list[str]:
    """Compare all that a store answers with what it should answer; return what differs."""
    store, memory = EmbeddedStore.open(folder), MemoryStore(DIM)
    if model:
        memory.upsert(as_rows(model))
    problems = list(_differences(store, memory, seed))
    report = examine(folder, deep=True)
    return problems + [f"check: {problem}" for problem in report.problems]


def _differences(store: EmbeddedStore, memory: MemoryStore, seed: int) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    view, reference = store.snapshot(), memory.snapshot()
    ids = list(view.ids())
    if contents(view) != contents(reference) or ids != list(reference.ids()):
        yield "the rows are others"
        return
    some = view.embeddings(ids[:1])
    queries = np.concatenate([rng.normal(size=(2, DIM)).astype(np.float32), some])
    one = f"version = {rng.choice(len(ids) + 1)}"
    conditions = ("", "version > 3", "mixed = 'x'", "caption like '%lake%'", one)
    for condition in conditions if ids else ("",):  # no rows, no columns
        yield from _search_differences(view, reference, queries, condition)
    if store.facets() != memory.facets():
        yield "the facets are others"
    for keywords in ("lake", "hotel old", "東京", "v3", "s"):
        scores, right_scores = (_keyword_scores(each, keywords) for each in (view, reference))
        is_same = scores.keys() == right_scores.keys()
        if not is_same or not np.allclose([*scores.values()], [*right_scores.values()]):
            yield f"keywords {keywords}: others than an index built afresh"


def _search_differences(
    view: EmbeddedSnapshot,
    reference: MemorySnapshot,
    queries: NDArray[np.float32],
    condition: str,
) -> Iterator[str]:
    """Compare searches with a filter with brute force, over rows that are the same."""
    ids = list(view.ids())
    embeddings = view.embeddings(ids)
    where = as_filter(condition) if condition else None
    allowed = np.ones(len(ids), np.bool_)
    try:
        if where is not None:
            allowed = where.mask(reference.columns())
    except LookalikeError as error:  # the rows have no such column
        with contextlib.suppress(type(error)):
            yield f"{condition}: {view.count(where)} rows instead of an error"
        return
    if view.count(where) != np.count_nonzero(allowed):
        yield f"{condition}: {view.count(where)} rows, not {np.count_nonzero(allowed)}"
    for metric in Metric:
        for _ in range(2):  # codes and graphs are used from the second one on
            hits = view.search(queries, 9, metric, where)
        right = [brute_force(ids, embeddings, query, metric, allowed)[:9] for query in queries]
        if not all(map(_is_same, hits, right)):
            yield f"search by {metric.value} where {condition}: others than brute force"


def _is_same(hits: Sequence[Hit], right: Sequence[tuple[float, str]]) -> bool:
    return [hit.id for hit in hits] == [row_id for _, row_id in right] and np.allclose(
        [hit.distance for hit in hits], [distance for distance, _ in right], atol=1e-6
    )


def brute_force(
    ids: Sequence[str],
    embeddings: NDArray[np.float32],
    query: NDArray[np.float32],
    metric: Metric,
    allowed: NDArray[np.bool_],
) -> list[tuple[float, str]]:
    """Return the distances and ids of all rows that are allowed, computed in the obvious way."""
    rows, point = embeddings.astype(np.float64), query.astype(np.float64)
    if metric is Metric.L2:
        distances = np.sqrt(((rows - point) ** 2).sum(axis=1))
    else:
        distances = 1 - rows @ point / (np.linalg.norm(rows, axis=1) * np.linalg.norm(point))
    # Rows with one embedding have one distance, whatever the order of its sum.
    pairs = zip(distances.round(12).tolist(), ids, strict=True)
    return sorted(pair for pair, is_allowed in zip(pairs, allowed, strict=True) if is_allowed)


def _keyword_scores(reader: Any, keywords: str) -> dict[str, float]:
    search = text_search(reader)
    numbers = search.matching(keywords)
    scores = search.scores(keywords, numbers)
    return dict(sorted(zip(reader.ids_at(numbers), scores.tolist(), strict=True)))


# ---------------------------------------------------------------- kill


@dataclass
class Report:
    """What was done, how often, and what went wrong."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> str:
        """Return the figures in one line."""
        counts = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        return f"{self.name}: {counts}; {len(self.faults)} faults"


def in_fork(work: Callable[[int], None]) -> tuple[int, int]:
    """Fork a process that does some work; return its id and a pipe of what it writes.

    What it raises is written to the pipe, too.
    """
    gc.collect()  # stores that nobody has close their connections
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    code = 0
    try:
        os.close(reader)
        work(writer)
    except BaseException:  # noqa: BLE001 - shown by the parent
        code = 70
        os.write(writer, f"raised {traceback.format_exc()}\n".encode())
    finally:
        os._exit(code)


def read_to_end(pipe: int) -> str:
    """Return what was written to a pipe until its end, and close it."""
    with os.fdopen(pipe, errors="replace") as file:
        return file.read()


class KillRounds:
    """Writes on one store, killed at random moments, and what must be true afterwards."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.model: dict[str, Item] = {}
        self.report = Report("kill -9")
        self._seed = seed
        self._rng = random.Random(seed)
        self._number = 0
        self._longest = _LONGEST
        self._renew()

    def _renew(self) -> None:
        """Go on with a new store."""
        self.model = {}
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        EmbeddedStore.create(self.folder, DIM)

    def run(self, rounds: int, seconds: float, say: Callable[[str], None]) -> Report:
        """Run rounds until there were enough, or the time is over."""
        started = time.monotonic()
        for number in range(1, rounds + 1):
            self.round(number)
            if number % _ROUNDS_PER_STORE == 0:
                self._renew()
            self.report.seconds = time.monotonic() - started
            if number % 100 == 0:
                say(f"  {self.report.summary()} ({self.report.seconds:.0f} s)")
            if self.report.seconds > seconds or len(self.report.faults) > 20:
                break
        return self.report

    def round(self, number: int) -> None:
        """Write until the kill, and compare."""
        pid, pipe = in_fork(self._write)
        os.set_blocking(pipe, True)
        first = os.read(pipe, 1)  # the store is open
        time.sleep(self._rng.uniform(0, self._longest))
        os.kill(pid, signal.SIGKILL)
        text = (first + os.read(pipe, 1 << 20)).decode(errors="replace")
        text += read_to_end(pipe)
        _, status = os.waitpid(pid, 0)
        self.report.counts["rounds"] += 1
        if status != signal.SIGKILL:
            self._fault(number, text)
            return
        self._longest = _LONGEST if "\n" in text else 2 * self._longest
        for _ in range(text.count("\n")):
            write = self._next()
            self.model = write.apply(self.model)
            self.report.counts["acknowledged writes"] += 1
            self._number += 1
        write = self._next()
        after = write.apply(self.model)
        rows = contents(EmbeddedStore.open(self.folder))
        if rows != expected(self.model) and rows == expected(after):
            self.model = after
            self.report.counts["committed, not acknowledged"] += 1
            self._number += 1
        self.report.counts[f"killed in {write.kind}"] += 1
        problems = [] if rows == expected(self.model) else ["the rows are others"]
        if len(rows) < _LARGE or number % _SPARSE == 0:
            problems = differences(self.folder, self.model, number)
        for problem in problems:
            self._fault(number, f"{problem} (killed in {write.kind})")

    def _next(self) -> Write:
        return write_number(self._number, self._seed, self.model)

    def _write(self, pipe: int) -> None:
        store = EmbeddedStore.open(self.folder)
        os.write(pipe, b".")
        model = self.model
        for number in range(self._number, self._number + 10_000):
            write = write_number(number, self._seed, model)
            write.run(store)
            os.write(pipe, b"\n")
            model = write.apply(model)

    def _fault(self, number: int, text: str) -> None:
        self.report.faults.append(f"round {number}: {text}")


# ---------------------------------------------------------------- calls

_OFF, _FAIL_ONCE, _FAIL_FROM, _END_BEFORE, _END_AMID = range(5)
"""Modes of ``write_calls.c``."""

_FAULTS = {
    "disk full": (_FAIL_ONCE, errno.ENOSPC),
    "disk full from then on": (_FAIL_FROM, errno.ENOSPC),
    "input/output error": (_FAIL_ONCE, errno.EIO),
    "killed": (_END_BEFORE, 0),
    "killed amid": (_END_AMID, 0),
}

WRITES = (
    *("insert", "block", "replace", "metadata", "move", "delete", "optimize", "purge", "graph"),
    "close",
)


class WriteCalls:
    """The calls that write files below a folder, in a process with ``write_calls.c`` preloaded."""

    def __init__(self, library: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.counted.restype = ctypes.c_long

    def arm(self, folder: Path, mode: int = _OFF, place: int = 0, error: int = 0) -> None:
        """Count from now on, and let the call at a place fail, or end the process there."""
        self._library.arm(os.fsencode(folder), mode, ctypes.c_long(place), error)

    def disarm(self) -> int:
        """Return the number of calls, and count no more."""
        count = int(self._library.counted())
        self._library.arm(b"", _OFF, ctypes.c_long(0), 0)
        return count

    def record(self, path: Path) -> None:
        """Write what is called to a file from now on."""
        self._library.record(os.fsencode(path))


def compile_calls(work: Path) -> Path:
    """Return ``write_calls.c`` as a library.

    Raises:
        RuntimeError: there is no C compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise RuntimeError("calls and cuts need Linux and a C compiler")
    work.mkdir(parents=True, exist_ok=True)
    source, library = (
        Path(__file__).with_name("write_calls.c"),
        (work / "write_calls.so").absolute(),
    )
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


BASE = ("insert", "insert", "block", "graph", "replace", "delete", "insert", "graph")


@dataclass(frozen=True, slots=True)
class Base:
    """A store that a write starts from: its folder's copy, and its rows."""

    folder: Path
    model: Model

    @classmethod
    def make(cls, folder: Path, kinds: Sequence[str] = BASE) -> Base:
        """Make one by some kinds of writes, with dead slots and a graph by default."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        store = EmbeddedStore.create(folder, DIM)
        model: Model = {}
        for number, kind in enumerate(kinds):
            write = write_number(number, 7, model, kind)
            write.run(store)
            model = write.apply(model)
        del store
        gc.collect()
        return cls(folder, model)

    def copy(self, target: Path) -> Path:
        """Return a copy of the folder."""
        shutil.rmtree(target.parent, ignore_errors=True)
        shutil.copytree(self.folder, target)
        return target


class CallRounds:
    """Each write, with each of its calls failing."""

    def __init__(self, work: Path, library: str) -> None:
        self.report = Report("system calls")
        self._calls = WriteCalls(library)
        self._folder = (work / "x.gallery" / "store").absolute()
        self._base = Base.make((work / "base.gallery" / "store").absolute())
        self._trace = work / "trace"
        self._number = 0
        self._thorough = 1

    def run(
        self,
        kinds: Sequence[str],
        faults: Sequence[str],
        every: int,
        seconds: float,
        say: Callable[[str], None],
    ) -> Report:
        """Run all cases, or each ``every``-th of a kind, until the time is over."""
        started = time.monotonic()
        for kind in kinds:
            count = self._count(kind)
            say(f"  {kind}: {count} calls")
            for fault in faults:
                for place in range(zlib.crc32(f"{kind} {fault}".encode()) % every, count, every):
                    self._case(kind, fault, place)
                    self.report.seconds = time.monotonic() - started
                    if self.report.seconds > seconds or len(self.report.faults) > 20:
                        return self.report
        return self.report

    def _count(self, kind: str) -> int:
        folder = self._base.copy(self._folder)

        def work(pipe: int) -> None:
            run = self._prepared(folder, kind)
            self._calls.arm(folder)
            run()
            os.write(pipe, f"{self._calls.disarm()}".encode())

        pid, pipe = in_fork(work)
        text = read_to_end(pipe)
        os.waitpid(pid, 0)
        return int(text)

    def _write(self, kind: str) -> tuple[Write, Write]:
        """Return a write that comes first, so that there is a log, and the one of a kind."""
        first = write_number(100, 7, self._base.model, "insert")
        return first, write_number(101, 7, first.apply(self._base.model), kind)

    def _prepared(self, folder: Path, kind: str) -> Callable[[], None]:
        first, write = self._write(kind)
        stores = [EmbeddedStore.open(folder)]
        first.run(stores[0])
        if kind != "close":
            return lambda: write.run(stores[0])

        def close() -> None:
            stores.clear()
            gc.collect()

        return close

    def _case(self, kind: str, fault: str, place: int) -> None:
        folder = self._base.copy(self._folder)
        mode, error = _FAULTS[fault]

        def work(pipe: int) -> None:
            run = self._prepared(folder, kind)
            before = contents(EmbeddedStore.open(folder))
            gc.collect()
            self._calls.arm(folder, mode, place, error)
            try:
                run()
                outcome = "done"
            except LookalikeError as refused:
                outcome = "refused"
                if "\n" in str(refused):
                    os.write(pipe, f"raised: the message has several lines: {refused}".encode())
            self._calls.disarm()
            run = None  # type: ignore[assignment]
            if outcome == "refused" and contents(EmbeddedStore.open(folder)) != before:
                os.write(pipe, b"raised: it was refused, but the rows have changed\n")
            os.write(pipe, outcome.encode())

        pid, pipe = in_fork(work)
        text = read_to_end(pipe)
        _, status = os.waitpid(pid, 0)
        name = f"{kind}, {fault} at call {place}"
        self.report.counts["cases"] += 1
        first, write = self._write(kind)
        old = first.apply(self._base.model)
        new = write.apply(old)
        if "raised" in text or os.waitstatus_to_exitcode(status) not in (0, 9):
            self.report.faults.append(f"{name}: {status} {text}")
            return
        outcome = text or "killed"
        self.report.counts[outcome] += 1
        self._compare(name, folder, old, new, {"done": [new]}.get(outcome, [old, new]))

    def _compare(
        self, name: str, folder: Path, old: Model, new: Model, allowed: Sequence[Model]
    ) -> None:
        """Compare a store with the rows that it may have, and write to it."""
        try:
            rows = contents(EmbeddedStore.open(folder))
            models = [model for model in allowed if expected(model) == rows]
            if not models:
                state = "before" if rows == expected(old) else "after"
                state = state if rows in (expected(old), expected(new)) else "neither"
                self.report.faults.append(f"{name}: the rows are those of {state}")
                return
            later = write_number(102, 7, models[0], "insert")
            later.run(EmbeddedStore.open(folder))
            rows_later, problems = expected(later.apply(models[0])), _graph_problems(folder)
            if contents(EmbeddedStore.open(folder)) != rows_later:
                problems = ["the next write is lost"]
            elif self._number % self._thorough == 0:
                problems = differences(folder, later.apply(models[0]), 0)
            self._number += 1
        except Exception:  # noqa: BLE001 - whatever it is, the store is broken
            problems = [traceback.format_exc()]
        self.report.faults += [f"{name}: {problem}" for problem in problems]


def _graph_problems(folder: Path) -> list[str]:
    """Return why the graph that the database names cannot be used, if it cannot."""
    state = EmbeddedStore.open(folder).graph_state(Metric.L2)
    if state is None or state.problem in (None, COMPACTED):
        return []
    return [f"the graph: {state.problem}"]


# ---------------------------------------------------------------- cuts


@dataclass(frozen=True, slots=True)
class Call:
    """A call that wrote: what it did to which path."""

    what: str
    path: str
    target: str
    offset: int
    data: bytes


def read_calls(path: Path) -> list[Call]:
    """Read what ``write_calls.c`` recorded."""
    calls = []
    with path.open("rb") as file:
        while head := file.readline():
            what, offset, size, name, *target = head.decode().rstrip("\n").split("\t")
            data = file.read(int(size))
            calls.append(Call(what, name, "".join(target), int(offset), data))
    return calls


class Disk:
    """What a disk may hold after a power cut.

    Names are entries of folders, which reach the disk in their order, at the latest when the
    folder is flushed. What was written to a file reaches it in any order, page by page, at the
    latest when the file is flushed; also the pages of a file that has lost its name.
    """

    PAGE = 4_096

    def __init__(self, folder: Path) -> None:
        self._names: dict[str, int] = {}
        self._files: list[bytearray] = []
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.endswith("-shm"):
                self._names[str(path)] = len(self._files)
                self._files.append(bytearray(path.read_bytes()))
        self._durable = dict(self._names)
        self._durable_files = [bytes(data) for data in self._files]
        self._pending: list[dict[str, int]] = []
        self._dirty: list[list[tuple[int, bytes | None]]] = [[] for _ in self._files]

    def apply(self, call: Call) -> None:
        """Do what a call did."""
        if call.path.endswith("-shm"):
            return
        match call.what:
            case "flush" if call.path in self._names:
                number = self._names[call.path]
                self._durable_files[number] = bytes(self._files[number])
                self._dirty[number] = []
            case "flush":
                self._durable, self._pending = dict(self._names), []
            case "create":
                self._names[call.path] = len(self._files)
                self._files.append(bytearray())
                self._durable_files.append(b"")
                self._dirty.append([])
                self._pending.append(dict(self._names))
            case "unlink":
                self._names.pop(call.path, None)
                self._pending.append(dict(self._names))
            case "rename":
                self._names[call.target] = self._names.pop(call.path)
                self._pending.append(dict(self._names))
            case "truncate":
                self._truncate(self._names[call.path], call.offset)
            case "write":
                self._write(self._names[call.path], call.offset, call.data)

    def _truncate(self, number: int, size: int) -> None:
        data = self._files[number]
        data[:] = data[:size].ljust(size, b"\0")
        self._dirty[number].append((size, None))

    def _write(self, number: int, offset: int, data: bytes) -> None:
        _put(self._files[number], offset, data)
        while data:
            size = self.PAGE - offset % self.PAGE
            self._dirty[number].append((offset, data[:size]))
            offset, data = offset + size, data[size:]

    def states(self, rng: random.Random, parts: int) -> Iterator[dict[str, bytes]]:
        """Yield files by path: all that was written, only what was flushed, and random parts."""
        yield {path: bytes(self._files[number]) for path, number in self._names.items()}
        yield {path: self._durable_files[number] for path, number in self._durable.items()}
        for share in (0.5, *(rng.random() for _ in range(parts))) if parts else ():
            names = rng.choice([self._durable, *self._pending])
            files = {}
            for path, number in names.items():
                data = bytearray(self._durable_files[number])
                for offset, part in self._dirty[number]:
                    if rng.random() < share:
                        _put(data, offset, part)
                files[path] = bytes(data)
            yield files


def _put(data: bytearray, offset: int, part: bytes | None) -> None:
    if part is None:
        data[:] = data[:offset].ljust(offset, b"\0")
        return
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(part)] = part


_POINTS = 500
"""Places in a trace from which on some of its writes are passed over."""


class CutRounds(CallRounds):
    """Each write, with the power cut after each of its calls."""

    def run_cuts(
        self,
        kinds: Sequence[str],
        seed: int,
        every: int,
        seconds: float,
        say: Callable[[str], None],
    ) -> Report:
        """Run all cases, or of writes each ``every``-th, until the time is over."""
        self.report.name = "power cuts"
        self._thorough = 4
        started, rng = time.monotonic(), random.Random(seed)
        for kind in kinds:
            first, write = self._write(kind)
            old = first.apply(self._base.model)
            new = write.apply(old)
            disk, calls = self._recorded(kind)
            say(f"  {kind}: {len(calls)} calls")
            seen: set[int] = set()
            stride = max(every, 1 + len(calls) // _POINTS)  # a graph has many small parts
            for number, call in enumerate([None, *calls]):
                if call is not None:
                    disk.apply(call)
                is_last = number == len(calls)
                if call is not None and call.what == "write" and number % stride and not is_last:
                    continue
                parts = 1 if is_last or number % every == 0 else 0
                for files in disk.states(rng, parts):
                    key = hash(tuple(sorted(files.items())))
                    if key in seen and not is_last:
                        continue
                    seen.add(key)
                    self._place(files)
                    self.report.counts["states"] += 1
                    name = f"{kind}, power cut after call {number} of {len(calls)}"
                    self._compare(name, self._folder, old, new, [new] if is_last else [old, new])
                    self.report.seconds = time.monotonic() - started
                    if self.report.seconds > seconds or len(self.report.faults) > 20:
                        return self.report
        return self.report

    def _recorded(self, kind: str) -> tuple[Disk, list[Call]]:
        folder = self._base.copy(self._folder)
        start = self._trace.with_name("start")
        shutil.rmtree(start, ignore_errors=True)

        def work(pipe: int) -> None:
            run = self._prepared(folder, kind)
            shutil.copytree(folder, start)
            self._calls.record(self._trace)
            self._calls.arm(folder)
            run()
            self._calls.disarm()
            os.write(pipe, b"done")
            os._exit(0)

        pid, pipe = in_fork(work)
        text = read_to_end(pipe)
        os.waitpid(pid, 0)
        if text != "done":
            raise RuntimeError(text)
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        return Disk(folder), read_calls(self._trace)

    def _place(self, files: Mapping[str, bytes]) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        for path, data in files.items():
            Path(path).write_bytes(data)


# ---------------------------------------------------------------- bits


def answers(folder: Path) -> dict[str, object]:
    """Return what a store answers, by question; the message where it refuses to.

    Raises:
        Exception: whatever is raised that is no error of lookalike.
    """
    try:
        store = EmbeddedStore.open(folder)
    except LookalikeError as error:
        return {"open": error}
    query = _embedding(1)[None]

    def keywords() -> object:
        view = store.snapshot()
        return _keyword_scores(view, "lake hotel"), text_search(view).unmatched("lakee")

    def search(metric: Metric) -> object:
        hits = [store.search(query, 9, metric)[0] for _ in range(3)]  # the graph from the 2nd on
        return [[(hit.id, hit.uri, hit.distance, hit.metadata) for hit in each] for each in hits]

    questions: dict[str, Callable[[], object]] = {
        "rows": lambda: contents(store),
        "records": lambda: list(store.records()),
        "ids": lambda: list(store.ids()),
        "search by L2": lambda: search(Metric.L2),
        "search by cosine": lambda: search(Metric.COSINE),
        "filter": lambda: store.search(query, 9, Metric.L2, as_filter("version > 3")),
        "facets": store.facets,
        "keywords": keywords,
        "graph": lambda: store.graph_state(Metric.L2),
    }
    results: dict[str, object] = {}
    for name, question in questions.items():
        try:
            results[name] = question()
        except LookalikeError as error:
            results[name] = error
    return results


class BitFlips:
    """One bit of a file is another one."""

    def __init__(self, work: Path, seed: int) -> None:
        self.report = Report("bit flips")
        self._rng = random.Random(seed)
        self._folder = (work / "x.gallery" / "store").absolute()
        base = Base.make((work / "base.gallery" / "store").absolute())
        self._base = Base((work / "log.gallery" / "store").absolute(), base.model)
        store = EmbeddedStore.open(base.folder)
        write_number(100, 7, base.model, "insert").run(store)
        shutil.copytree(base.folder, self._base.folder)  # with its log
        self._right = answers(base.folder)

    def run(self, flips: int, seconds: float, say: Callable[[str], None]) -> Report:
        """Change so many bits of each file, one at a time."""
        started = time.monotonic()
        paths = [path for path in sorted(self._base.folder.iterdir()) if path.stat().st_size]
        for number in range(flips):
            for path in paths:
                if path.name.endswith(("-shm", ".lock")):
                    continue
                place = self._rng.randrange(8 * path.stat().st_size)
                if number == 0:  # the header of each file, too
                    place = self._rng.randrange(8 * min(100, path.stat().st_size))
                self._flip(path.name, place)
                self.report.seconds = time.monotonic() - started
                if self.report.seconds > seconds:
                    return self.report
            if number % 20 == 19:
                say(f"  {self.report.summary()}")
        return self.report

    def _flip(self, name: str, place: int) -> None:
        folder = self._base.copy(self._folder)
        (folder / "rows.db-shm").unlink(missing_ok=True)
        data = bytearray((folder / name).read_bytes())
        data[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(data)

        def work(pipe: int) -> None:
            results = answers(folder)
            try:
                problems = list(examine(folder, deep=True).problems)
            except LookalikeError as error:  # of another format
                problems = [str(error)]
            refused = [name for name, each in results.items() if isinstance(each, LookalikeError)]
            for message in map(str, [*problems, *(results[name] for name in refused)]):
                if "\n" in message:
                    raise ValueError(f"several lines: {message}")
            wrong = [
                name
                for name, right in self._right.items()
                if name not in refused and "open" not in refused and results[name] != right
            ]
            os.write(pipe, json.dumps([refused, wrong, problems]).encode())

        pid, pipe = in_fork(work)
        text = read_to_end(pipe)
        _, status = os.waitpid(pid, 0)
        self.report.counts["flips"] += 1
        where = f"{name}, bit {place}"
        if status:
            self.report.faults.append(f"{where}: status {status}: {text}")
            return
        refused, wrong, problems = json.loads(text)
        self.report.counts["noticed by the check"] += bool(problems)
        self.report.counts["noticed in use"] += bool(refused)
        self.report.counts["of no effect"] += not (problems or refused or wrong)
        self.report.counts["answered wrongly, noticed by the check"] += bool(wrong and problems)
        if name == "rows.db-wal" and wrong and not problems:  # as if that write had not ended
            self.report.counts["log ends earlier"] += 1
        elif (wrong or refused) and not problems:
            self.report.faults.append(f"{where}: {wrong + refused}, but the check finds nothing")
        elif name.endswith(".usearch") and set(wrong) - {"graph"}:
            self.report.faults.append(f"{where}: {wrong} answered wrongly")


# ---------------------------------------------------------------- all

SECTIONS = ("kill", "calls", "cuts", "bits")


def main() -> None:
    """Run the sections and print their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", help="kill, calls, cuts, bits; all by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of kill")
    parser.add_argument("--flips", type=int, default=FLIPS, help="of bits, in each file")
    parser.add_argument("--writes", nargs="+", choices=WRITES, default=WRITES, metavar="KIND")
    parser.add_argument("--every", type=int, default=1, help="try each N-th system call only")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of each section, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a new folder that is kept")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown section {min(unknown)}")
    faults: list[str] = []
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in options.sections or SECTIONS:
            report = _run(name, work / name, options)
            print(f"{report.summary()} ({report.seconds:,.0f} s)", flush=True)
            faults += report.faults
    for fault in faults[:50]:
        print(f"  {fault}")
    sys.exit(1 if faults else 0)


def _run(name: str, work: Path, options: argparse.Namespace) -> Report:
    match name:
        case "kill":
            return run_kills(work, options.rounds, seed=options.seed, seconds=options.seconds)
        case "bits":
            return run_flips(work, options.flips, seed=options.seed, seconds=options.seconds)
        case "calls":
            return run_calls(work, options.writes, every=options.every, seconds=options.seconds)
        case _:
            seed, every = options.seed, options.every
            return run_cuts(work, options.writes, seed=seed, every=every, seconds=options.seconds)


# Each of the following works in a process of its own, since it forks: what else the process of the
# caller has imported may have threads, or mind forks.


def run_kills(work: Path, rounds: int, *, seed: int = 0, seconds: float = math.inf) -> Report:
    """Run :class:`KillRounds`."""
    return _in_new_process("kill", work, [seed, rounds, seconds])


def run_flips(work: Path, flips: int, *, seed: int = 0, seconds: float = math.inf) -> Report:
    """Run :class:`BitFlips`."""
    return _in_new_process("bits", work, [seed, flips, seconds])


def run_calls(
    work: Path,
    kinds: Sequence[str] = WRITES,
    faults: Sequence[str] = tuple(_FAULTS),
    *,
    every: int = 1,
    seconds: float = math.inf,
) -> Report:
    """Run :class:`CallRounds`.

    Raises:
        RuntimeError: there is no C compiler.
    """
    return _in_new_process("calls", work, [kinds, faults, every, seconds], compile_calls(work))


def run_cuts(
    work: Path,
    kinds: Sequence[str] = WRITES,
    *,
    seed: int = 0,
    every: int = 1,
    seconds: float = math.inf,
) -> Report:
    """Run :class:`CutRounds`.

    Raises:
        RuntimeError: there is no C compiler.
    """
    return _in_new_process("cuts", work, [kinds, seed, every, seconds], compile_calls(work))


def _in_new_process(
    name: str, work: Path, arguments: Sequence[Any], library: Path | None = None
) -> Report:
    """Run rounds in a new process, into which a library may be preloaded."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join((str(root), *filter(None, sys.path)))
    environment = {**os.environ, "PYTHONPATH": path}
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    command = [sys.executable, "-c", "from benchmarks import store_faults; store_faults.work_off()"]
    job = json.dumps([name, str(work), str(library or ""), arguments])
    subprocess.run(command, input=job, env=environment, check=True, text=True)
    name, counts, faults, seconds = json.loads((work / "report.json").read_text(encoding="utf-8"))
    return Report(name, Counter(counts), faults, seconds)


def work_off() -> None:
    """Do what is asked for on stdin and write ``report.json``."""
    os.environ.pop("LD_PRELOAD", None)
    name, folder, library, arguments = json.load(sys.stdin)
    work = Path(folder)
    run: Callable[..., Report]
    match name:
        case "kill":
            run = KillRounds(work / "x.gallery" / "store", arguments.pop(0)).run
        case "bits":
            run = BitFlips(work, arguments.pop(0)).run
        case "calls":
            run = CallRounds(work, library).run
        case _:
            run = CutRounds(work, library).run_cuts
    report = run(*[*arguments, print])
    fields = report.name, report.counts, report.faults, report.seconds
    (work / "report.json").write_text(json.dumps(fields), encoding="utf-8")


if __name__ == "__main__":
    main()
