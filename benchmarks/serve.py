"""The service under load: throughput, latency, overload, stalled clients, SIGTERM, memory.

    python benchmarks/serve.py WORK [SECTION ...] [--json FILE] [--markdown]

WORK is the folder of galleries that screens.py makes too: MNIST by HOG (60,000 rows, small and
gray) and a shop's photographs by efficientnet-lite0. The real ``lookalike serve`` runs in a process
of its own and is asked over loopback by wrk and hey, which must be installed. What is compared is
measured in turn, in one run. Sections: latency, throughput, overhead, overload, stalled, sigterm,
reindex, memory; all unless some are named. ``--markdown`` prints the table of docs/benchmarks.md.
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
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from lookalike.config import settings
from lookalike.gallery.gallery import Gallery
from lookalike.images.decode import decode
from lookalike.sources import open_source
from screens import galleries

SECONDS, ROUNDS, CLIENTS = 5, 5, 16
SMALL, LARGE = "digits", "shop"
_POST = """
wrk.method = "POST"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
"""


@dataclass
class Row:
    """A figure, what was asked of it, and whether it is reached."""

    what: str
    found: float
    unit: str
    asked: str = ""
    reached: bool | None = None


@dataclass
class Bench:
    """A folder of galleries, query files, and the figures so far."""

    work: Path
    bodies: dict[str, Path]
    rows: list[Row] = field(default_factory=list)

    def say(
        self, what: str, found: float, unit: str, asked: str = "", reached: bool | None = None
    ) -> None:
        """Keep a figure and print it."""
        self.rows.append(Row(what, found, unit, asked, reached))
        verdict = "" if reached is None else "  reached" if reached else "  NOT REACHED"
        print(f"{what:64} {found:10,.2f} {unit:8} {asked}{verdict}", flush=True)


@dataclass
class GalleryHandle:
    """A running service."""

    process: subprocess.Popen[str]
    port: int

    def path(self, gallery: str) -> str:
        """Return where an image is searched with."""
        return f"/v1/galleries/{gallery}/search/image"

    def url(self, path: str) -> str:
        """Return an address."""
        return f"http://127.0.0.1:{self.port}{path}"

    def memory(self) -> float:
        """Return the resident megabytes of the service and its decoders."""
        pids = [self.process.pid, *_children(self.process.pid)]
        return sum(_resident(pid) for pid in pids) / 1e6


@contextlib.contextmanager
def serving(*paths: Path) -> Iterator[GalleryHandle]:
    """Run ``lookalike serve`` and wait until it is ready."""
    command = [sys.executable, "-m", "lookalike", "serve", *map(str, paths), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "serving at" in line)
        found = re.search(r":(\d+)/", said)
        assert found is not None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        served = GalleryHandle(process, int(found[1]))
        _get(served, "/readyz")
        try:
            yield served
        finally:
            process.terminate()


def wrk(
    served: GalleryHandle, path: str, body: Path | None, clients: int
) -> tuple[float, float, float]:
    """Return requests a second, p50 and p99 in milliseconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_POST if body else "")
        script.flush()
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--latency", "--timeout", "20s"),
                *("-s", script.name, served.url(path)),
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
    served: GalleryHandle,
    path: str,
    body: Path,
    clients: int,
    seconds: int,
    rate: float | None = None,
) -> list[tuple[float, int]]:
    """Return how many seconds each request took, and its status.

    With a ``rate`` a second, hey's workers send at the same moments; so there are several heys,
    one after another, that the requests come evenly.
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
            subprocess.Popen([*command, served.url(path)], stdout=subprocess.PIPE, text=True)
        )
        time.sleep(0 if rate is None else clients / rate / count)
    found: list[tuple[float, int]] = []
    for each in heys:
        said = each.communicate()[0]
        rows = csv.DictReader(io.StringIO(said[said.index("response-time") :]))
        found += [(float(row["response-time"]), int(row["status-code"])) for row in rows]
    return found


def latency(bench: Bench) -> None:
    """One client."""
    with serving(*(bench.work / f"{name}.gallery" for name in (SMALL, LARGE))) as served:
        for name, asked in ((SMALL, 10), (LARGE, 25)):
            path, body = served.path(name), bench.bodies[name]
            found = [wrk(served, path, body, 1) for _ in range(ROUNDS)]
            p50 = statistics.median(each[1] for each in found)
            bench.say(f"{name}: p50, one client", p50, "ms", f"< {asked}", p50 < asked)
            bench.say(f"{name}: p99, one client", statistics.median(x[2] for x in found), "ms")
            stages: dict[str, list[float]] = {}
            for _ in range(50):
                for stage, took in _stages(served, path, body.read_bytes()).items():
                    stages.setdefault(stage, []).append(took)
            for stage, took in stages.items():
                bench.say(f"{name}: of it {stage}", statistics.median(took), "ms")


def throughput(bench: Bench) -> None:
    """Sixteen clients, beside what decoding and encoding allow on the same cores."""
    with serving(*(bench.work / f"{name}.gallery" for name in (SMALL, LARGE))) as served:
        for name in (LARGE, SMALL):
            path, body = served.path(name), bench.bodies[name]
            wrk(served, path, body, CLIENTS)
            pairs = []
            for _ in range(ROUNDS):
                allowed = _in_turn(bench.work / f"{name}.gallery", body, search=False)
                pairs.append((wrk(served, path, body, CLIENTS)[0], allowed))
            share = statistics.median(one / other for one, other in pairs)
            rate = statistics.median(one for one, _ in pairs)
            bench.say(f"{name}: throughput, {CLIENTS} clients", rate, "/s")
            allowed = statistics.median(other for _, other in pairs)
            bench.say(f"{name}: decode and encode allow", allowed, "/s")
            asked = {"asked": ">= 70", "reached": share >= 0.7} if name == LARGE else {}
            bench.say(f"{name}: throughput as a share of that", share * 100, "%", **asked)


def overhead(bench: Bench) -> None:
    """Say what the service adds to decoding, encoding and searching, for the small encoder."""
    with serving(bench.work / f"{SMALL}.gallery") as served:
        path, body = served.path(SMALL), bench.bodies[SMALL]
        wrk(served, path, body, CLIENTS)
        pairs = []
        for _ in range(ROUNDS):
            inside = _in_turn(bench.work / f"{SMALL}.gallery", body, search=True)
            pairs.append((wrk(served, path, body, CLIENTS)[0], inside))
        cores = settings().threads
        added = statistics.median(cores / one - cores / other for one, other in pairs) * 1000
        inside = statistics.median(other for _, other in pairs)
        bench.say(f"{SMALL}: decode, encode and search in Python", inside, "/s")
        bench.say(f"{SMALL}: the service's own work a request", added, "core-ms")
        bench.say("an answer without work (/healthz)", wrk(served, "/healthz", None, 16)[0], "/s")
    with _bare() as empty:
        rate = wrk(empty, "/", body, CLIENTS)[0]
        bench.say("the same upload to an empty FastAPI endpoint", rate, "/s")


def overload(bench: Bench) -> None:
    """Three times as many requests as can be answered, and the recovery from them."""
    with serving(bench.work / f"{LARGE}.gallery") as served:
        path, body = served.path(LARGE), bench.bodies[LARGE]
        wrk(served, path, body, CLIENTS)
        image = body.read_bytes()
        before = statistics.median(_timed(served, path, image) for _ in range(50))
        found = []
        for _ in range(3):
            time.sleep(2)  # what the clients before left behind is worked off
            found.append(wrk(served, path, body, CLIENTS))
        capacity = statistics.median(rate for rate, *_ in found)
        p99 = statistics.median(each[2] for each in found)
        bench.say("at capacity: throughput", capacity, "/s")
        bench.say("at capacity: p99", p99, "ms")
        seconds = 3 * SECONDS
        sent = hey(served, path, body, 200, seconds, 3 * capacity)
        accepted = [took * 1000 for took, status in sent if status == 200]
        turned = [took * 1000 for took, status in sent if status == 429]
        over = float(np.percentile(accepted, 99))
        goodput = len(accepted) / seconds / capacity * 100
        other = len(sent) - len(accepted) - len(turned)
        bench.say("overload: requests sent, of capacity", len(sent) / seconds / capacity, "times")
        bench.say(
            "overload: p99 of accepted by p99 at capacity",
            over / p99,
            "times",
            "<= 3",
            over <= 3 * p99,
        )
        bench.say(
            "overload: goodput by throughput at capacity", goodput, "%", ">= 90", goodput >= 90
        )
        fast = float(np.percentile(turned, 99)) if turned else 0.0
        bench.say("overload: p99 of being told 429", fast, "ms", "<= 100", fast <= 100)
        bench.say("overload: p50 of being told 429", statistics.median(turned or [0]), "ms")
        bench.say("overload: neither accepted nor told 429", other, "", "0", other == 0)
        start, recent = time.perf_counter(), []
        while time.perf_counter() - start < 60:
            recent = [*recent[-8:], _timed(served, path, image)]
            if len(recent) == 9 and statistics.median(recent) < 1.5 * before:
                break
        took = time.perf_counter() - start
        bench.say("recovery to 1.5 times the p50 of before", took, "s", "<= 10", took <= 10)


def stalled(bench: Bench) -> None:
    """Two hundred connections that stop in the middle of their headers or bodies."""
    with serving(bench.work / f"{LARGE}.gallery") as served:
        path, body = served.path(LARGE), bench.bodies[LARGE]
        wrk(served, path, body, 8)
        ratios = []
        for _ in range(ROUNDS):
            alone = wrk(served, path, body, 8)[2]
            held = [_stall(served, path, whole_head=number % 2 == 0) for number in range(200)]
            among = wrk(served, path, body, 8)[2]
            for connection in held:
                connection.close()
            ratios.append(among / alone)
        ratio = statistics.median(ratios)
        bench.say("p99 with 200 stalled connections", ratio, "times", "<= 2", ratio <= 2)


def sigterm(bench: Bench) -> None:
    """End the service in the middle of its work."""
    with serving(bench.work / f"{LARGE}.gallery") as served:
        ends = threading.Event()
        body = bench.bodies[LARGE].read_bytes()
        with ThreadPoolExecutor(CLIENTS) as pool:
            asked = [
                pool.submit(_until_refused, served, served.path(LARGE), body, ends)
                for _ in range(CLIENTS)
            ]
            time.sleep(3)
            start = time.perf_counter()
            served.process.send_signal(signal.SIGTERM)
            ends.set()
            status = served.process.wait(60)
            took = time.perf_counter() - start
            answered, failed = (
                sum(part) for part in zip(*(a.result() for a in asked), strict=True)
            )
        bench.say("SIGTERM: requests answered", answered, "")
        bench.say("SIGTERM: accepted requests that failed", failed, "", "0", failed == 0)
        bench.say("SIGTERM: seconds until it has ended", took, "s", "<= 20", took <= 20)
        bench.say("SIGTERM: exit status", status, "", "0", status == 0)


def reindex(bench: Bench) -> None:
    """Another process adds images to the gallery meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        path, new = Path(name, "shop.gallery"), Path(name, "new")
        shutil.copytree(bench.work / f"{LARGE}.gallery", path)
        new.mkdir()
        rng = np.random.default_rng(0)
        for number in range(200):
            pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(new / f"{number}.png")
        with serving(path) as served:
            before = json.loads(_get(served, f"/v1/galleries/{LARGE}"))["rows"]
            indexing = subprocess.Popen(
                [sys.executable, "-m", "lookalike", "index", str(path), str(new)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            failed = 0
            while indexing.poll() is None:
                sent = hey(served, served.path(LARGE), bench.bodies[LARGE], 4, 2)
                failed += sum(status != 200 for *_, status in sent)
            rows = json.loads(_get(served, f"/v1/galleries/{LARGE}"))["rows"]
            one = (new / "7.png").read_bytes()
            first = json.loads(_ask(served, served.path(LARGE), one)[1])["hits"][0]["id"]
        bench.say("re-index meanwhile: requests that failed", failed, "", "0", failed == 0)
        seen = rows - before == 200 and first == "new:7.png"
        bench.say("re-index meanwhile: new rows seen", rows - before, "", "200", seen)


def memory(bench: Bench) -> None:
    """Find what ten thousand requests leave behind, after as many to warm up."""
    with serving(bench.work / f"{SMALL}.gallery") as served:
        path, body = served.path(SMALL), bench.bodies[SMALL]
        points: list[tuple[float, float]] = []
        count = 0
        while count < 40_000:
            count += len(hey(served, path, body, 8, 20))
            if count >= 10_000:
                points.append((count, served.memory()))
        at, found = np.array(points).T
        slope = float(np.polyfit(at / 10_000, found, 1)[0])
        bench.say("memory of the service and its decoders", found[-1], "MB")
        bench.say(
            f"growth over {count - 10_000:,} requests, a 10,000", slope, "MB", "< 1", slope < 1
        )


# ---- parts ---------------------------------------------------------------------------------------


def _in_turn(gallery: Path, body: Path, *, search: bool) -> float:
    """Return images a second, decoded and encoded in batches of 8 by as many threads as cores.

    It runs in a process of its own, as the service does.
    """
    command = [sys.executable, __file__, "--inside", str(gallery), str(body), str(int(search))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _inside(path: Path, body: Path, search: bool) -> float:
    gallery, data, count = Gallery.open(path), body.read_bytes(), settings().threads

    def work(_: int) -> int:
        rows = gallery.encoder.encode([decode(data, name="x") for _ in range(8)])
        for row in rows if search else ():
            gallery.store.search(row[None], 7, gallery.metric)
        return len(rows)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(2 * count)))
        start = time.perf_counter()
        done = 0
        while time.perf_counter() - start < SECONDS:
            done += sum(pool.map(work, range(4 * count)))
        return done / (time.perf_counter() - start)


@contextlib.contextmanager
def _bare() -> Iterator[GalleryHandle]:
    """Serve uploads that nothing is done with, as the framework alone does it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, __file__, "--empty", str(port)]
    with subprocess.Popen(command, text=True) as process:
        served = GalleryHandle(process, port)
        try:
            while process.poll() is None:
                with contextlib.suppress(ConnectionRefusedError):
                    _get(served, "/openapi.json")
                    break
                time.sleep(0.1)
            yield served
        finally:
            process.terminate()


def _serve_empty(port: int) -> None:
    app = FastAPI()

    @app.post("/")
    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    uvicorn.run(app, port=port, http="httptools", access_log=False, log_level="warning")


def _until_refused(
    served: GalleryHandle, path: str, body: bytes, ends: threading.Event
) -> tuple[int, int]:
    """Ask over one connection until the service is gone; return answers and failures.

    A connection that is closed before anything of an answer came, after the service was told to
    end, was idle to it: it had not read the request (RFC 9112, section 9.3.1).
    """
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
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


def _stall(served: GalleryHandle, path: str, *, whole_head: bool) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode()
    connection.sendall(head + b"abc" if whole_head else head[:40])
    return connection


def _ask(served: GalleryHandle, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer, answer.read()


def _get(served: GalleryHandle, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


def _timed(served: GalleryHandle, path: str, body: bytes) -> float:
    start = time.perf_counter()
    _ask(served, path, body)
    return (time.perf_counter() - start) * 1000


def _stages(served: GalleryHandle, path: str, body: bytes) -> dict[str, float]:
    said = _ask(served, path, body)[0].headers["server-timing"]
    return {name: float(took) for name, took in re.findall(r"(\w+);dur=([\d.]+)", said)}


def _milliseconds(text: str, share: str) -> float:
    found = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", text)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _bodies(folder: Path) -> dict[str, Path]:
    """Write the queries: a digit as a PNG, and a JPEG of 320 x 320."""
    digit = Image.fromarray(open_source("dataset:mnist/test")[3].image())
    digit.save(folder / "digit.png")
    photo = Image.fromarray(open_source("dataset:stamps/shop")[116].image())
    photo.resize((320, 320)).save(folder / "photo.jpg", quality=88)
    return {SMALL: folder / "digit.png", LARGE: folder / "photo.jpg"}


SECTIONS: dict[str, Callable[[Bench], None]] = {
    each.__name__: each
    for each in (latency, throughput, overhead, overload, stalled, sigterm, reindex, memory)
}


def _markdown(rows: Sequence[Row]) -> str:
    lines = ["| | found | asked | |", "|---|--:|--:|---|"]
    for row in rows:
        verdict = {None: "", True: "reached", False: "not reached"}[row.reached]
        found = f"{row.found:,.2f} {row.unit}".strip()
        lines.append(f"| {row.what} | {found} | {row.asked} | {verdict} |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Measure, print, and write JSON if asked."""
    names = list(arguments)
    out = Path(names.pop(names.index("--json") + 1)) if "--json" in names else None
    work, *chosen = [name for name in names if name not in ("--json", "--markdown")]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        sys.exit(f"{unknown[0]}: no such section; there are {', '.join(SECTIONS)}")
    for tool in ("wrk", "hey"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed: apt-get install wrk hey")
    galleries(Path(work))
    busy, cores = os.getloadavg()[0], settings().threads
    print(f"{cores} cores; others kept {busy:.1f} of them busy in the minute before")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(work), _bodies(Path(folder)))
        for name in chosen or SECTIONS:
            print(f"-- {name}: {SECTIONS[name].__doc__}")
            SECTIONS[name](bench)
    if "--markdown" in names:
        print(_markdown(bench.rows))
    if out is not None:
        figures: list[Any] = [vars(row) for row in bench.rows]
        out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        print(_inside(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "1"))
    elif sys.argv[1:2] == ["--empty"]:
        _serve_empty(int(sys.argv[2]))
    else:
        main(sys.argv[1:])
