"""The service under load: throughput, latency, overload, stalled clients, SIGTERM, memory.

    python benchmarks/serve.py WORK [SECTION ...] [--beside FOLDER] [--json FILE] [--markdown]

WORK is the folder of galleries that screens.py creates too: MNIST with HOG (60,000 small grayscale
images) and the photos of a shop with efficientnet-lite0. ``lookalike serve`` runs in its own
process and gets its load over loopback from wrk and hey, which must be installed. Alternatives are
measured in turn, in one run; with ``--beside``, overhead and overload also of the service of
another checkout. Sections: latency, throughput, overhead, overload, stalled, sigterm, reindex,
idle, memory; all by default. ``--markdown`` prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from lookalike.config import settings
from lookalike.encoders.registry import open_encoder
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import decode
from lookalike.sources import open_source
from lookalike.sources.sampling import sample_images
from screens import DIGITS, SHOP, create_gallery

SECONDS, ROUNDS, CLIENTS = 5, 5, 16
IDLE_SECONDS = 100
OWN_WORK = 3.7
"""Core-milliseconds per request that the service may add to decoding, encoding and searching."""

SMALL, LARGE = "digits", "shop"
ROOT = Path(__file__).parents[1]
_POST = """
wrk.method = "POST"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
"""


@dataclass
class Measurement:
    """A measured value, its target, and whether the target is met."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None


@dataclass
class Bench:
    """A folder of galleries, query files, and the measurements so far."""

    work: Path
    bodies: dict[str, Path]
    beside: Path | None = None
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def checkouts(self) -> dict[str, Path]:
        """Return the checkouts whose services are compared, by what is added to names."""
        others = {} if self.beside is None else {f" ({self.beside.name})": self.beside}
        return {"": ROOT, **others}

    def add(
        self, name: str, value: float, unit: str, target: str = "", met: bool | None = None
    ) -> None:
        """Add a measurement and print it."""
        self.measurements.append(Measurement(name, value, unit, target, met))
        verdict = "" if met is None else "  met" if met else "  NOT MET"
        print(f"{name:64} {value:10,.2f} {unit:8} {target}{verdict}", flush=True)


@dataclass
class ServiceProcess:
    """A running service."""

    process: subprocess.Popen[str]
    port: int

    def path(self, gallery: str) -> str:
        """Return the path of searches with an image."""
        return f"/v1/galleries/{gallery}/search/image"

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def memory(self) -> float:
        """Return the resident megabytes of the service and its decoders."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return sum(_resident(pid) for pid in pids) / 1e6

    def cpu_seconds(self) -> float:
        """Return the time that processors worked for the service and its decoders so far."""
        return sum(map(_cpu_seconds, [self.process.pid, *_children(self.process.pid)]))


@contextlib.contextmanager
def serving(*paths: Path, checkout: Path = ROOT) -> Iterator[ServiceProcess]:
    """Run ``lookalike serve`` of a checkout and wait until it is ready."""
    command = [sys.executable, "-m", "lookalike", "serve", *map(str, paths), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "serving at" in line)
        match = re.search(r":(\d+)/", line)
        assert match is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        service = ServiceProcess(process, int(match[1]))
        _get(service, "/readyz")
        try:
            yield service
        finally:
            process.terminate()


def wrk(
    service: ServiceProcess, path: str, body: Path | None, clients: int
) -> tuple[float, float, float]:
    """Return requests per second, and p50 and p99 in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_POST if body else "")
        script.flush()
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--latency", "--timeout", "20s"),
                *("-s", script.name, service.url(path)),
            ],
            env={**os.environ, "BODY": str(body)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    assert "Non-2xx" not in done, done
    rate = re.search(r"Requests/sec:\s*([\d.]+)", done)
    assert rate is not None
    p50, p99 = (_milliseconds(done, share) for share in ("50%", "99%"))
    return float(rate[1]), p50, p99


def hey(
    service: ServiceProcess,
    path: str,
    body: Path,
    clients: int,
    seconds: int,
    rate: float | None = None,
) -> list[tuple[float, int]]:
    """Return the duration in seconds and the status of each request.

    With a ``rate`` per second, the workers of one hey send at the same moments; several heys,
    started one after another, spread the requests evenly.
    """
    count = 1 if rate is None else 20
    limit = [] if rate is None else ["-q", f"{rate / clients:.3f}"]
    command = [
        *("hey", "-z", f"{seconds}s", "-c", str(clients // count), *limit, "-m", "POST"),
        *("-o", "csv", "-t", "30", "-T", "application/octet-stream", "-D", str(body)),
    ]
    heys = []
    for _ in range(count):
        heys.append(
            subprocess.Popen([*command, service.url(path)], stdout=subprocess.PIPE, text=True)
        )
        time.sleep(0 if rate is None else clients / rate / count)
    responses: list[tuple[float, int]] = []
    for each in heys:
        output = each.communicate()[0]
        rows = csv.DictReader(io.StringIO(output[output.index("response-time") :]))
        responses += [(float(row["response-time"]), int(row["status-code"])) for row in rows]
    return responses


def latency(bench: Bench) -> None:
    """One client."""
    with serving(*(bench.work / f"{name}.gallery" for name in (SMALL, LARGE))) as service:
        for name, target in ((SMALL, 10), (LARGE, 25)):
            path, body = service.path(name), bench.bodies[name]
            rounds = [wrk(service, path, body, 1) for _ in range(ROUNDS)]
            p50 = statistics.median(each[1] for each in rounds)
            bench.add(f"{name}: p50, one client", p50, "ms", f"< {target}", p50 < target)
            bench.add(f"{name}: p99, one client", statistics.median(x[2] for x in rounds), "ms")
            stages: dict[str, list[float]] = {}
            for _ in range(50):
                for stage, took in _stages(service, path, body.read_bytes()).items():
                    stages.setdefault(stage, []).append(took)
            for stage, took in stages.items():
                bench.add(f"{name}: of which {stage}", statistics.median(took), "ms")


def throughput(bench: Bench) -> None:
    """Throughput of 16 clients, compared with decoding and encoding alone on the same cores."""
    with serving(*(bench.work / f"{name}.gallery" for name in (SMALL, LARGE))) as service:
        for name in (LARGE, SMALL):
            path, body = service.path(name), bench.bodies[name]
            wrk(service, path, body, CLIENTS)
            pairs = []
            for _ in range(ROUNDS):
                allowed = _in_turn(bench.work / f"{name}.gallery", body, search=False).rate
                pairs.append((wrk(service, path, body, CLIENTS)[0], allowed))
            share = statistics.median(one / other for one, other in pairs)
            rate = statistics.median(one for one, _ in pairs)
            bench.add(f"{name}: throughput, {CLIENTS} clients", rate, "/s")
            allowed = statistics.median(other for _, other in pairs)
            bench.add(f"{name}: decoding and encoding alone", allowed, "/s")
            target = {"target": ">= 70", "met": share >= 0.7} if name == LARGE else {}
            bench.add(f"{name}: throughput as a share of that", share * 100, "%", **target)


def overhead(bench: Bench) -> None:
    """Overhead of the service over decoding, encoding and searching, for the small encoder."""
    gallery, body = bench.work / f"{SMALL}.gallery", bench.bodies[SMALL]
    with contextlib.ExitStack() as stack:
        services = {
            name: stack.enter_context(serving(gallery, checkout=checkout))
            for name, checkout in bench.checkouts.items()
        }
        for each in services.values():
            wrk(each, each.path(SMALL), body, CLIENTS)
        inside, rates, work = [], {name: [] for name in services}, {name: [] for name in services}
        for number in range(ROUNDS):
            inside.append(_in_turn(gallery, body, search=True))
            for name in list(services)[:: 1 if number % 2 else -1]:
                each = services[name]
                before = each.cpu_seconds()
                rates[name].append(wrk(each, each.path(SMALL), body, CLIENTS)[0])
                work[name].append((each.cpu_seconds() - before) / (rates[name][-1] * SECONDS))
        alone = statistics.median(each.cpu_seconds for each in inside) * 1000
        bench.add(f"{SMALL}: decode, encode and search in Python", alone, "core-ms")
        for name in services:
            whole = statistics.median(work[name]) * 1000
            least = (min(work[name]) - min(each.cpu_seconds for each in inside)) * 1000
            met = whole - alone < OWN_WORK
            bench.add(f"{SMALL}: work per request{name}", whole, "core-ms")
            bench.add(
                f"{SMALL}: own work per request{name}",
                whole - alone,
                "core-ms",
                f"< {OWN_WORK}",
                met,
            )
            bench.add(f"{SMALL}: the same of the fastest rounds{name}", least, "core-ms")
            bench.add(f"{SMALL}: throughput{name}", statistics.median(rates[name]), "/s")
        service = services[""]
        bench.add("a response without work (/healthz)", wrk(service, "/healthz", None, 16)[0], "/s")
    with _bare() as empty:
        rate = wrk(empty, "/", body, CLIENTS)[0]
        bench.add("the same upload to an empty FastAPI endpoint", rate, "/s")


def overload(bench: Bench) -> None:
    """Three times as many requests as the capacity, and the recovery."""
    with contextlib.ExitStack() as stack:
        services = {
            name: stack.enter_context(serving(bench.work / f"{LARGE}.gallery", checkout=checkout))
            for name, checkout in bench.checkouts.items()
        }
        bursts: dict[str, list[Burst]] = {name: [] for name in services}
        for service in services.values():
            wrk(service, service.path(LARGE), bench.bodies[LARGE], CLIENTS)
        for number in range(ROUNDS):
            for name in list(services)[:: 1 if number % 2 else -1]:
                bursts[name].append(_burst(services[name], bench.bodies[LARGE]))
    for name, rounds in bursts.items():
        _add_bursts(bench, name, rounds)


@dataclass(frozen=True)
class Burst:
    """Some seconds of three times as many requests as the capacity just before.

    Args:
        capacity: requests per second of 16 clients.
        p99: their latency in milliseconds.
        accepted: latency of those answered with 200, in milliseconds.
        refused: of those answered with 429.
        other: number of the others.
        share: of the processor time that goes into answers, in percent: that of so many at capacity
            of all in the burst. Whatever else is at work on the machine takes nothing of it.
        recovery: seconds until a single client has 1.5 times the p50 of before.
    """

    capacity: float
    p99: float
    accepted: list[float]
    refused: list[float]
    other: int
    share: float
    recovery: float

    @property
    def goodput(self) -> float:
        """Return requests that were answered, in percent of the capacity."""
        return len(self.accepted) / SECONDS / self.capacity * 100


def _burst(service: ServiceProcess, body: Path) -> Burst:
    path, image = service.path(LARGE), body.read_bytes()
    before = statistics.median(_timed(service, path, image) for _ in range(20))
    times = [service.cpu_seconds()]
    capacity, _, p99 = wrk(service, path, body, CLIENTS)
    times.append(service.cpu_seconds())
    sent = hey(service, path, body, 200, SECONDS, 3 * capacity)
    times.append(service.cpu_seconds())
    accepted = [took * 1000 for took, status in sent if status == 200]
    alone, loaded = np.diff(times) / (capacity * SECONDS, len(accepted))
    refused = [took * 1000 for took, status in sent if status == 429]
    start, recent = time.perf_counter(), []
    while time.perf_counter() - start < 60:
        recent = [*recent[-8:], _timed(service, path, image)]
        if len(recent) == 9 and statistics.median(recent) < 1.5 * before:
            break
    other = len(sent) - len(accepted) - len(refused)
    share, took = alone / loaded * 100, time.perf_counter() - start
    return Burst(capacity, p99, accepted, refused, other, share, took)


def _add_bursts(bench: Bench, name: str, bursts: Sequence[Burst]) -> None:
    def median(value: Callable[[Burst], float]) -> float:
        return statistics.median(map(value, bursts))

    load = median(lambda b: (len(b.accepted) + len(b.refused)) / SECONDS / b.capacity)
    slower = median(lambda b: float(np.percentile(b.accepted, 99)) / b.p99)
    goodput, recovery = median(lambda b: b.goodput), median(lambda b: b.recovery)
    refused = [took for burst in bursts for took in burst.refused] or [0.0]
    fast, other = float(np.percentile(refused, 99)), sum(burst.other for burst in bursts)
    bench.add(f"throughput at capacity{name}", median(lambda b: b.capacity), "/s")
    bench.add(f"p99 at capacity{name}", median(lambda b: b.p99), "ms")
    bench.add(f"requests sent, relative to capacity{name}", load, "times")
    bench.add(f"p99 of accepted requests, relative{name}", slower, "times", "<= 3", slower <= 3)
    bench.add(f"goodput, relative to capacity{name}", goodput, "%", ">= 90", goodput >= 90)
    bench.add(f"goodput of the worst round{name}", min(b.goodput for b in bursts), "%")
    bench.add(f"share of processor time for answers{name}", median(lambda b: b.share), "%")
    bench.add(f"p99 of refused requests (429){name}", fast, "ms", "<= 100", fast <= 100)
    bench.add(f"p50 of refused requests (429){name}", statistics.median(refused), "ms")
    bench.add(f"neither accepted nor refused{name}", other, "", "0", other == 0)
    bench.add(f"recovery to 1.5 times the p50{name}", recovery, "s", "<= 10", recovery <= 10)


def stalled(bench: Bench) -> None:
    """200 connections that stall in the middle of their headers or bodies."""
    with serving(bench.work / f"{LARGE}.gallery") as service:
        path, body = service.path(LARGE), bench.bodies[LARGE]
        wrk(service, path, body, 8)
        ratios = []
        for _ in range(ROUNDS):
            alone = wrk(service, path, body, 8)[2]
            held = [_stall(service, path, whole_head=number % 2 == 0) for number in range(200)]
            among = wrk(service, path, body, 8)[2]
            for connection in held:
                connection.close()
            ratios.append(among / alone)
        ratio = statistics.median(ratios)
        bench.add("p99 with 200 stalled connections", ratio, "times", "<= 2", ratio <= 2)


def sigterm(bench: Bench) -> None:
    """SIGTERM under load."""
    with serving(bench.work / f"{LARGE}.gallery") as service:
        ends = threading.Event()
        body = bench.bodies[LARGE].read_bytes()
        with ThreadPoolExecutor(CLIENTS) as pool:
            results = [
                pool.submit(_until_closed, service, service.path(LARGE), body, ends)
                for _ in range(CLIENTS)
            ]
            time.sleep(3)
            start = time.perf_counter()
            service.process.send_signal(signal.SIGTERM)
            ends.set()
            status = service.process.wait(60)
            took = time.perf_counter() - start
            answered, failed = (
                sum(part) for part in zip(*(each.result() for each in results), strict=True)
            )
        bench.add("SIGTERM: requests answered", answered, "")
        bench.add("SIGTERM: accepted requests that failed", failed, "", "0", failed == 0)
        bench.add("SIGTERM: time to exit", took, "s", "<= 20", took <= 20)
        bench.add("SIGTERM: exit status", status, "", "0", status == 0)


def reindex(bench: Bench) -> None:
    """Another process adds images to the gallery under load."""
    with tempfile.TemporaryDirectory() as name:
        path, new = Path(name, "shop.gallery"), Path(name, "new")
        shutil.copytree(bench.work / f"{LARGE}.gallery", path)
        new.mkdir()
        rng = np.random.default_rng(0)
        for number in range(200):
            pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(new / f"{number}.png")
        with serving(path) as service:
            before = json.loads(_get(service, f"/v1/galleries/{LARGE}"))["rows"]
            indexing = subprocess.Popen(
                [sys.executable, "-m", "lookalike", "index", str(path), str(new)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            failed = 0
            while indexing.poll() is None:
                sent = hey(service, service.path(LARGE), bench.bodies[LARGE], 4, 2)
                failed += sum(status != 200 for *_, status in sent)
            rows = json.loads(_get(service, f"/v1/galleries/{LARGE}"))["rows"]
            one = (new / "7.png").read_bytes()
            first = json.loads(_post(service, service.path(LARGE), one)[1])["hits"][0]["id"]
        bench.add("re-index under load: failed requests", failed, "", "0", failed == 0)
        seen = rows - before == 200 and first == "new:7.png"
        bench.add("re-index under load: new rows service", rows - before, "", "200", seen)


def idle(bench: Bench) -> None:
    """Memory of a service of a folder of few images that had no requests for a while."""
    path, folder = bench.work / "photos.gallery", bench.work / "photos"  # a data set is in memory
    if not path.exists():
        folder.mkdir(exist_ok=True)
        for number, item in enumerate(open_source(SHOP)):
            Image.fromarray(item.image()).save(folder / f"{number}.png")
        create_gallery(path, str(folder), open_encoder("efficientnet-lite0", []))
    with serving(path) as service:
        time.sleep(IDLE_SECONDS)
        megabytes = service.memory()
        bench.add("memory when idle, with few images", megabytes, "MB", "< 250", megabytes < 250)


def memory(bench: Bench) -> None:
    """Memory growth per 10,000 requests, after as many to warm up."""
    with serving(bench.work / f"{SMALL}.gallery") as service:
        path, body = service.path(SMALL), bench.bodies[SMALL]
        points: list[tuple[float, float]] = []
        count = 0
        while count < 40_000:
            count += len(hey(service, path, body, 8, 20))
            if count >= 10_000:
                points.append((count, service.memory()))
        requests, megabytes = np.array(points).T
        slope = float(np.polyfit(requests / 10_000, megabytes, 1)[0])
        bench.add("memory of the service and its decoders", megabytes[-1], "MB")
        bench.add(
            f"growth over {count - 10_000:,} requests, per 10,000", slope, "MB", "< 1", slope < 1
        )


# ---- helpers -------------------------------------------------------------------------------------


class Pace(NamedTuple):
    """How fast images were decoded and encoded: per second, and processor time of each."""

    rate: float
    cpu_seconds: float


def _in_turn(gallery: Path, body: Path, *, search: bool) -> Pace:
    """Decode and encode images in batches of 8 by one thread per core.

    This runs in its own process, as the service does.
    """
    command = [sys.executable, __file__, "--inside", str(gallery), str(body), str(int(search))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Pace(*map(float, done.stdout.split()))


def _inside(path: Path, body: Path, search: bool) -> Pace:
    gallery, data, count = Gallery.open(path), body.read_bytes(), settings().threads

    def work(_: int) -> int:
        rows = gallery.encoder.encode([decode(data, name="x") for _ in range(8)])
        for row in rows if search else ():
            gallery.store.search(row[None], 7, gallery.metric)
        return len(rows)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(2 * count)))
        start, before = time.perf_counter(), time.process_time()
        done = 0
        while time.perf_counter() - start < SECONDS:
            done += sum(pool.map(work, range(4 * count)))
        seconds = time.perf_counter() - start
        return Pace(done / seconds, (time.process_time() - before) / done)


@contextlib.contextmanager
def _bare() -> Iterator[ServiceProcess]:
    """Serve uploads with the framework alone, without any work."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, __file__, "--empty", str(port)]
    with subprocess.Popen(command, text=True) as process:
        service = ServiceProcess(process, port)
        try:
            while process.poll() is None:
                with contextlib.suppress(ConnectionRefusedError):
                    _get(service, "/openapi.json")
                    break
                time.sleep(0.1)
            yield service
        finally:
            process.terminate()


def _serve_empty(port: int) -> None:
    app = FastAPI()

    @app.post("/")
    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    uvicorn.run(app, port=port, http="httptools", access_log=False, log_level="warning")


def _until_closed(
    service: ServiceProcess, path: str, body: bytes, ends: threading.Event
) -> tuple[int, int]:
    """Search over one connection until the service closes it; return successes and failures.

    A connection that is closed before any byte of a response, after the signal to stop, was idle
    for the service: it had not read the request (RFC 9112, section 9.3.1).
    """
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    answered = 0
    while True:
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
        except OSError:
            return answered, int(not ends.is_set())
        try:
            json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException):
            return answered, 1
        if answer.status != 200:
            return answered, 1
        answered += 1


def _stall(service: ServiceProcess, path: str, *, whole_head: bool) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode()
    connection.sendall(head + b"abc" if whole_head else head[:40])
    return connection


def _post(
    service: ServiceProcess, path: str, body: bytes
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer, answer.read()


def _get(service: ServiceProcess, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


def _timed(service: ServiceProcess, path: str, body: bytes) -> float:
    start = time.perf_counter()
    _post(service, path, body)
    return (time.perf_counter() - start) * 1000


def _stages(service: ServiceProcess, path: str, body: bytes) -> dict[str, float]:
    header = _post(service, path, body)[0].headers["server-timing"]
    return {name: float(took) for name, took in re.findall(r"(\w+);dur=([\d.]+)", header)}


def _milliseconds(text: str, share: str) -> float:
    match = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", text)
    assert match is not None
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _create_galleries(work: Path) -> None:
    """Create the galleries that do not exist."""
    for name, source, encoder in ((SMALL, DIGITS, "hog"), (LARGE, SHOP, "efficientnet-lite0")):
        path = work / f"{name}.gallery"
        if not path.exists():
            create_gallery(path, source, open_encoder(encoder, sample_images(open_source(source))))


def _bodies(folder: Path) -> dict[str, Path]:
    """Write the queries: a digit as a PNG, and a JPEG of 320 x 320."""
    digit = Image.fromarray(open_source("dataset:mnist/test")[3].image())
    digit.save(folder / "digit.png")
    photo = Image.fromarray(open_source("dataset:stamps/shop")[116].image())
    photo.resize((320, 320)).save(folder / "photo.jpg", quality=88)
    return {SMALL: folder / "digit.png", LARGE: folder / "photo.jpg"}


SECTIONS: dict[str, Callable[[Bench], None]] = {
    each.__name__: each
    for each in (latency, throughput, overhead, overload, stalled, sigterm, reindex, idle, memory)
}


def _markdown(measurements: Sequence[Measurement]) -> str:
    lines = ["| | measured | target | |", "|---|--:|--:|---|"]
    for each in measurements:
        verdict = {None: "", True: "met", False: "not met"}[each.met]
        value = f"{each.value:,.2f} {each.unit}".strip()
        lines.append(f"| {each.name} | {value} | {each.target} | {verdict} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Run the sections, print the measurements, and save them as JSON if requested."""
    names = list(arguments)
    out = Path(names.pop(names.index("--json") + 1)) if "--json" in names else None
    beside = Path(names.pop(names.index("--beside") + 1)) if "--beside" in names else None
    flags = ("--json", "--beside", "--markdown")
    work, *chosen = [name for name in names if name not in flags]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        sys.exit(f"{unknown[0]}: unknown section; available: {', '.join(SECTIONS)}")
    for tool in ("wrk", "hey"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed; run: apt-get install wrk hey")
    _create_galleries(Path(work))
    busy, cores = os.getloadavg()[0], settings().threads
    print(f"{cores} cores; {busy:.1f} busy with other work in the last minute")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(work), _bodies(Path(folder)), beside)
        for name in chosen or SECTIONS:
            print(f"-- {name}: {SECTIONS[name].__doc__}")
            SECTIONS[name](bench)
    if "--markdown" in names:
        print(_markdown(bench.measurements))
    if out is not None:
        document: list[Any] = [vars(each) for each in bench.measurements]
        out.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(*_inside(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "1"))
    elif sys.argv[1:2] == ["--empty"]:
        _serve_empty(int(sys.argv[2]))
    else:
        main(sys.argv[1:])
