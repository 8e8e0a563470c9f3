"""Faults: killed processes, full disks, reads during writes, odd files. Prints what was lost.

    python benchmarks/faults.py [kill] [space] [reads] [odd] [--rounds N] [--reads N] [--seed N]
                                [--corpus FOLDER] [--work FOLDER]

All sections run unless some are named; the exit code is 1 if anything was lost, doubled or unclear.

kill   Rounds of ``index``, uploads to ``serve --write`` and ``label propagate --write`` on one
       gallery, each killed (SIGKILL) at a random moment. What was acknowledged, by an exit code
       of 0 or a response, must be there afterwards, once.
space  Every command that writes, on a disk with too little space left. It must leave the old
       state and print one line, and work once there is space. Root gets a small tmpfs; others a
       limit on the size of files.
reads  Four processes search, open and list a gallery while another one adds, changes and removes
       rows.
odd    A folder of odd files: every one is added, failed or skipped, and nothing else happens.

Commands run in processes forked from one that has imported them, so that a round takes as long as
the command itself.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import lookalike as la
from lookalike.errors import LookalikeError, ServiceError, StorageError
from lookalike.explore import load_map
from lookalike.gallery.gallery import Gallery
from lookalike.gallery.ids import UPLOADS
from lookalike.images.decode import content_hash
from lookalike.stores.embedded.check import examine

ROUNDS = 1_000
READS = 10_000
READERS = 4
_ONE_THREAD = dict.fromkeys(
    ("LOOKALIKE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


# ---------------------------------------------------------------- processes


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, and what it printed."""

    code: int
    out: str
    err: str


class Launcher:
    """Runs commands of lookalike in forks of a process that has imported them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams = folder / "stdout", folder / "stderr"
        self._pid = 0
        root = Path(__file__).parents[1]
        path = os.pathsep.join((str(root), *filter(None, sys.path)))
        self._server = subprocess.Popen(
            [sys.executable, "-c", "from benchmarks import faults; faults.serve_forks()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
            text=True,
        )

    def start(self, *arguments: object, file_limit: int | None = None) -> None:
        """Start a command; only one runs at a time."""
        for stream in self._streams:
            stream.write_bytes(b"")  # what the command before printed is not this one's
        job = {
            "argv": [str(each) for each in arguments],
            "folder": str(self._folder),
            "streams": [str(stream) for stream in self._streams],
            "file_limit": file_limit,
        }
        self._pid = int(self._ask(json.dumps(job)))

    def kill(self) -> None:
        """Kill the command and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def printed(self) -> str:
        """Return what the command has printed to stderr so far."""
        return self._streams[1].read_text(errors="replace")

    def wait(self) -> Ended:
        """Wait for the end of the command."""
        code = os.waitstatus_to_exitcode(int(self._answer()))
        self.kill()  # decoders of a service end by themselves, a little later
        out, err = (stream.read_text(errors="replace") for stream in self._streams)
        return Ended(code, out, err)

    def run(self, *arguments: object, file_limit: int | None = None) -> Ended:
        """Run a command to its end."""
        self.start(*arguments, file_limit=file_limit)
        return self.wait()

    def run_until(self, seconds: float, *arguments: object) -> Ended:
        """Run a command, and kill it after so many seconds unless it has ended."""
        self.start(*arguments)
        killer = threading.Timer(seconds, self.kill)
        killer.start()
        try:
            return self.wait()
        finally:
            killer.cancel()

    def close(self) -> None:
        """End the process that forks."""
        self._server.communicate()

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the process that starts commands has ended")
        return line


def serve_forks() -> None:
    """Fork a command for each job on stdin; print its process id, then its status."""
    for module in (
        *("lookalike.cli", "lookalike.gallery.gallery", "lookalike.gallery.copy"),
        *("lookalike.stores.embedded.compaction", "lookalike.stores.embedded.graph_building"),
        *("lookalike.server.app", "lookalike.server.uvicorn_server", "lookalike.labels"),
        *("lookalike.explore", "lookalike.report.figures", "sklearn.cluster", "scipy.stats"),
    ):
        with contextlib.suppress(ImportError):
            __import__(module)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_command(job)
        answers.write(f"{pid}\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(f"{status}\n")
        answers.flush()


def _run_command(job: dict[str, Any]) -> None:
    """Run a command in this process, which was forked for it, and end the process."""
    code = 70
    try:
        os.setsid()
        os.chdir(job["folder"])
        for number, path in zip((0, 1, 2), (os.devnull, *job["streams"]), strict=True):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o644), number)
        if job["file_limit"] is not None:
            import resource

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, closefd=False)  # noqa: SIM115 - descriptors
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        sys.argv = ["lookalike", *job["argv"]]
        from lookalike.cli import main

        code = _exit_code(main)
    except BaseException:  # noqa: BLE001 - shown as the interpreter would
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _exit_code(main: Callable[[], None]) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0


def service_address(launcher: Launcher) -> str:
    """Return the address of the service that was just started.

    Raises:
        TimeoutError: it does not print one; the message has what it printed.
    """
    for _ in range(1_500):
        printed = launcher.printed()
        for word in printed.split():
            if word.startswith("http://127.0.0.1:") and printed.endswith("\n"):
                return word.rstrip("/,;")
        time.sleep(0.02)
    raise TimeoutError(f"serve did not start: {launcher.printed()[-300:]}")


def kill_during_writes(
    launcher: Launcher,
    gallery: Path,
    client: Callable[[str, int, float, threading.Event], None],
    seeds: Sequence[float],
    pause: Callable[[], None],
) -> Ended:
    """Serve a gallery, and kill the service while clients write; return how it ended.

    Args:
        launcher: starts the service.
        gallery: that is served.
        client: writes to the address until the event is set, as the client of this number.
        seeds: random seeds, one for each client.
        pause: waits for the moment to kill the service.

    Raises:
        TimeoutError: the service did not start.
    """
    launcher.start("serve", gallery, "--write", "--port", "0")
    try:
        address = service_address(launcher)
    except TimeoutError:
        launcher.kill()
        launcher.wait()
        raise
    stop = threading.Event()
    threads = [
        threading.Thread(target=client, args=(address, number, seed, stop))
        for number, seed in enumerate(seeds)
    ]
    for thread in threads:
        thread.start()
    pause()
    launcher.kill()
    stop.set()
    for thread in threads:
        thread.join()
    return launcher.wait()


# ---------------------------------------------------------------- images


def picture(rng: random.Random, side: int = 24) -> bytes:
    """Return a PNG of random content: a few colored cells."""
    cells = np.frombuffer(rng.randbytes(48), np.uint8).reshape(4, 4, 3)
    file = io.BytesIO()
    Image.fromarray(cells).resize((side, side), Image.Resampling.BILINEAR).save(file, "PNG")
    return file.getvalue()


# ---------------------------------------------------------------- kill

_STABLE = 24
"""Files that never change: those with labels."""

_EVERY = 5
"""Rounds between runs of ``index`` that are not killed; labels take twice as many."""


@dataclass
class Ledger:
    """What each row may be: its possible content hashes, None for no row.

    An attempt adds a possibility; what is acknowledged is the only one left.
    """

    rows: dict[str, set[str | None]] = field(default_factory=dict)
    labels: set[str | None] = field(default_factory=lambda: {None})
    acknowledged: int = 0

    def attempt(self, row_id: str, digest: str | None) -> None:
        """Record that a row may have become this."""
        self.rows.setdefault(row_id, {None}).add(digest)

    def acknowledge(self, row_id: str, digest: str | None) -> None:
        """Record that a row is this."""
        self.rows[row_id] = {digest}
        self.acknowledged += 1


@dataclass
class KillReport:
    """The result of the rounds; each fault is a line that names round and row."""

    rounds: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    acknowledged_rows: int = 0
    acknowledged_labels: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    labels_lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Everything that must not happen."""
        return [*self.lost, *self.doubled, *self.labels_lost, *self.broken]

    def summary(self) -> str:
        """Return the figures in a few lines."""
        kinds = ", ".join(
            f"{kind} {count} ({self.killed[kind]} killed before the end)"
            for kind, count in sorted(self.rounds.items())
        )
        return (
            f"kill -9, {sum(self.rounds.values()):,} rounds: {kinds}\n"
            f"  acknowledged: {self.acknowledged_rows:,} rows, {self.acknowledged_labels:,} labels"
            f"\n  lost rows {len(self.lost)}, doubled rows {len(self.doubled)}, lost labels "
            f"{len(self.labels_lost)}, broken galleries {len(self.broken)}"
        )


class KillRounds:
    """Commands on one gallery, each killed at a random moment, and what must be true after it."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work = work
        self.rng = random.Random(seed)
        self.photos = work / "photos"
        self.gallery = work / "g.gallery"
        self.ledger = Ledger()
        self.report = KillReport()
        self._typical: dict[str, float] = {}
        self._serial = 0
        self._label_version = 0
        self._round = 0
        work.mkdir(parents=True, exist_ok=True)
        self.photos.mkdir()
        self.launcher = Launcher(work)
        for number in range(_STABLE):
            (self.photos / f"stable-{number:02}.png").write_bytes(picture(self.rng))
        for _ in range(12):
            self._new_file()
        ended = self.launcher.run("index", self.gallery, self.photos, "--encoder", "color")
        if ended.code:
            raise RuntimeError(f"the gallery could not be made: {ended.err}")
        self._acknowledge_files()
        self._index_completely()
        self._write_labels(kill=False)

    def run(self, rounds: int, say: Callable[[str], None]) -> KillReport:
        """Run so many rounds, and return the result."""
        kinds: dict[str, Callable[[], None]] = {
            "index": self._index,
            "upload": self._upload,
            "labels": partial(self._write_labels, kill=True),
        }
        started = time.monotonic()
        try:
            for number in range(1, rounds + 1):
                self._round = number
                kind = self.rng.choice(tuple(kinds))
                self.report.rounds[kind] += 1
                kinds[kind]()
                self._check(kind)
                if number % _EVERY == 0:
                    self._index_completely()
                if number % (2 * _EVERY) == 0:
                    self._write_labels(kill=False)
                    self._check("labels")
                if number % 100 == 0:
                    seconds = time.monotonic() - started
                    say(f"  {number:,} rounds, {seconds:.0f} s, {len(self.report.faults)} faults")
        finally:
            self.launcher.close()
        self.report.acknowledged_rows = self.ledger.acknowledged
        return self.report

    def _timed(self, kind: str, *arguments: object, kill: bool = True) -> Ended:
        """Run a command, which may be killed at a random moment of a usual run."""
        started = time.monotonic()
        if kill:
            late = max(self.rng.random(), self.rng.random())  # writing comes last
            ended = self.launcher.run_until(1.15 * self._typical[kind] * late, *arguments)
        else:
            ended = self.launcher.run(*arguments)
        seconds = time.monotonic() - started
        if ended.code == -signal.SIGKILL:
            self.report.killed[kind] += 1
        elif ended.code:
            self._broken(f"{kind} ended with {ended.code}: {ended.err[-300:]}")
        else:
            self._typical[kind] = 0.7 * self._typical.get(kind, seconds) + 0.3 * seconds
        return ended

    def _broken(self, text: str) -> None:
        self.report.broken.append(f"round {self._round}: {text}")

    # -- the source

    def _new_file(self) -> None:
        self._serial += 1
        (self.photos / f"file-{self._serial:05}.png").write_bytes(picture(self.rng))

    def _change_files(self) -> None:
        """Add files, and perhaps remove, rename or change one, as people do between runs."""
        for _ in range(self.rng.randint(1, 3)):
            self._new_file()
        others = sorted(self.photos.glob("file-*.png"))
        self.rng.shuffle(others)
        for _ in range(max(0, len(others) - 24)):
            others.pop().unlink()
        if self.rng.random() < 0.5:
            others.pop().unlink()
        if self.rng.random() < 0.5:
            self._serial += 1
            others.pop().rename(self.photos / f"file-{self._serial:05}.png")
        if self.rng.random() < 0.5:
            others.pop().write_bytes(picture(self.rng))

    def _files(self) -> dict[str, str]:
        return {
            f"photos:{path.name}": content_hash(path.read_bytes())
            for path in self.photos.glob("*.png")
        }

    def _acknowledge_files(self) -> None:
        files = self._files()
        for row_id in [each for each in self.ledger.rows if each.startswith("photos:")]:
            if row_id not in files:
                self.ledger.acknowledge(row_id, None)
        for row_id, digest in files.items():
            self.ledger.acknowledge(row_id, digest)

    # -- the commands

    def _index(self) -> None:
        self._change_files()
        files = self._files()
        for row_id in [each for each in self.ledger.rows if each.startswith("photos:")]:
            if row_id not in files:
                self.ledger.attempt(row_id, None)
        for row_id, digest in files.items():
            self.ledger.attempt(row_id, digest)
        if self._timed("index", "index", self.gallery, self.photos).code == 0:
            self._acknowledge_files()

    def _index_completely(self) -> None:
        if self._timed("index", "index", self.gallery, self.photos, kill=False).code == 0:
            self._acknowledge_files()
            self._check("index")

    def _write_labels(self, *, kill: bool) -> None:
        self._label_version += 1
        version = str(self._label_version)
        lines = [f"photos:stable-{n:02}.png,{'ab'[n % 2]}{version}\n" for n in range(_STABLE)]
        (self.work / "labels.csv").write_text("id,label\n" + "".join(lines))
        arguments = ("label", "propagate", self.gallery, "--labels", "labels.csv")
        options = ("-o", "out.csv", "--write", "kind")
        self.ledger.labels.add(version)
        if self._timed("labels", *arguments, *options, kill=kill).code == 0:
            self.ledger.labels = {version}
            self.report.acknowledged_labels += _STABLE

    def _upload(self) -> None:
        """Add, replace and remove uploaded images until the service is killed."""
        seeds = [self.rng.random() for _ in range(2)]
        pause = self.rng.uniform(0, 0.4)
        try:
            ended = kill_during_writes(
                self.launcher, self.gallery, self._client, seeds, lambda: time.sleep(pause)
            )
        except TimeoutError as error:
            self._broken(str(error))
            return
        if ended.code == -signal.SIGKILL:
            self.report.killed["upload"] += 1

    def _client(self, address: str, part: int, seed: float, stop: threading.Event) -> None:
        """Write images of one part of the ids; each response acknowledges."""
        rng = random.Random(seed)
        remote = la.Client(address).gallery("g")
        while not stop.is_set():
            key = f"{part}-{rng.randrange(12)}"
            row_id = f"{UPLOADS}:{key}"
            allowed = self.ledger.rows.get(row_id, {None})
            remove = None not in allowed and rng.random() < 0.3
            data = picture(rng)
            digest = None if remove else content_hash(data)
            self.ledger.attempt(row_id, digest)
            try:
                if remove:
                    remote.remove(row_id)
                else:
                    remote.add(data, ids=key, metadata={"part": part}, progress=False)
            except (LookalikeError, OSError, ValueError, http.client.HTTPException):
                continue  # not acknowledged: either state is right
            self.ledger.acknowledge(row_id, digest)

    # -- what must be true

    def _check(self, kind: str) -> None:
        """Compare the gallery with what was acknowledged; afterwards every row is known."""
        try:
            gallery = Gallery.open(self.gallery)
            records = list(gallery.store.records())
            hits = gallery.search(id="photos:stable-00.png", k=3)
            problems = [*examine(self.gallery / "store", deep=True).problems]
        except Exception as error:  # noqa: BLE001 - whatever it is, the gallery is broken
            self._broken(f"after {kind}: {type(error).__name__}: {error}")
            return
        if len(hits) != 3:
            problems.append(f"a search found {len(hits)} of 3 rows")
        for problem in problems:
            self._broken(f"after {kind}: {problem}")
        counts = Counter(record.id for record in records)
        prefix = f"round {self._round}, {kind}: "
        self.report.doubled += [f"{prefix}{row_id}" for row_id, n in counts.items() if n > 1]
        present = {record.id: record for record in records}
        for row_id, allowed in self.ledger.rows.items():
            record = present.get(row_id)
            digest = None if record is None else record.content_hash
            if digest not in allowed:
                self.report.lost.append(f"{prefix}{row_id} is {digest}, not one of {allowed}")
            if record is not None and row_id.startswith(f"{UPLOADS}:"):
                self._check_file(record.uri, digest, prefix)
            self.ledger.rows[row_id] = {digest}
        unknown = set(present) - set(self.ledger.rows)
        self.report.doubled += [f"{prefix}{row_id} was never written" for row_id in unknown]
        self._check_labels(present, prefix)

    def _check_file(self, uri: str, digest: str | None, prefix: str) -> None:
        path = Path(uri)
        if not path.is_file() or content_hash(path.read_bytes()) != digest:
            self.report.lost.append(f"{prefix}the file of {uri}")

    def _check_labels(self, present: dict[str, Any], prefix: str) -> None:
        versions = set()
        for number in range(_STABLE):
            row_id = f"photos:stable-{number:02}.png"
            value = present[row_id].metadata.get("kind") if row_id in present else None
            version = None if value is None else str(value)[1:]
            versions.add(version)
            right = value is None or str(value)[0] == "ab"[number % 2]
            if version not in self.ledger.labels or not right:
                allowed = self.ledger.labels
                self.report.labels_lost.append(f"{prefix}{row_id} has {value!r}, not of {allowed}")
        self.ledger.labels = versions


def kill_rounds(
    work: Path, rounds: int = ROUNDS, seed: int = 0, say: Callable[[str], None] = print
) -> KillReport:
    """Run the rounds in a new folder."""
    return KillRounds(work, seed).run(rounds, say)


# ---------------------------------------------------------------- space


@dataclass(frozen=True, slots=True)
class SpaceCase:
    """A command that writes; ``made`` is what it makes, in its folder.

    ``delivers``: the command prints its result although it cannot save it, and ends well.
    ``resumes``: what it has made so far may stay, for another run that goes on from there.
    """

    name: str
    arguments: tuple[str, ...]
    made: tuple[str, ...] = ()
    delivers: bool = False
    resumes: bool = False


CASES = (
    SpaceCase(
        "index, new", ("index", "new.gallery", "more", "--encoder", "color"), ("new.gallery",)
    ),
    SpaceCase("index, more rows", ("index", "g.gallery", "more")),
    SpaceCase("remove", ("remove", "g.gallery", "--id", "photos:a/*", "--yes")),
    SpaceCase("copy", ("copy", "g.gallery", "copy.gallery"), ("copy.gallery",)),
    SpaceCase("export, parquet", ("export", "g.gallery", "rows.parquet"), ("rows.parquet",)),
    SpaceCase("export, npy", ("export", "g.gallery", "rows", "--layout", "npy"), ("rows",)),
    SpaceCase("evaluate --save", ("evaluate", "g.gallery", "--save")),
    SpaceCase("evaluate --report", ("evaluate", "g.gallery", "--report", "r.html"), ("r.html",)),
    SpaceCase("explore map", ("explore", "map", "g.gallery", "--fresh"), delivers=True),
    SpaceCase(
        "explore map -o",
        ("explore", "map", "g.gallery", "--fresh", "-o", "map.html"),
        ("map.html",),
    ),
    SpaceCase(
        "explore outliers -o", ("explore", "outliers", "g.gallery", "-o", "outliers"), ("outliers",)
    ),
    SpaceCase(
        "search --image", ("search", "g.gallery", "more/0.png", "--image", "h.png"), ("h.png",)
    ),
    SpaceCase("label suggest --save", ("label", "suggest", "g.gallery", "-k", "5", "--save")),
    SpaceCase(
        "label suggest -o", ("label", "suggest", "g.gallery", "-k", "5", "-o", "sheet"), ("sheet",)
    ),
    SpaceCase(
        "label propagate --write",
        (
            *("label", "propagate", "g.gallery", "--labels", "labels.csv"),
            *("-o", "all.csv", "--write", "kind"),
        ),
        ("all.csv",),
    ),
    SpaceCase(
        "choose -o",
        (
            *("choose", "more", "--encoder", "hog-fine", "--encoder", "pixels", "--no-train"),
            *("--labels", "own", "-o", "best.encoder"),
        ),
        ("best.encoder",),
    ),
    SpaceCase(
        "train",
        (
            *("train", "more", "-o", "trained.encoder", "--recipe", "fast-linear"),
            *("--epochs", "1", "--no-evaluate"),
        ),
        ("trained.encoder",),
        resumes=True,
    ),
    SpaceCase("key add", ("key", "add", "keys.json", "reader"), ("keys.json",)),
)
"""Every command that writes; the service is tried by itself."""

SHARES = (0.0, 0.3, 0.6, 0.9)
"""Space that is left, as a share of what the command writes."""


@dataclass
class SpaceReport:
    """Attempts with too little space, how many of them failed, and what was wrong with them."""

    method: str
    attempts: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the figures in a few lines."""
        return (
            f"ENOSPC ({self.method}): {self.attempts} attempts with too little space, "
            f"{self.refused} ended with an error\n  not one line, not the old state, or not usable "
            f"afterwards: {len(self.faults)}"
        )


class SmallDisk:
    """A small tmpfs, if this user may mount one; a folder otherwise."""

    SIZE = 64 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        options = f"size={self.SIZE}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        mount = shutil.which("mount")
        done = mount and subprocess.run(command, capture_output=True, check=False).returncode == 0
        self.mounted = bool(done)

    def close(self) -> None:
        """Unmount and delete it."""
        if self.mounted:
            subprocess.run(["umount", str(self.path)], check=True)
        shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def only(self, free: int) -> Iterator[None]:
        """Leave so many bytes of space while the block runs."""
        filler = self.path / "filler"
        stat = os.statvfs(self.path)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - free))
        try:
            yield
        finally:
            filler.unlink()


class SpaceRounds:
    """Commands on a small disk: each with too little space, then with enough."""

    def __init__(self, work: Path, seed: int) -> None:
        self.disk = SmallDisk(work / "disk")
        self.base, self.folder = work / "base", self.disk.path / "run"
        self.launcher_folder = work / "streams"
        self.rng = random.Random(seed)
        self.report = SpaceReport("tmpfs" if self.disk.mounted else "limit on the size of files")
        self.base.mkdir()
        self.launcher_folder.mkdir()
        for name, count in (("photos", 36), ("more", 40)):
            for number in range(count):
                path = self.base / name / "ab"[number % 2] / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(self.rng, 64))
        (self.base / "more/0.png").write_bytes(picture(self.rng, 64))
        labels = [f"photos:{'ab'[n % 2]}/{n}.png,{'ab'[n % 2]}\n" for n in range(24)]
        (self.base / "labels.csv").write_text("id,label\n" + "".join(labels))
        self.launcher = Launcher(self.launcher_folder)

    def run(self, cases: Sequence[SpaceCase], shares: Sequence[float]) -> SpaceReport:
        """Run every case with every share of the space it needs."""
        try:
            ended = self._command(self.base, "index", "g.gallery", "photos", "--encoder", "color")
            if ended.code:
                raise RuntimeError(f"the gallery could not be made: {ended.err}")
            for case in cases:
                self._case(case, shares)
            if self.disk.mounted:
                self._uploads()
        finally:
            self.launcher.close()
            self.disk.close()
        return self.report

    def _command(self, folder: Path, *arguments: str, file_limit: int | None = None) -> Ended:
        """Run a command in a folder: its paths are relative to it."""
        self.launcher._folder = folder
        return self.launcher.run(*arguments, file_limit=file_limit)

    def _case(self, case: SpaceCase, shares: Sequence[float]) -> None:
        self._reset()
        before = self._used()
        ended = self._command(self.folder, *case.arguments)
        if ended.code:
            self.report.faults.append(f"{case.name}: fails with enough space: {ended.err[-200:]}")
            return
        needed = max(4096, self._used() - before)
        largest = max(
            (path.stat().st_size for path in self.folder.rglob("*") if path.is_file()), default=0
        )
        for share in shares:
            self._reset()
            state = self._state()
            self.report.attempts += 1
            if self.disk.mounted:
                with self.disk.only(int(share * needed)):
                    ended = self._command(self.folder, *case.arguments)
            else:
                limit = max(2_048, int(share * largest))  # what is printed goes into files too
                ended = self._command(self.folder, *case.arguments, file_limit=limit)
            self._judge(case, share, ended, state)

    def _judge(self, case: SpaceCase, share: float, ended: Ended, state: object) -> None:
        """Check one attempt, and that the command works once there is space."""
        problems = []
        lines = [line for line in ended.err.splitlines() if line.startswith("lookalike: error:")]
        if "Traceback" in ended.err or ended.code < 0:
            problems.append(f"crash: {ended.code}: {ended.err[-300:]}")
        elif ended.code == 0:
            if case.delivers and not ended.out:
                problems.append("nothing was delivered")
        elif ended.code != 2 or len(lines) != 1:
            problems.append(f"exit code {ended.code} with {len(lines)} lines: {ended.err[-300:]}")
        if ended.code != 0:
            self.report.refused += 1
            if self._state() != state:
                problems.append("the gallery is not in its old state")
            left = [name for name in case.made if _is_unfinished(self.folder / name)]
            if not case.resumes:
                problems += [f"{name} is left unfinished" for name in left]
            hidden = {p.name for p in self.folder.rglob(".*") if p.suffix != ".lock"}
            problems += [f"{name} is left behind" for name in hidden - {".gitignore"}]
            for name in case.made:  # a command may have made some of several files
                _remove(self.folder / name)
            again = self._command(self.folder, *case.arguments)
            if again.code:
                problems.append(f"fails once there is space: {again.err[-300:]}")
        self.report.faults += [
            f"{case.name}, {share:.0%} of the space: {each}" for each in problems
        ]

    def _uploads(self) -> None:
        """Upload to a service whose disk is full: refused, nothing changes, and it goes on."""
        self._reset()
        self.launcher._folder = self.folder
        self.launcher.start("serve", "g.gallery", "--write", "--port", "0")
        try:
            remote = la.Client(service_address(self.launcher)).gallery("g")
            remote.add(picture(self.rng), ids="before", progress=False)
            state = self._state()
            for free in (0, 4096, 16_384):
                self.report.attempts += 1
                with self.disk.only(free):
                    status = self._status(
                        lambda: remote.add(picture(self.rng, 64), ids="new", progress=False)
                    )
                    found = len(remote.search(id="photos:a/0.png", k=3))
                self.report.refused += status != 200
                if status not in (200, 507) or found != 3:
                    self.report.faults.append(f"upload, {free} bytes: {status}, {found} hits")
                if status != 200 and self._state() != state:
                    self.report.faults.append(f"upload, {free} bytes: not the old state")
                if status == 200:
                    remote.remove("new")
            remote.add(picture(self.rng, 64), ids="new", progress=False)
        finally:
            self.launcher.kill()
            self.launcher.wait()

    @staticmethod
    def _status(write: Callable[[], object]) -> int:
        try:
            write()
        except StorageError:
            return 507
        except ServiceError as error:
            return error.status
        return 200

    def _reset(self) -> None:
        _remove(self.folder)
        shutil.copytree(self.base, self.folder)

    def _used(self) -> int:
        """Return the bytes in use on the disk, or in the folder."""
        if self.disk.mounted:
            stat = os.statvfs(self.disk.path)
            return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def _state(self) -> object:
        """Return the rows of the gallery and its saved evaluation."""
        gallery = Gallery.open(self.folder / "g.gallery")
        rows = [
            (record.id, record.content_hash, json.dumps(dict(record.metadata), sort_keys=True))
            for record in gallery.store.records()
        ]
        assert len(gallery.search(id=rows[0][0], k=3)) == 3
        saved = gallery.path / "evaluation.json"
        load_map(gallery)  # raises if it is damaged; a new one may have been saved first
        return rows, saved.read_bytes() if saved.exists() else None


def _is_unfinished(path: Path) -> bool:
    """Whether something is at a path that a command made although it failed."""
    if path.suffix == ".gallery":  # a gallery is complete from its manifest on; rows may follow
        return path.exists() and not (path / "gallery.json").is_file()
    if path.suffix == ".encoder":
        return path.exists() and not (path / "encoder.json").is_file()
    return path.is_file() and not path.stat().st_size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def full_disk(
    work: Path,
    cases: Sequence[SpaceCase] = CASES,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> SpaceReport:
    """Run commands with too little space, in a new folder."""
    work.mkdir(parents=True, exist_ok=True)
    return SpaceRounds(work, seed).run(cases, shares)


# ---------------------------------------------------------------- reads

_READER = """
import json, sys
from pathlib import Path
from benchmarks.faults import read_until
print(json.dumps(read_until(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
"""


@dataclass
class ReadReport:
    """Reads of several processes, commits made meanwhile, and errors."""

    reads: int = 0
    commits: int = 0
    errors: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the figures in one line."""
        return (
            f"reads: {self.reads:,} from {READERS} processes during {self.commits:,} commits, "
            f"{len(self.errors)} errors"
        )


def read_until(path: Path, reads: int, seed: int) -> list[str]:
    """Read a gallery so many times, in four ways by turns; return the errors."""
    rng = random.Random(seed)
    kept = Gallery.open(path)
    errors: list[str] = []
    for number in range(reads):
        row_id = f"photos:stable-{rng.randrange(_STABLE):02}.png"
        try:
            way = number % 4
            gallery = Gallery.open(path) if way in (0, 3) else kept
            if way < 2:
                hits = gallery.search(id=row_id, k=5)
                if len(hits) != 5:
                    raise ValueError(f"{len(hits)} hits")
            elif way == 2:
                if gallery.store.get([row_id]).ids != [row_id]:
                    raise ValueError("another row")
            else:
                ids = list(gallery.store.ids())
                if len(set(ids)) != len(ids) or row_id not in ids:
                    raise ValueError("rows are doubled or missing")
        except Exception as error:  # noqa: BLE001 - none may happen
            errors.append(f"read {number}: {type(error).__name__}: {error}")
    return errors


def reads_during_writes(work: Path, reads: int = READS, seed: int = 0) -> ReadReport:
    """Read from several processes until they are done, and write from this one meanwhile."""
    rng = random.Random(seed)
    photos = work / "photos"
    photos.mkdir(parents=True)
    for number in range(_STABLE):
        (photos / f"stable-{number:02}.png").write_bytes(picture(rng))
    encoder = la.open_encoder("color", [np.zeros((24, 24, 3), np.uint8)])
    gallery = Gallery.create(work / "g.gallery", encoder=encoder)
    gallery.sync(photos)
    root = Path(__file__).parents[1]
    path = os.pathsep.join((str(root), *filter(None, sys.path)))
    share = math.ceil(reads / READERS)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READER, str(gallery.path), str(share), str(number)],
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
            text=True,
        )
        for number in range(READERS)
    ]
    report = ReadReport()
    while any(reader.poll() is None for reader in readers):
        others = sorted(photos.glob("file-*.png"))
        for other in others[: max(0, len(others) - 8)]:
            other.unlink()
        (photos / f"file-{report.commits:06}.png").write_bytes(picture(rng))
        if others:
            others[-1].write_bytes(picture(rng))
        gallery.sync(photos)
        report.commits += 1
    for reader in readers:
        out, _ = reader.communicate()
        report.reads += share
        report.errors += json.loads(out) if reader.returncode == 0 else [f"a reader ended: {out}"]
    return report


# ---------------------------------------------------------------- odd files


@dataclass
class OddReport:
    """How the files of a folder were counted."""

    files: int
    added: int
    failed: int
    skipped: int
    problems: list[str]

    def summary(self) -> str:
        """Return the figures in one line."""
        return (
            f"odd files: {self.files} = {self.added} added + {self.failed} failed + "
            f"{self.skipped} skipped; {len(self.problems)} problems"
        )


def write_odd_files(folder: Path) -> None:
    """Write files as people have them: broken, of other formats, with odd names, no files."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    base = Image.open(io.BytesIO(picture(rng, 120))).convert("RGB")
    formats = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM", "TGA")
    for number, name in enumerate(formats):
        kind = Image.open(io.BytesIO(picture(random.Random(number), 120)))
        kind.save(folder / f"kind-{name}.{name.lower().replace('jpeg2000', 'jp2')}", name)
    for mode in ("L", "1", "P", "LA", "RGBA"):
        base.convert(mode).save(folder / f"mode-{mode}.png")
    deep = np.asarray(base.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "mode-I-16.png")
    base.convert("CMYK").save(folder / "mode-CMYK.jpg")
    frames = [Image.open(io.BytesIO(picture(rng, 60))) for _ in range(3)]
    for name in ("anim.gif", "anim.webp", "pages.tif"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    file = io.BytesIO()
    base.save(file, "JPEG")
    jpeg = file.getvalue()
    file = io.BytesIO()
    base.save(file, "PNG")
    png = file.getvalue()
    text = b"c\0\0" + zlib.compress(b"x" * 3_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    for name, data in {
        "no-end.jpg": jpeg[:-2],
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "header.jpg": jpeg[:20],
        "trailing.jpg": jpeg + bytes(5_000),
        "large-text.png": png[:33] + chunk + png[33:],
        "named.png": jpeg,
        "named-upper.JPG": jpeg,
        "zero.jpg": b"",
        "page.jpg": b"<html>404 not found</html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "layers.psd": b"8BPS\0\1" + bytes(500),
        "raw.cr2": b"II*\0\x10\0\0\0CR" + bytes(500),
        "photo.jxl": b"\xff\x0a" + bytes(100),
        "notes.txt": b"not an image",
        "movie.mp4": bytes(100),
        ".hidden.png": png,
        "Thumbs.db": bytes(50),
        "no-suffix": jpeg,
        "a b\n\x1b[31m'\".png": png,
        "zażółć-日本-\N{GRINNING FACE}.png": png,
        "e\N{COMBINING ACUTE ACCENT}.png": png,
        "x" * 200 + ".png": png,
    }.items():
        (folder / name).write_bytes(data)
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))).write_bytes(jpeg)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to("named-upper.JPG")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "sub" / ".git").mkdir(parents=True)
    (folder / "sub" / "deep.png").write_bytes(png)
    (folder / "sub" / ".git" / "in-hidden-folder.png").write_bytes(png)
    Image.new("RGB", (1, 1)).save(folder / "one-pixel.png")
    Image.new("RGB", (1, 3_000)).save(folder / "line.png")


def odd_files(work: Path, corpus: Path | None = None) -> OddReport:
    """Index a folder of odd files twice, and count what became of each of them."""
    work.mkdir(parents=True, exist_ok=True)
    folder = corpus or work / "odd"
    if corpus is None:
        write_odd_files(folder)
    files = sum(len(names) for _, _, names in os.walk(folder))
    launcher = Launcher(work)
    try:
        arguments = ("index", work / "odd.gallery", folder, "--json")
        first = launcher.run(*arguments, "--encoder", "color")
        second = launcher.run(*arguments)
    finally:
        launcher.close()
    problems = [
        f"ended with {ended.code}: {ended.err[-500:]}"
        for ended in (first, second)
        if ended.code not in (0, 1) or "Traceback" in ended.err
    ]
    if problems:
        return OddReport(files, 0, 0, 0, problems)
    report, again = json.loads(first.out), json.loads(second.out)
    skipped = sum(report["skipped"].values())
    failed = len(report["failed"])
    if report["added"] + failed + skipped != files:
        problems.append(f"{files - report['added'] - failed - skipped} files are not accounted for")
    uris = [failure["uri"] for failure in report["failed"]]
    problems += [f"{uri} failed twice" for uri, count in Counter(uris).items() if count > 1]
    if (again["unchanged"], again["added"]) != (report["added"], 0):
        problems.append(f"a second run: {again['unchanged']} unchanged, {again['added']} added")
    if (again["failed"], again["skipped"]) != (report["failed"], report["skipped"]):
        problems.append("a second run fails or skips others")
    return OddReport(files, report["added"], failed, skipped, problems)


# ---------------------------------------------------------------- all


def main() -> None:
    """Run the sections and print their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", help="kill, space, reads, odd; all by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of kill")
    parser.add_argument("--reads", type=int, default=READS, help="of reads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", type=Path, help="another folder for odd")
    parser.add_argument("--work", type=Path, help="a new folder that is kept")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - {"kill", "space", "reads", "odd"}
    if unknown:
        parser.error(f"unknown section {min(unknown)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing stays mounted
    wanted = arguments.sections or ["kill", "space", "reads", "odd"]
    os.environ.update(_ONE_THREAD)
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sections: dict[str, Callable[[Path], Any]] = {
            "kill": lambda folder: kill_rounds(folder, arguments.rounds, arguments.seed),
            "space": lambda folder: full_disk(folder, seed=arguments.seed),
            "reads": lambda folder: reads_during_writes(folder, arguments.reads, arguments.seed),
            "odd": lambda folder: odd_files(folder, arguments.corpus),
        }
        faults: list[str] = []
        for name in wanted:
            started = time.monotonic()
            result = sections[name](work / name)
            print(f"{result.summary()}  ({time.monotonic() - started:.0f} s)", flush=True)
            faults += next(
                getattr(result, kind)
                for kind in ("faults", "errors", "problems")
                if hasattr(result, kind)
            )
    for fault in faults[:50]:
        print(f"  {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
