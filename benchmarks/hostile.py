"""A service and its parsers among strangers. Prints what they withstand.

    python benchmarks/hostile.py [soak] [mutations] [kills] [--minutes N] [--clients N]
                                 [--addresses N] [--mutations N] [--rounds N] [--seed N]
                                 [--work FOLDER]

All sections run unless some are named; the exit code is 1 if a target was missed.

soak       64 clients attack ``lookalike serve --write`` over loopback for half an hour: readers
           that do not read, hang-ups, stalled requests, hostile filters, batches that cost much,
           re-rankings of huge images, nonsense, writes. Another address searches with an image
           four times a second, whether or not the last answer has come. Then SIGTERM, while the
           attack goes on.
mutations  A million mutated inputs for every parser of strangers' bytes, in one process. Each must
           be taken or refused with an error of lookalike, within its time.
kills      A thousand times ``lookalike serve --write`` is killed (SIGKILL) while four clients
           write. What was acknowledged must be there afterwards: row, metadata and file.

The attackers run at a low priority, since they are other machines in real life.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.faults import Launcher, kill_during_writes, picture
from tests.fuzz.engine import Outcome
from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS

import lookalike as la
from lookalike.errors import LookalikeError
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import content_hash

MINUTES, CLIENTS, ADDRESSES = 30.0, 64, 1
MUTATIONS = 1_000_000
ROUNDS = 1_000
MAX_P99, MAX_MEMORY, MAX_STOP = 1.0, 1.5e9, 15.0
_EVERY = 0.25
"""Seconds between two searches of the client that means well."""
_PATIENCE = 60.0
_PHOTOS, _LARGE, _HUGE = 300, 4, 12


# ---------------------------------------------------------------- the gallery


def write_images(folder: Path, seed: int = 0) -> None:
    """Write photos with captions, images of many bytes, and images of many pixels."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    words = ("a", "small", "green", "tree", "beside", "an", "old", "wooden", "house", "lake")
    lines = ["path,year,caption\n"]
    for number in range(_PHOTOS):
        name = f"{number:05}.png"
        (folder / name).write_bytes(picture(rng, 128))
        lines.append(f"{name},{2000 + number % 25},{' '.join(rng.choices(words, k=14))}\n")
    (folder / "metadata.csv").write_text("".join(lines))
    noise = np.random.default_rng(seed)
    for number in range(_LARGE):
        pixels = noise.integers(0, 256, (2_200, 2_600, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"large-{number}.png", compress_level=1)
    for number in range(_HUGE):
        pixels = noise.integers(0, 256, (40, 40, 3), np.uint8)
        huge = Image.fromarray(pixels).resize((7_000, 7_000), Image.Resampling.NEAREST)
        huge.save(folder / f"huge-{number}.png")


def make_gallery(work: Path, seed: int = 0) -> Path:
    """Make the gallery that is attacked."""
    work.mkdir(parents=True, exist_ok=True)
    write_images(work / "photos", seed)
    launcher = Launcher(work)
    try:
        for command in (
            ("index", "g.gallery", "photos", "--encoder", "color"),
            ("label", "suggest", "g.gallery", "-k", "20", "--save"),
            ("explore", "map", "g.gallery"),
        ):
            ended = launcher.run(*command)
            if ended.code:
                raise RuntimeError(f"{' '.join(command)}: {ended.err}")
    finally:
        launcher.close()
    return work / "g.gallery"


# ---------------------------------------------------------------- attacks

_G = "/v1/galleries/g"


class Attacker:
    """One hostile client; each attack is one connection, and returns what became of it."""

    def __init__(self, port: int, address: str, seed: int, bomb: bytes) -> None:
        self._port = port
        self._address = address
        self._rng = random.Random(seed)
        self._bomb = base64.b64encode(bomb).decode()

    def run(self, stop: threading.Event) -> Counter[str]:
        """Attack until ``stop``; return how often each attack ended in which way."""
        outcomes: Counter[str] = Counter()
        attacks = [
            *(self.slow_reader, self.stalled_headers, self.stalled_body, self.hang_up),
            *(self.hostile_filter, self.cross_site, self.costly_batch, self.wide_batch),
            *(self.rerankings, self.keywords, self.coverage, self.reads, self.writes),
            *(self.address, self.nonsense, self.normal),
        ]
        while not stop.is_set():
            attack = self._rng.choice(attacks)
            try:
                outcome = attack(stop)
            except TimeoutError:
                outcome = "no answer"
            except ConnectionRefusedError:
                stop.wait(0.1)  # the service has ended
                continue
            except OSError as error:
                outcome = type(error).__name__
            outcomes[f"{attack.__name__} {outcome}"] += 1
        return outcomes

    # -- connections

    @contextlib.contextmanager
    def _connect(self, *, window: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as connection:
            if window is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            connection.settimeout(_PATIENCE)
            connection.bind((self._address, 0))
            connection.connect(("127.0.0.1", self._port))
            yield connection

    def _request(self, method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        kind = "" if not body or "Content-Type" in more else "Content-Type: application/json\r\n"
        return f"{head}{kind}{more}\r\n".encode() + body

    def _ask(self, method: str, path: str, body: Any = b"", more: str = "") -> str:
        """Send a request, read the answer to its end, and return the status."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self._connect() as connection:
            connection.sendall(self._request(method, path, data, "Connection: close\r\n" + more))
            first = b""
            while chunk := connection.recv(1 << 16):
                first = first or chunk
        return first[9:12].decode("latin-1") or "closed"

    def _drip(self, connection: socket.socket, stop: threading.Event, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not stop.wait(1):
            connection.sendall(b"x")

    def _id(self, kind: str = "") -> str:
        if kind:
            count = {"large": _LARGE, "huge": _HUGE}[kind]
            return f"photos:{kind}-{self._rng.randrange(count)}.png"
        return f"photos:{self._rng.randrange(_PHOTOS):05}.png"

    # -- the attacks

    def slow_reader(self, stop: threading.Event) -> str:
        """Ask for a large image, and read a byte a second."""
        with self._connect(window=4_096) as connection:
            path = f"{_G}/item/image?id={quote(self._id('large'))}"
            connection.sendall(self._request("GET", path))
            end = time.monotonic() + self._rng.uniform(5, 40)
            while time.monotonic() < end and not stop.wait(1):
                if not connection.recv(1):
                    return "closed"
        return "left"

    def stalled_headers(self, stop: threading.Event) -> str:
        """Send headers that never end."""
        with self._connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
            self._drip(connection, stop, self._rng.uniform(1, 20))
        return "left"

    def stalled_body(self, stop: threading.Event) -> str:
        """Promise a body, and send a byte a second."""
        with self._connect() as connection:
            request = self._request("POST", f"{_G}/search/image", b"")
            connection.sendall(request.replace(b"Content-Length: 0", b"Content-Length: 9000000"))
            self._drip(connection, stop, self._rng.uniform(1, 20))
        return "left"

    def hang_up(self, stop: threading.Event) -> str:
        """Ask for costly work, and leave."""
        rerank = self._rng.choice(("geometric", "dba+k-reciprocal+diffusion+geometric", "dba"))
        body = {"id": self._id("huge"), "k": 1000, "rerank": rerank, "multi_crop": True}
        with self._connect() as connection:
            data = json.dumps(body).encode()
            connection.sendall(self._request("POST", f"{_G}/search", data))
            stop.wait(self._rng.choice((0, 0.05, 0.5)))
        return "left"

    def hostile_filter(self, _: threading.Event) -> str:
        """Search with a filter that is costly to evaluate or to read."""
        count = self._rng.randint(2, 40)
        deep: Any = {"year": 2001}
        for _level in range(self._rng.choice((10, 60, 900))):
            deep = {"not": deep}
        where = self._rng.choice(
            (
                f"caption like '{'%_' * count}#'",
                f"caption like '{'%a' * count}#'",
                " or ".join(["caption like '%_%_%e%_%#'"] * count),
                "(" * count * 20 + "year = 1" + ")" * count * 20,
                {"or": [{"year": number} for number in range(50_000)]},
                {"year": {"in": list(range(200_000))}},
                {f"column{number}": number for number in range(20_000)},
                deep,
            )
        )
        return self._ask("POST", f"{_G}/search", {"id": self._id(), "where": where})

    def cross_site(self, _: threading.Event) -> str:
        """Search by a GET, as an image on a page of another site would."""
        where = quote("caption like '%_%_%_%_%_%_%_%_#'")
        path = f"/g/g?id={quote(self._id())}&where={where}"
        site = "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\n"
        return self._ask("GET", path, more=f"{site}Sec-Fetch-Mode: no-cors\r\n")

    def costly_batch(self, stop: threading.Event) -> str:
        """Search with many small files of many pixels."""
        body = {"queries": [{"image": self._bomb}] * 64, "multi_crop": True}
        if self._rng.random() < 0.5:
            return self._ask("POST", f"{_G}/search/batch", body)
        with self._connect() as connection:
            data = json.dumps(body).encode()
            connection.sendall(self._request("POST", f"{_G}/search/batch", data))
            stop.wait(0.1)
        return "left"

    def wide_batch(self, _: threading.Event) -> str:
        """Ask for many hits of many queries."""
        k = self._rng.choice((100, 150, 1000))
        body = {"queries": [{"id": self._id()} for _ in range(64)], "k": k}
        return self._ask("POST", f"{_G}/search/batch", body)

    def rerankings(self, _: threading.Event) -> str:
        """Search with re-rankings of huge images, once or many times."""
        rerank = "+".join(["geometric"] * self._rng.choice((1, 1, 24)))
        body = {"id": self._id("huge"), "k": 20, "rerank": rerank, "foreground": True}
        return self._ask("POST", f"{_G}/search", body)

    def keywords(self, _: threading.Event) -> str:
        """Search for many words."""
        words = " ".join(self._rng.choices(("tree", "house", "x" * 90, "%", "lake"), k=300))
        return self._ask("POST", f"{_G}/search", {"keywords": words[:2_000], "k": 1000})

    def coverage(self, _: threading.Event) -> str:
        """Ask for the coverage of many labels."""
        names = [f"label {number}" for number in range(self._rng.choice((20, 900, 3_000)))]
        rows = self._rng.choice((20, _PHOTOS, 10 * _PHOTOS))  # the last is more than there are
        labels = {f"photos:{row:05}.png": self._rng.sample(names, 20) for row in range(rows)}
        body = {"labels": labels}
        return self._ask("POST", f"{_G}/labeling/coverage", body)

    def reads(self, _: threading.Event) -> str:
        """Read whatever there is to read."""
        kind = self._rng.choice(("", "large", "huge"))
        path = self._rng.choice(
            (
                "/",
                "/g/g",
                "/metrics",
                _G,
                f"{_G}/sample?count=1000&seed={self._rng.randrange(1 << 30)}",
                f"{_G}/map",
                f"{_G}/evaluation/report",
                f"{_G}/item/thumbnail?size=1024&id={quote(self._id(kind))}",
                f"{_G}/item/neighbors?k=1000&id={quote(self._id())}",
                f"/g/g?id={quote(self._id())}",
            )
        )
        return self._ask("GET", path)

    def writes(self, _: threading.Event) -> str:
        """Add, change and remove items, also with metadata that nobody can store."""
        path = f"{_G}/item?id={self._rng.randrange(50)}"
        deep = "[" * self._rng.choice((5, 300, 50_000))
        number = "9" * self._rng.choice((10, 4_300, 20_000))
        value = self._rng.choice((f'"{"v" * 50}"', deep + "1" + "]" * len(deep), number, "NaN"))
        match self._rng.randrange(4):
            case 0:
                return self._ask("DELETE", path.replace("id=", "id=api%3A"))
            case 1:
                body = f'{{"metadata": {{"a": {value}}}}}'.encode()
                return self._ask("PATCH", path.replace("id=", "id=api%3A"), body)
            case _:
                kind = "Content-Type: image/png\r\n"
                return self._ask("PUT", path, picture(self._rng, 64), kind)

    def address(self, _: threading.Event) -> str:
        """Let the service fetch something of its own machine."""
        url = self._rng.choice(
            (f"http://127.0.0.1:{self._port}/healthz", "http://[::1]/", "http://169.254.169.254/")
        )
        return self._ask("POST", f"{_G}/search", {"url": url})

    def nonsense(self, _: threading.Event) -> str:
        """Send random bytes, or a request with random parts."""
        with self._connect() as connection:
            connection.settimeout(20)
            data = self._rng.randbytes(self._rng.randint(1, 3_000))
            if self._rng.random() < 0.5:
                data = self._request("POST", f"{_G}/search/image", data)
            connection.sendall(data)
            with contextlib.suppress(TimeoutError):
                return connection.recv(1 << 12)[9:12].decode("latin-1") or "closed"
        return "left"

    def normal(self, _: threading.Event) -> str:
        """Search as one should."""
        kind = "Content-Type: image/png\r\n"
        return self._ask("POST", f"{_G}/search/image", picture(self._rng, 64), kind)


def attack(port: int, clients: int, addresses: int, seed: int) -> None:
    """Say that it begins, attack a service until stdin is closed, print the outcomes as JSON."""
    os.nice(10)
    file = io.BytesIO()
    Image.new("RGB", (7_000, 7_000)).save(file, "WEBP", lossless=True)
    stop = threading.Event()
    with ThreadPoolExecutor(clients) as pool:
        running = [
            pool.submit(
                Attacker(
                    port, f"127.0.0.{2 + n % addresses}", seed * 1_000 + n, file.getvalue()
                ).run,
                stop,
            )
            for n in range(clients)
        ]
        print("attacking", flush=True)
        sys.stdin.read()
        stop.set()
        outcomes = sum((each.result() for each in running), Counter[str]())
    print(json.dumps(outcomes))


# ---------------------------------------------------------------- soak


@dataclass
class SoakReport:
    """What the client that means well saw, and what the service needed."""

    seconds: float
    latencies: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)
    main_memory: list[float] = field(default_factory=list)
    attacks: Counter[str] = field(default_factory=Counter)
    restarted: bool = False
    stop_seconds: float = 0.0
    stop_code: int | None = None

    @property
    def p99(self) -> float:
        """The 99th percentile of all latencies, in seconds."""
        return _percentile([latency for _, latency in self.latencies], 99)

    @property
    def worst_minute(self) -> float:
        """The largest p99 of one minute."""
        minutes = itertools.groupby(self.latencies, lambda pair: int(pair[0] // 60))
        return max(_percentile([latency for _, latency in pairs], 99) for _, pairs in minutes)

    @property
    def problems(self) -> list[str]:
        """The targets that were missed."""
        failed = sum(self.statuses.values()) - self.statuses["200"]
        checks = {
            f"p99 {self.p99:.2f} s, asked {MAX_P99:g}": self.p99 < MAX_P99,
            f"{failed} searches were not answered with 200": failed == 0,
            f"memory {max(self.memory) / 1e9:.2f} GB, asked {MAX_MEMORY / 1e9:g}": max(self.memory)
            < MAX_MEMORY,
            "the service ended": not self.restarted,
            f"SIGTERM took {self.stop_seconds:.1f} s, asked {MAX_STOP:g}": self.stop_seconds
            < MAX_STOP,
            f"SIGTERM: exit code {self.stop_code}": self.stop_code == 0,
        }
        return [text for text, met in checks.items() if not met]

    def summary(self) -> str:
        """Return the figures in a few lines."""
        latencies = [latency for _, latency in self.latencies]
        kinds: dict[str, Counter[str]] = {}
        for name, count in self.attacks.items():
            kind, _, outcome = name.partition(" ")
            kinds.setdefault(kind, Counter())[outcome] += count
        lines = [
            f"soak, {self.seconds / 60:.1f} minutes, {sum(self.attacks.values()):,} attacks",
            f"  {len(latencies):,} searches from another address: p50 "
            f"{statistics.median(latencies) * 1e3:.0f} ms, p99 {self.p99 * 1e3:.0f} ms, p99 of the "
            f"worst minute {self.worst_minute * 1e3:.0f} ms, slowest {max(latencies) * 1e3:.0f} "
            f"ms, answers {dict(self.statuses)}",
            f"  memory of all processes at most {max(self.memory) / 1e6:.0f} MB, of the service "
            f"itself {max(self.main_memory) / 1e6:.0f} MB",
            f"  SIGTERM amid the attack: {self.stop_seconds:.1f} s, exit code {self.stop_code}",
            *(
                f"    {kind}: " + ", ".join(f"{n:,} {what}" for what, n in outcomes.most_common(6))
                for kind, outcomes in sorted(kinds.items())
            ),
        ]
        return "\n".join(lines)


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def soak(
    work: Path,
    *,
    minutes: float = MINUTES,
    clients: int = CLIENTS,
    addresses: int = ADDRESSES,
    seed: int = 0,
) -> SoakReport:
    """Attack a service, and search it from another address meanwhile."""
    gallery = make_gallery(work, seed)
    report = SoakReport(minutes * 60)
    log = (work / "serve.log").open("w")
    command = [sys.executable, "-m", "lookalike", "serve", str(gallery), "--write"]
    options = ("--allow-urls", "--port", "0")
    service = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    hostile: subprocess.Popen[str] | None = None
    try:
        port = _port(service, work / "serve.log")
        _search(port, picture(random.Random(seed), 64))
        hostile = _start_attack(port, clients, addresses, seed)
        _search_regularly(port, service, report, seed)
        report.restarted = service.poll() is not None
        _stop(service, report)
        out, _ = hostile.communicate("", timeout=3 * _PATIENCE)
        report.attacks = Counter(json.loads(out))
    finally:
        for process in (hostile, service):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        log.close()
    return report


def _port(service: subprocess.Popen[Any], log: Path) -> int:
    for _ in range(1_500):
        text = log.read_text()
        if "http://127.0.0.1:" in text and text.endswith("\n"):
            return int(text.split("http://127.0.0.1:")[1].split("/")[0])
        if service.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"serve did not start: {log.read_text()[-500:]}")


def _start_attack(port: int, clients: int, addresses: int, seed: int) -> subprocess.Popen[str]:
    code = f"from benchmarks import hostile; hostile.attack({port}, {clients}, {addresses}, {seed})"
    path = os.pathsep.join((str(Path(__file__).parents[1]), *filter(None, sys.path)))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # it takes seconds to start on a busy machine
    return process


def _search(port: int, data: bytes) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", f"{_G}/search/image", data, {"Content-Type": "image/png"})
        response = connection.getresponse()
        response.read()
        return str(response.status)


def _search_regularly(
    port: int, service: subprocess.Popen[Any], report: SoakReport, seed: int
) -> None:
    """Search at fixed times until the soak is over; a late answer does not delay the next one."""
    rng = random.Random(seed + 1)
    started = time.monotonic()

    def search(due: float, data: bytes) -> None:
        try:
            status = _search(port, data)
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        report.statuses[status] += 1
        report.latencies.append((due, time.monotonic() - started - due))

    due, next_line = 0.0, 60.0
    with ThreadPoolExecutor(64) as pool:
        while due < report.seconds and service.poll() is None:
            pool.submit(search, due, picture(rng, 64))
            main, total = memory_of(service.pid)
            report.main_memory.append(main)
            report.memory.append(total)
            due += _EVERY
            if due >= next_line:
                _say(report, due)
                next_line += 60
            time.sleep(max(0.0, started + due - time.monotonic()))
    report.latencies.sort()


def _say(report: SoakReport, due: float) -> None:
    recent = [latency for at, latency in report.latencies if at >= due - 60]
    if recent:
        print(
            f"  {due / 60:.0f} min: p50 {statistics.median(recent) * 1e3:.0f} ms, p99 "
            f"{_percentile(recent, 99) * 1e3:.0f} ms, {report.memory[-1] / 1e6:.0f} MB, "
            f"{dict(report.statuses)}",
            flush=True,
        )


def _stop(service: subprocess.Popen[Any], report: SoakReport) -> None:
    started = time.monotonic()
    service.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        report.stop_code = service.wait(2 * _PATIENCE)
    report.stop_seconds = time.monotonic() - started


def memory_of(pid: int) -> tuple[float, float]:
    """Return the bytes in memory of a process, and of it and its children.

    Pages that they share are counted once: the proportional set size.
    """
    children = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += (task / "children").read_text().split()
    main = _proportional(pid)
    return main, main + sum(_proportional(int(child)) for child in children)


def _proportional(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1]) * 1024
    return 0.0


# ---------------------------------------------------------------- mutations


@dataclass
class MutationsReport:
    """What became of the inputs of each target."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """How the targets crashed."""
        return [
            f"{outcome.target}: {crash.reason}"
            for outcome in self.outcomes
            for crash in outcome.crashes
        ]

    def summary(self) -> str:
        """Return the figures: all of them, then one line for each target."""
        inputs, taken, crashed = (
            sum(getattr(each, name) for each in self.outcomes)
            for name in ("inputs", "taken", "crashed")
        )
        lines = [
            f"mutations, {inputs:,} inputs for {len(self.outcomes)} parsers: {taken:,} taken, "
            f"{inputs - taken - crashed:,} refused, {crashed:,} crashes",
            *(f"  {outcome.summary()}" for outcome in self.outcomes),
        ]
        return "\n".join(lines)


def mutations(count: int = MUTATIONS, seed: int = 0) -> MutationsReport:
    """Run every parser on its share of the mutations, each parser in a process of its own."""
    share = -(-count // len(TARGETS))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        run = partial(fuzz, seconds=0, count=share, seed=seed)
        return MutationsReport(list(pool.map(run, TARGETS)))


# ---------------------------------------------------------------- kills


@dataclass
class KillsReport:
    """The result of the rounds; each fault is a line that names round and row."""

    rounds: int = 0
    acknowledged: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the figures in one line."""
        return (
            f"kill -9 of the service, {self.rounds:,} rounds: {self.acknowledged:,} writes "
            f"acknowledged, {len(self.problems)} lost, doubled or broken"
        )


State = tuple[str, int] | None
"""The content hash and the version of an item; None if there is none."""


class ServiceKills:
    """A service killed while clients write, and what must be true afterwards."""

    WRITERS = 4

    def __init__(self, work: Path, seed: int) -> None:
        self.report = KillsReport()
        self.gallery = work / "g.gallery"
        self._rng = random.Random(seed)
        self._version = itertools.count(1)
        self._first = threading.Event()
        self._allowed: dict[str, set[State]] = {}
        photos = work / "photos"
        photos.mkdir(parents=True)
        for number in range(8):
            (photos / f"{number}.png").write_bytes(picture(self._rng))
        self.launcher = Launcher(work)
        ended = self.launcher.run("index", self.gallery, photos, "--encoder", "color")
        if ended.code:
            raise RuntimeError(f"the gallery could not be made: {ended.err}")

    def run(self, rounds: int, say: Callable[[str], None]) -> KillsReport:
        """Run so many rounds, and return the result."""
        started = time.monotonic()
        try:
            for number in range(1, rounds + 1):
                self.report.rounds = number
                self._round()
                self._check()
                if number % 100 == 0:
                    seconds = time.monotonic() - started
                    say(f"{self.report.summary()} ({seconds:.0f} s)")
        finally:
            self.launcher.close()
        return self.report

    def _round(self) -> None:
        seeds = [self._rng.random() for _ in range(self.WRITERS)]
        self._first.clear()
        try:
            kill_during_writes(self.launcher, self.gallery, self._write, seeds, self._pause)
        except TimeoutError as error:
            self._fault(str(error))

    def _pause(self) -> None:
        self._first.wait(_PATIENCE)  # a service that has just started takes its time
        time.sleep(self._rng.uniform(0, 0.5))

    def _write(self, address: str, part: int, seed: float, stop: threading.Event) -> None:
        """Add, replace, change and remove items of one part of the ids."""
        rng = random.Random(seed)
        remote = la.Client(address).gallery("g")
        while not stop.is_set():
            row_id = f"api:{part}-{rng.randrange(10)}"
            allowed = self._allowed.setdefault(row_id, {None})
            known = next(iter(allowed)) if len(allowed) == 1 else None
            action = rng.choice(("put", "put", "change", "remove")) if known else "put"
            data, version = picture(rng), next(self._version)
            if action == "change":
                assert known is not None
                state: State = (known[0], version)
            else:
                state = None if action == "remove" else (content_hash(data), version)
            allowed.add(state)
            try:
                if action == "put":
                    remote.add(data, ids=row_id, metadata={"version": version}, progress=False)
                elif action == "change":
                    remote.update_metadata(row_id, {"version": version})
                else:
                    remote.remove(row_id)
            except (LookalikeError, OSError, ValueError, http.client.HTTPException):
                continue  # not acknowledged: either state is right
            self._allowed[row_id] = {state}
            self.report.acknowledged += 1
            self._first.set()

    def _fault(self, text: str) -> None:
        self.report.problems.append(f"round {self.report.rounds}: {text}")

    def _check(self) -> None:
        """Compare the gallery with what was acknowledged; afterwards every item is known."""
        try:
            gallery = Gallery.open(self.gallery)
            records = [each for each in gallery.store.records() if each.id.startswith("api:")]
            hits = gallery.search(id="photos:0.png", k=3)
        except Exception as error:  # noqa: BLE001 - whatever it is, the gallery is broken
            self._fault(f"{type(error).__name__}: {error}")
            return
        if len(hits) != 3:
            self._fault(f"a search found {len(hits)} of 3 rows")
        present = {each.id: each for each in records}
        if len(present) != len(records):
            self._fault("a row is there twice")
        for row_id in set(present) - set(self._allowed):
            self._fault(f"{row_id} was never written")
        for row_id, allowed in self._allowed.items():
            row = present.get(row_id)
            state = None if row is None else (row.content_hash, int(row.metadata["version"]))
            if state not in allowed:
                self._fault(f"{row_id} is {state}, not one of {allowed}")
            if row is not None and content_hash(Path(row.uri).read_bytes()) != row.content_hash:
                self._fault(f"the file of {row_id}")
            self._allowed[row_id] = {state}


def kills(
    work: Path, rounds: int = ROUNDS, seed: int = 0, say: Callable[[str], None] = print
) -> KillsReport:
    """Run the rounds in a new folder."""
    return ServiceKills(work, seed).run(rounds, say)


# ---------------------------------------------------------------- all


def main() -> None:
    """Run the sections and print their figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", help="soak, mutations, kills; all by default")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of soak")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="that attack")
    parser.add_argument("--addresses", type=int, default=ADDRESSES, help="that they come from")
    parser.add_argument("--mutations", type=int, default=MUTATIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="a new folder that is kept")
    options = parser.parse_args()
    unknown = set(options.sections) - {"soak", "mutations", "kills"}
    if unknown:
        parser.error(f"unknown section {min(unknown)}")
    problems: list[str] = []
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        crowd = {"clients": options.clients, "addresses": options.addresses}
        sections: dict[str, Callable[[], Any]] = {
            "soak": lambda: soak(
                work / "soak", minutes=options.minutes, seed=options.seed, **crowd
            ),
            "mutations": lambda: mutations(options.mutations, options.seed),
            "kills": lambda: kills(work / "kills", options.rounds, options.seed),
        }
        for name in options.sections or sections:
            started = time.monotonic()
            result = sections[name]()
            print(f"{result.summary()}\n  ({time.monotonic() - started:.0f} s)", flush=True)
            problems += result.problems
    for problem in problems[:50]:
        print(f"  NOT MET: {problem}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
