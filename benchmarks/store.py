"""The embedded store beside the store before it, faiss and usearch: search, writing, memory, disk.

    python benchmarks/store.py [SECTION...] [--rows N...] [--dim 256] [--against CHECKOUT]
                               [--engines NAMES] [--keep FOLDER] [--minutes M]

    search   single queries in a warm process, exact: p50 and p95 in ms, recall@10, memory
    filter   the same with filters that match 50, 10, 1 and .1 % of the rows
    batch    1,000 queries in one call, ms per query
    graph    single queries by a graph index: build, p50 and p95 at a recall of .99 or more
    oneshot  a new process that opens and searches once: seconds, CPU seconds, resident MB, with
             the files in the page cache and without
    open     CPU seconds of a new process for `import lookalike; Gallery.open`
    insert   rows per second, with metadata and all that is derived from them
    disk     bytes on the disk relative to the vectors
    readers  three readers beside a writer: searches, errors, delay until new rows are seen

All sections run unless some are named, with 60,000 and 500,000 rows: clustered unit vectors of 256
dimensions (2,000 centers, noise .7) with a label, a caption and four numbers each; cosine, k = 10.
Engines run in processes of their own and take turns, ten queries at a time, so compare within a
run. LOOKALIKE_THREADS holds for all of them. Sections run in the order above, except that `graph`
is the last one: what runs after it, in the same folder, uses the graph unless it is exact.

--against is a checkout of lookalike that runs beside this one, with its own environment `.venv` if
it has one. faiss and usearch are compared if they are installed. With --keep, what was built stays
in the folder, and the next run goes on there. --minutes ends the run early; it can be resumed:

    python benchmarks/store.py --rows 5000000 --engines lookalike --keep FOLDER --minutes 60

takes about 20 GB in FOLDER.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusters import BLOCK, DIM, SHARES, K, blocks, clusters, row_id
from store_engines import ENGINES, QUERIES, QUERY_SEED, filtered_value

SIZES = (60_000, 500_000)
SINGLE = 200
"""Queries that are searched one by one."""

TURN = 10
INSERTED = 100_000
ROUNDS = 3
READERS, READER_ROWS, READER_S = 3, 60_000, 10.0
ONE_SHOTS, COLD_SHOTS, OPENINGS = 7, 3, 11
PACKAGES = {"faiss-flat": "faiss", "faiss-hnsw": "faiss", "usearch": "usearch"}
GALLERIES = ("lookalike", "previous")
GRAPHS = ("lookalike", "faiss-hnsw", "usearch")
FILTERS = ("lookalike", "previous", "faiss-flat", "faiss-hnsw")

ONE_SHOT = {
    "gallery": """
import sys
import numpy as np
import lookalike as la
print([hit.id for hit in la.Gallery.open(sys.argv[1]).search(vector=np.load(sys.argv[2]), k=10)])
""",
    "faiss": """
import sys
import faiss
import numpy as np
print(faiss.read_index(sys.argv[1]).search(np.load(sys.argv[2])[None], 10)[1])
""",
    "usearch": """
import sys
import numpy as np
from usearch.index import Index
print(Index.restore(sys.argv[1], view=True).search(np.load(sys.argv[2]), 10).keys)
""",
}

LAUNCH = """
import os, sys, time
start = time.perf_counter()
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(process, 0)
seconds, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(seconds, cpu, usage.ru_maxrss / 1024, status)
"""
"""Runs a command in a small process: the memory of the process that starts another counts there."""

OPEN = "import sys, lookalike; lookalike.Gallery.open(sys.argv[1])"


class TimeOverError(Exception):
    """The time of --minutes is over."""


@dataclass(frozen=True)
class Run:
    """The options of a run."""

    engines: tuple[str, ...]
    dim: int
    work: Path
    against: Path | None
    deadline: float

    def check_time(self) -> float:
        """Return the seconds that are left."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeOverError
        return left

    def interpreter(self, engine: str) -> tuple[str, dict[str, str]]:
        """Return the interpreter and environment of an engine.

        Modules are compiled once, as those of an installed package are.
        """
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(self.work.absolute() / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if engine != "previous":
            return sys.executable, environment
        assert self.against is not None
        own = self.against / ".venv/bin/python"
        source = str(self.against.absolute() / "src")
        python = str(own) if own.exists() else sys.executable
        return python, {**environment, "PYTHONPATH": source}

    def folder(self, rows: int) -> Path:
        """Return the folder of the engines with so many rows."""
        path = self.work / f"{rows}x{self.dim}"
        path.mkdir(parents=True, exist_ok=True)
        return path


class Worker:
    """A process with one engine."""

    def __init__(self, run: Run, engine: str, folder: Path, rows: int) -> None:
        self._run, self.engine = run, engine
        python, environment = run.interpreter(engine)
        script = str(Path(__file__).with_name("store_engines.py"))
        self._process = subprocess.Popen(
            [python, script, engine, str(folder), str(rows), str(run.dim)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.receive()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def send(self, method: str, *arguments: Any) -> None:
        """Start a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Return the result of a call; the process is killed when the time is over."""
        assert self._process.stdout is not None
        timer = threading.Timer(self._run.check_time(), self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            self._process.wait()
            self._run.check_time()
            sys.exit(f"{self.engine} failed")
        return json.loads(line)

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the result of a call."""
        self.send(method, *arguments)
        return self.receive()


def engines_of(run: Run, names: Iterable[str]) -> list[str]:
    """Return those of the engines that take part."""
    return [name for name in names if name in run.engines]


def record(run: Run, rows: int, key: str, value: Any = None) -> Any:
    """Return what is recorded about the engines with so many rows; with a value, record it."""
    path = run.folder(rows) / "records.json"
    records = json.loads(path.read_text()) if path.exists() else {}
    if value is not None:
        path.write_text(json.dumps({**records, key: value}, indent=1))
        return value
    return records.get(key)


def build(run: Run, rows: int, names: Sequence[str]) -> None:
    """Build the engines that are not built yet."""
    for name in names:
        if record(run, rows, f"{name} build") is None:
            with Worker(run, name, run.folder(rows), rows) as worker:
                record(run, rows, f"{name} build", worker.call("build"))


@contextlib.contextmanager
def workers(run: Run, rows: int, names: Iterable[str]) -> Iterator[list[Worker]]:
    """Build engines, and yield a process for each."""
    taking_part = engines_of(run, names)
    truths(run, rows)
    build(run, rows, taking_part)
    with ExitStack() as stack:
        yield [
            stack.enter_context(Worker(run, name, run.folder(rows), rows)) for name in taking_part
        ]


def truths(run: Run, rows: int) -> None:
    """Compute the nearest rows of the single queries, of all and of each filter's."""
    path = run.folder(rows) / "truth-all.npy"
    if path.exists():
        return
    queries = clusters(QUERIES, QUERY_SEED, run.dim)[:SINGLE]
    shares = ("", *SHARES)
    best = {share: (np.empty((SINGLE, 0)), np.empty((SINGLE, 0), np.int64)) for share in shares}
    for number, block in enumerate(blocks(rows, 1, run.dim)):
        run.check_time()
        numbers = np.arange(number * BLOCK, number * BLOCK + len(block))
        scores = queries @ block.T
        for share in shares:
            chosen = np.arange(len(block))
            if share:
                chosen = np.flatnonzero(numbers % SHARES[share] == filtered_value(share))
            best[share] = nearest(best[share], scores, chosen, block, queries, numbers)
    for share in shares:
        np.save(run.folder(rows) / f"truth-{share or 'all'}.npy", best[share][1])


def nearest(
    best: tuple[NDArray[np.float64], NDArray[np.int64]],
    scores: NDArray[np.float32],
    chosen: NDArray[np.int64],
    block: NDArray[np.float32],
    queries: NDArray[np.float32],
    numbers: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the K nearest of those before and of a block, by products in 64 bits."""
    inside = scores[:, chosen]
    if inside.shape[1] > 2 * K:
        places = np.argpartition(-inside, 2 * K, axis=1)[:, : 2 * K]
    else:
        places = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)
    rows = chosen[places]
    exact = np.einsum("qkd,qd->qk", block[rows].astype(np.float64), queries.astype(np.float64))
    every = np.concatenate([best[0], exact], axis=1)
    ids = np.concatenate([best[1], numbers[rows]], axis=1)
    order = np.argsort(-every, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(every, order, axis=1), np.take_along_axis(ids, order, axis=1)


def take_turns(
    run: Run, rows: int, every: Sequence[Worker], share: str = "", *, exact: bool = True
) -> dict[str, tuple[float, float, float]]:
    """Return the p50 and p95 in ms and the recall of each engine."""
    truth = np.load(run.folder(rows) / f"truth-{share or 'all'}.npy").tolist()
    times: dict[str, list[float]] = {worker.engine: [] for worker in every}
    correct = dict.fromkeys(times, 0)
    for first in range(0, SINGLE, TURN):
        for worker in every:
            result = worker.call("search", first, first + TURN, share, exact)
            times[worker.engine] += result["ms"]
            pairs = zip(result["rows"], truth[first : first + TURN], strict=True)
            correct[worker.engine] += sum(len({*ids} & {*true}) for ids, true in pairs)
    expected = sum(map(len, truth))
    return {
        name: (
            float(np.percentile(each, 50)),
            float(np.percentile(each, 95)),
            correct[name] / expected,
        )
        for name, each in times.items()
    }


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(heads) + " |")
    print("|---|" + "--:|" * (len(heads) - 1), flush=True)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def through_gallery(worker: Worker, *, exact: bool) -> str:
    """Return the p50 in ms of whole searches of a gallery."""
    if worker.engine not in GALLERIES:
        return "-"
    worker.call("gallery_search", 0, TURN, exact)
    return number(statistics.median(worker.call("gallery_search", 0, SINGLE, exact)["ms"]))


def search(run: Run, rows: int) -> None:
    """Compare exact search."""
    with workers(run, rows, ("lookalike", "previous", "faiss-flat")) as every:
        if not every:
            return
        measured = take_turns(run, rows, every)
        table = []
        for worker in every:
            p50, p95, recall = measured[worker.engine]
            memory = worker.call("memory")
            whole = through_gallery(worker, exact=True)
            cells = (number(p50), number(p95), f"{recall:.3f}", whole)
            table.append((worker.engine, *cells, number(memory["peak"]), number(memory["own"])))
    heads = ("p50 ms", "p95 ms", f"recall@{K}", "p50 of Gallery.search", "peak MB", "own MB")
    print_table(("exact search", *heads), table)


def filtered(run: Run, rows: int) -> None:
    """Compare search with filters; graphs with the effort that has a recall of .99 without."""
    with workers(run, rows, FILTERS) as every:
        for worker in every:
            worker.call("tune")
        cells: dict[str, list[str]] = {worker.engine: [] for worker in every}
        for share in SHARES:
            for name, (p50, _, recall) in take_turns(run, rows, every, share).items():
                cells[name].append(f"{number(p50)} ({recall:.3f})")
    heads = [f"{100 / values:g} %" for values in SHARES.values()]
    table = [(name, *values) for name, values in cells.items()]
    print_table(("filter: p50 ms (recall)", *heads), table)


def batch(run: Run, rows: int) -> None:
    """Compare many queries in one call."""
    with workers(run, rows, ("lookalike", "previous", "faiss-flat")) as every:
        times: dict[str, list[float]] = {worker.engine: [] for worker in every}
        for _ in range(ROUNDS):
            for worker in every:
                times[worker.engine].append(worker.call("batch"))
    table = [(name, number(statistics.median(each))) for name, each in times.items()]
    print_table((f"{QUERIES:,} queries in one call", "ms per query"), table)


def graph(run: Run, rows: int) -> None:
    """Compare graph indexes."""
    truths(run, rows)
    if "lookalike" in run.engines and record(run, rows, "lookalike graph") is None:
        build(run, rows, ["lookalike"])
        with Worker(run, "lookalike", run.folder(rows), rows) as worker:
            built = worker.call("graph")
            if built is None:
                print("lookalike: has no graph index in this version")
            else:
                record(run, rows, "lookalike graph", built)
    names = [
        name
        for name in GRAPHS
        if name != "lookalike" or record(run, rows, "lookalike graph") is not None
    ]
    with workers(run, rows, names) as every:
        tuned = {worker.engine: worker.call("tune") for worker in every}
        measured = take_turns(run, rows, every, exact=False)
        table = []
        for worker in every:
            name = worker.engine
            p50, p95, recall = measured[name]
            key = "graph" if name == "lookalike" else "build"
            built = record(run, rows, f"{name} {key}")
            whole = through_gallery(worker, exact=False)
            own = number(worker.call("memory")["own"])
            effort = tuned[name].get("effort", "-")
            size = number(built["bytes"] / rows)
            cells = (number(p50), number(p95), f"{recall:.3f}", whole, own)
            built_in = f"{number(built['seconds'])} ({number(built['cpu'])})"
            table.append((name, built_in, size, effort, *cells))
    heads = ("build s (CPU)", "bytes per row", "ef", "p50 ms", "p95 ms", f"recall@{K}")
    print_table(("graph", *heads, "p50 of Gallery.search", "own MB"), table)


def process_cost(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Return the seconds, CPU seconds and resident MB of a process."""
    launcher = [sys.executable, "-S", "-E", "-c", LAUNCH, *command]
    output = subprocess.run(launcher, env=environment, check=True, stdout=subprocess.PIPE).stdout
    seconds, cpu, megabytes, status = map(float, output.split())
    if status:
        sys.exit(f"{command[:4]} failed")
    return seconds, cpu, megabytes


def evict(path: Path) -> None:
    """Drop the files of an engine from the page cache."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def one_shot(run: Run, rows: int) -> None:
    """Compare processes that search once."""
    names = engines_of(run, ("lookalike", "previous", "faiss-flat", "faiss-hnsw", "usearch"))
    build(run, rows, names)
    query = run.folder(rows) / "query.npy"
    np.save(query, clusters(1, QUERY_SEED, run.dim)[0])
    commands: dict[str, tuple[list[str], dict[str, str], Path]] = {}
    for name in names:
        python, environment = run.interpreter(name)
        is_gallery = name in GALLERIES
        path = run.folder(rows) / f"{name}.{'gallery' if is_gallery else 'index'}"
        script = ONE_SHOT["gallery" if is_gallery else name.partition("-")[0]]
        commands[name] = [python, "-c", script, str(path), str(query)], environment, path
        if is_gallery:
            cli = [python, "-m", "lookalike", "search", str(path), "--id", row_id(rows // 2)]
            commands[f"{name}, command line"] = cli, environment, path
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    cold: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(ONE_SHOTS + 1):
        run.check_time()
        for name, (command, environment, _) in commands.items():
            cost = process_cost(command, environment)
            if turn:
                costs[name].append(cost)
    for _ in range(COLD_SHOTS if hasattr(os, "posix_fadvise") else 0):
        run.check_time()
        for name, (command, environment, path) in commands.items():
            evict(path)
            cold[name].append(process_cost(command, environment)[0])
    table = []
    for name, each in costs.items():
        seconds, cpu, memory = (statistics.median(column) for column in zip(*each, strict=True))
        without = number(statistics.median(cold[name])) if cold[name] else "-"
        table.append((name, number(seconds), number(cpu), number(memory), without))
    print_table(("one-shot", "s", "CPU s", "resident MB", "s, not in the page cache"), table)


def opening(run: Run, rows: int) -> None:
    """Compare the cost of opening a gallery."""
    names = engines_of(run, GALLERIES)
    build(run, rows, names)
    python, environment = run.interpreter("lookalike")
    commands = {"python alone": ([python, "-c", "pass"], environment)}
    for name in names:
        python, environment = run.interpreter(name)
        path = str(run.folder(rows) / f"{name}.gallery")
        commands[name] = [python, "-c", OPEN, path], environment
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for turn in range(OPENINGS + 1):
        for name, (command, environment) in commands.items():
            cost = process_cost(command, environment)
            if turn:
                costs[name].append(cost)
    table = []
    for name, each in costs.items():
        medians = [statistics.median(column) for column in zip(*each, strict=True)]
        table.append((name, *map(number, medians)))
    print_table(("import lookalike; Gallery.open", "s", "CPU s", "resident MB"), table)


def insert(run: Run, rows: int) -> None:
    """Compare the speed of writing."""
    count = min(rows, INSERTED)
    names = engines_of(run, GALLERIES)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            with ExitStack() as stack:
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=run.work))
                built = stack.enter_context(Worker(run, name, Path(folder), count)).call("build")
            rates[name].append((count / built["seconds"], 1e6 * built["cpu"] / count))
    table = []
    for name, each in rates.items():
        rate, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        table.append((name, number(rate), number(cpu)))
    print_table((f"insert {count:,} rows", "rows per s", "CPU us per row"), table)


def disk(run: Run, rows: int) -> None:
    """Compare sizes and the time to build."""
    names = engines_of(run, ENGINES)
    build(run, rows, names)
    table = []
    for name in names:
        built = record(run, rows, f"{name} build")
        share = built["bytes"] / (4 * run.dim * rows)
        whole = rows / built["rows"]  # of a build that went on where another one had ended
        seconds, cpu = number(whole * built["seconds"]), number(whole * built["cpu"])
        table.append((name, number(built["bytes"] / 1e6), f"{share:.2f}", seconds, cpu))
    print_table(("disk", "MB", "relative to the vectors", "built in s", "CPU s"), table)


def readers(run: Run, rows: int) -> None:
    """Compare readers beside a writer."""
    count, table = min(rows, READER_ROWS), []
    for name in engines_of(run, GALLERIES):
        with tempfile.TemporaryDirectory(dir=run.work) as folder, ExitStack() as stack:
            with Worker(run, name, Path(folder), count) as worker:
                worker.call("build")
            writer, *reading = [
                stack.enter_context(Worker(run, name, Path(folder), count))
                for _ in range(1 + READERS)
            ]
            for each in reading:
                each.send("read", READER_S + 1)
            writer.send("write", READER_S)
            written = writer.receive()
            results = [each.receive() for each in reading]
        delays = [
            max(0.0, 1000 * (seen - written[commit]))
            for result in results
            for commit, seen in result["seen"].items()
            if commit in written
        ]
        p50, p99 = np.percentile(delays, [50, 99]) if delays else (np.nan, np.nan)
        searches = sum(result["searches"] for result in results)
        errors = [error for result in results for error in result["errors"]]
        if errors:
            print(f"{name}: {errors[0]}", file=sys.stderr)
        cells = (f"{len(written):,}", f"{searches:,}", len(errors), number(p50), number(p99))
        table.append((name, *cells))
    heads = ("commits", "searches", "errors", "new rows seen after ms, p50", "p99")
    print_table((f"{READERS} readers beside a writer, {READER_S:.0f} s", *heads), table)


SECTIONS = {
    "search": search,
    "filter": filtered,
    "batch": batch,
    "oneshot": one_shot,
    "open": opening,
    "insert": insert,
    "disk": disk,
    "readers": readers,
    "graph": graph,
}
"""The graph is last: searches of the others are then without it."""

ALL_SIZES = ("search", "filter", "batch", "oneshot", "open", "graph")


def available(names: Sequence[str], against: Path | None) -> tuple[str, ...]:
    """Return the engines that can run; print a line for each that cannot."""
    taking_part = []
    for name in names:
        package = PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            print(f"{name}: skipped, the package {package} is not installed")
        elif name == "previous" and against is None:
            print("previous: skipped, needs --against CHECKOUT")
        else:
            taking_part.append(name)
    return tuple(taking_part)


def main() -> None:
    """Run sections at each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--minutes", type=float, default=1e6)
    options = parser.parse_args()
    for section in options.sections:
        if section not in SECTIONS:
            parser.error(f"no section {section!r}; there are {', '.join(SECTIONS)}")
    names = options.engines.split(",")
    for name in names:
        if name not in ENGINES:
            parser.error(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    engines = available(names, options.against)
    with ExitStack() as stack:
        work = options.keep
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lookalike-")))
        work.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + 60 * options.minutes
        run = Run(engines, options.dim, work, options.against, deadline)
        for section in [name for name in SECTIONS if name in (options.sections or SECTIONS)]:
            sizes = sorted(options.rows)
            for rows in sizes if section in ALL_SIZES else sizes[-1:]:
                print(f"\n{section}: {rows:,} x {run.dim}\n", flush=True)
                try:
                    SECTIONS[section](run, rows)
                except TimeOverError:
                    print("the time is over; run it again with --keep to go on")
                    return


if __name__ == "__main__":
    main()
